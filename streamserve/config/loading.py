"""From file, environment and flags to settings: `load`.

Flag wins over environment, environment over file, file over default. Every mistake that one pass can find
is reported at once, with file, line and column or the name of the variable. Loading never connects to
anything and reads no file but the one it is given; secrets stay in their files (`secret_files`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path as FilePath
from typing import Literal

from pydantic import ValidationError

from streamserve.config import kafka_properties
from streamserve.config.document import Document, Path, Position, dotted, read_document
from streamserve.config.overrides import Override, from_environment, from_flags, put
from streamserve.config.secret_files import read_secret
from streamserve.config.settings import PipelineSettings
from streamserve.config.variables import expander
from streamserve.config.wording import Finding, findings
from streamserve.errors import ConfigError, Problem

__all__ = ["DEFAULT_FILE", "LoadedConfig", "Provenance", "load", "read_secret"]

DEFAULT_FILE = "streamserve.yaml"
MAX_FILE_BYTES = 1 << 20
Provenance = Literal["flag", "env", "file", "default"]
_FOLDER_KEYS: tuple[Path, ...] = (
    ("model", "repository"),
    ("state_dir",),
    ("hooks", "before", "path"),
    ("hooks", "after", "path"),
    ("cache", "password_file"),
    ("drift", "pii_key_file"),
    ("hooks", "before", "path"),
    ("hooks", "after", "path"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedConfig:
    """Settings, and where each of them comes from.

    Attributes:
        settings: checked, defaults filled in, paths absolute.
        path: the file they came from.
        positions: where each key stands in the file.
        origins: path of every value from outside the file -> the variable's name, or `flag`.
        provenance: dotted key -> where its value comes from, one entry a value in the settings.
    """

    settings: PipelineSettings
    path: FilePath
    positions: Mapping[Path, Position]
    origins: Mapping[Path, str] = field(default_factory=dict)
    provenance: Mapping[str, Provenance] = field(default_factory=dict)

    def problem(self, path: Path, message: str, hint: str = "") -> Problem:
        """A problem at the key `path`, with its line or the variable that set it."""
        return _located(Finding(path, message, hint), str(self.path), self.positions, self.origins)


def load(
    path: str | os.PathLike[str] = DEFAULT_FILE,
    overrides: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
) -> LoadedConfig:
    """Read a pipeline's configuration.

    Args:
        path: the YAML file.
        overrides: values of flags by dotted key, such as `{"engine.device": "cpu"}`.
        environ: variables for `${...}` and for `STREAMSERVE_...`; default the process's own.

    Raises:
        ConfigError: with every mistake found, in the order of the file.
    """
    file = FilePath(path)
    environ = os.environ if environ is None else environ
    document = read_document(_text(file), str(file), expander(environ))
    if document.data is None and document.problems:
        raise ConfigError(document.problems)
    if not isinstance(document.data, dict):
        what = "is empty" if document.data is None else "must hold a mapping of keys"
        raise ConfigError([Problem(message=f"the file {what}", file=str(file), hint="streamserve init makes one")])
    return _Loading(file, document, document.data).finish(environ, overrides or {})


class _Loading:
    """One run of `load`: the tree of values, and the notes on it."""

    def __init__(self, file: FilePath, document: Document, data: dict[str, object]) -> None:
        self._file = file
        self._data = data
        self._keys = dict(document.keys)
        self._values = dict(document.values)
        self._problems = list(document.problems)
        self._origins: dict[Path, str] = {}
        self._sources: dict[Path, Provenance] = {}

    def finish(self, environ: Mapping[str, str], flags: Mapping[str, str]) -> LoadedConfig:
        # What the file got wrong stays out of validation, or one mistake would be told twice.
        broken = {problem.path for problem in self._problems}
        self._override("env", *from_environment(environ))
        self._override("flag", *from_flags(flags))
        self._resolve_paths()
        settings: PipelineSettings | None = None
        found: list[Finding] = []
        try:
            settings = PipelineSettings.model_validate(self._data)
        except ValidationError as error:
            found += findings(error.errors(include_url=False), self._data)
        found += self._kafka()
        self._problems += [
            _located(finding, str(self._file), self._keys, self._origins, self._values)
            for finding in found
            if dotted(finding.path) not in broken
        ]
        if self._problems or settings is None:
            raise ConfigError(sorted(self._problems, key=lambda p: (p.line or 1 << 30, p.column or 0)))
        return LoadedConfig(
            settings=settings,
            path=self._file,
            positions=self._keys,
            origins=self._origins,
            provenance=self._provenance(settings),
        )

    def _override(self, source: Provenance, overrides: list[Override], problems: list[Problem]) -> None:
        self._problems += problems
        for override in overrides:
            self._problems += put(self._data, override)
            self._origins = {
                path: origin for path, origin in self._origins.items() if path[: len(override.path)] != override.path
            }
            self._origins[override.path] = override.origin
            self._sources[override.path] = source

    def _resolve_paths(self) -> None:
        folder = self._file.absolute().parent
        for path in _FOLDER_KEYS:
            holder: object = self._data
            for part in path[:-1]:
                holder = holder.get(part) if isinstance(holder, dict) else None
            if isinstance(holder, dict) and isinstance(holder.get(path[-1]), str):
                holder[path[-1]] = str(folder / holder[path[-1]])
        drift = self._data.get("drift")
        webhooks = drift.get("webhooks") if isinstance(drift, dict) else None
        for webhook in webhooks if isinstance(webhooks, list) else ():
            if isinstance(webhook, dict) and isinstance(webhook.get("token_file"), str):
                webhook["token_file"] = str(folder / webhook["token_file"])
        engine = self._data.get("engine")
        libraries = engine.get("custom_ops") if isinstance(engine, dict) else None
        for library in libraries if isinstance(libraries, list) else ():
            if isinstance(library, dict) and isinstance(library.get("path"), str):
                library["path"] = str(folder / library["path"])
        model = self._data.get("model")
        if isinstance(model, dict):
            model.setdefault("repository", str(folder / "models"))
        block = self._data.get("kafka")
        if isinstance(block, dict):
            for name, value in block.items():
                if kafka_properties.is_file(name) and isinstance(value, str) and value != "probe":
                    block[name] = str(folder / value)

    def _kafka(self) -> Iterator[Finding]:
        block = self._data.get("kafka")
        if isinstance(block, dict):
            insecure = str(self._data.get("kafka_insecure_tls")).lower() in {"true", "1", "yes", "on"}
            for mistake in kafka_properties.check(block, insecure_tls=insecure):
                path: Path = ("kafka", mistake.name) if mistake.name else ("kafka",)
                yield Finding(path, mistake.message, mistake.hint)

    def _provenance(self, settings: PipelineSettings) -> dict[str, Provenance]:
        return {
            dotted(path): self._source(path) for path in _leaves(settings.model_dump(mode="json", by_alias=True), ())
        }

    def _source(self, path: Path) -> Provenance:
        for end in range(len(path), 0, -1):
            if path[:end] in self._sources:
                return self._sources[path[:end]]
        return "file" if path in self._keys else "default"


def _text(file: FilePath) -> str:
    try:
        with file.open("rb") as stream:
            raw = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        hint = "-c names another file, streamserve init makes one" if not file.exists() else ""
        raise ConfigError(
            [Problem(message=(error.strerror or "cannot be read").lower(), file=str(file), hint=hint)]
        ) from error
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigError([Problem(message="larger than 1 MiB", file=str(file))])
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError([Problem(message="not UTF-8 text", file=str(file), line=line)]) from error


def _located(
    finding: Finding,
    file: str,
    keys: Mapping[Path, Position],
    origins: Mapping[Path, str],
    values: Mapping[Path, Position] | None = None,
) -> Problem:
    """The finding as a problem, at the position of the innermost part of its path that has one."""
    path = finding.path
    problem = Problem(message=finding.message, path=dotted(path), hint=finding.hint, file=file)
    for end in range(len(path), 0, -1):
        if path[:end] in origins:
            return replace(problem, file=origins[path[:end]])
        place = keys.get(path[:end])
        if place is None:
            continue
        if end == len(path) and values is not None and "unknown" not in finding.message:
            place = values.get(path, place)
        return replace(problem, line=place.line, column=place.column)
    return problem


def _leaves(value: object, path: Path) -> Iterator[Path]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(inner, (*path, str(key)))
    elif isinstance(value, list) and value:
        for index, inner in enumerate(value):
            yield from _leaves(inner, (*path, index))
    else:
        yield path
