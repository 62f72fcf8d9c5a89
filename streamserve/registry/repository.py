"""A repository of models in a folder: `<root>/<name>/<version>/{model.onnx, model.yaml, ...}`.

The adapter of `ports.ModelStore`. A version is a positive integer and never changes; `<name>/aliases.yaml`
maps an alias such as `stable` to one. Everything is checked on load (`version`) and written so that a reader
sees a version whole or not at all (`staging`). A folder with nothing but `model.onnx` works; then nothing was
promised and only the file itself is checked.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from streamserve.drift.reference import FILE as REFERENCE
from streamserve.drift.reference import Reference
from streamserve.errors import ModelNotFound, RegistryError
from streamserve.registry.download import described, download, is_url
from streamserve.registry.formats import RUNTIMES
from streamserve.registry.model import (
    MANIFEST,
    NAME,
    NUMBER,
    Manifest,
    ModelVersion,
    did_you_mean,
    is_alias,
    parse_aliases,
    pick_version,
    render_aliases,
    render_manifest,
)
from streamserve.registry.references import read_reference
from streamserve.registry.source import Source, read_source
from streamserve.registry.staging import locked, place, staged, sync, write
from streamserve.registry.version import (
    model_file,
    own_file,
    read_content,
    read_manifest,
    read_version,
    small_text,
    tensors,
)

ALIASES: Final = "aliases.yaml"
MAX_DOWNLOAD_BYTES: Final = 4 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One line of a listing: a version as its folder says, nothing of it checked.

    Attributes:
        version: its number.
        aliases: those that mean it.
        runtime: `onnx`, `torch`, or empty when it holds no model that is served.
        file: name of its model file; empty when there is none.
        size_bytes: of all files in its folder.
        created: when, ISO 8601; empty when unknown.
        source: where it came from, as its maker says.
        metrics: as its maker measured them.
        problem: why it cannot be used, as far as can be seen without reading it whole.
    """

    version: int
    aliases: tuple[str, ...]
    runtime: str = ""
    file: str = ""
    size_bytes: int = 0
    created: str = ""
    source: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    problem: str = ""


class FolderRepository:
    """Models in a folder.

    Args:
        root: the folder.
        custom_operators: models may need operators that ONNX Runtime lacks, because `engine.custom_ops` lists a
            library of them.
    """

    def __init__(self, root: str | Path, *, custom_operators: bool = False) -> None:
        self._root = Path(root)
        self._custom_operators = custom_operators

    def resolve(self, name: str, version: str) -> ModelVersion:
        """The version that `version` (`latest`, a number, an alias) means, all of it checked.

        Raises:
            ModelNotFound: there is no such model or version.
            ModelCorrupt: it is not what it promises, or of a kind that is not loaded.
        """
        number = pick_version(name, str(version), self.versions(name), self.aliases(name))
        return self._read(self._root / name / str(number), name, str(number))

    def names(self) -> list[str]:
        """Models that are there."""
        if not self._root.is_dir():
            return []
        return sorted(p.name for p in self._root.iterdir() if p.is_dir() and NAME.fullmatch(p.name))

    def versions(self, name: str) -> list[int]:
        """Versions of a model, ascending.

        Raises:
            ModelNotFound: there is no such model.
        """
        return _numbers(self._folder(name))

    def aliases(self, name: str) -> dict[str, int]:
        """Aliases of a model.

        Raises:
            ModelNotFound: there is no such model.
            ModelCorrupt: `aliases.yaml` makes no sense.
        """
        return _aliases(self._folder(name))

    def listing(self, name: str) -> list[Listed]:
        """The versions of a model, ascending, by their folders alone: quick, and nothing is checked.

        Raises:
            ModelNotFound: there is no such model.
            ModelCorrupt: `aliases.yaml` makes no sense.
        """
        aliases = self.aliases(name)
        return [
            _listed(self._root / name / str(number), tuple(sorted(a for a, n in aliases.items() if n == number)))
            for number in self.versions(name)
        ]

    def push(
        self,
        name: str,
        source: str | Path,
        *,
        trust: bool = False,
        alias: str | None = None,
        version: int | None = None,
        metrics: Mapping[str, float] | None = None,
        created_from: str = "",
        max_bytes: int = MAX_DOWNLOAD_BYTES,
    ) -> ModelVersion:
        """Add a version: copied, checked, and then there at once and whole, or not at all.

        Args:
            name: the model; made when it is new.
            source: a model file, the folder of a version, an MLflow directory, or the URL of one of these.
            trust: a torch archive, which is code, may be loaded from now on.
            alias: an alias that shall mean the new version.
            version: its number; default the next free one. The same content may be pushed under it again.
            metrics: name -> value, added to those of the source.
            created_from: where it came from, free text; default what the source says, or its path or URL.
            max_bytes: most that is fetched from a URL.

        Returns:
            The version as `resolve` gives it.

        Raises:
            ConfigError: the source is a URL and its client is not installed.
            ModelNotFound: the source is not there or holds no model.
            ModelCorrupt: it is of a kind that is not loaded, or is not what it promises.
            RegistryError: the number is taken by other content, or a name is no name.
        """
        _check_names(name, alias, version)
        origin = _origin(source)
        with _writing(self._root), staged(self._root) as stage:
            path = _fetched(source, stage, max_bytes)
            folder = stage / "version"
            folder.mkdir()
            with _as_named({path: origin}):
                found = read_source(path)
            with _as_named({folder / found.name: str(found.model), folder: str(found.model.parent), path: origin}):
                text = created_from or found.manifest.source or origin
                _assemble(found, folder, trust=trust, metrics=metrics or {}, source=text)
                self._read(folder, name, "")
            with locked(self._root):
                number = self._place(folder, name, version, alias)
        return self.resolve(name, str(number))

    def set_alias(self, name: str, alias: str, version: int) -> None:
        """Let an alias mean a version from now on.

        Raises:
            ModelNotFound: there is no such model or version.
            RegistryError: it cannot be an alias.
        """
        _check_names(name, alias, version)
        pick_version(name, str(version), self.versions(name), {})
        with _writing(self._root), locked(self._root):
            _write_aliases(self._root / name, self.aliases(name) | {alias: version})

    def _read(self, folder: Path, name: str, version: str) -> ModelVersion:
        return read_version(folder, name, version, custom_operators=self._custom_operators)

    def _place(self, folder: Path, name: str, wanted: int | None, alias: str | None) -> int:
        """Put a version where readers look, under its number and alias. The lock is held."""
        home = self._root / name
        with contextlib.suppress(FileExistsError):
            home.mkdir()
            sync(self._root)
        aliases = _aliases(home)
        number = wanted or max(_numbers(home), default=0) + 1
        target = home / str(number)
        if not target.exists():
            _adopt_reference(folder, name, str(number))
            place(folder, target)
        elif _content(folder) != _content(target):
            raise RegistryError(
                f"{name} {number} exists and is another model: a version never changes; push without a number for"
                " the next free one",
                model=name,
                version=str(number),
            )
        if alias is not None:
            _write_aliases(home, aliases | {alias: number})
        return number

    def _folder(self, name: str) -> Path:
        folder = self._root / name
        if NAME.fullmatch(name) and folder.is_dir():
            return folder
        names = self.names()
        if not self._root.is_dir():
            there = "the folder does not exist"
        else:
            there = f"there are {', '.join(names)}" if names else "it is empty"
        raise ModelNotFound(
            f"no model {name!r} in repository {self._root}: {there}{did_you_mean(name, names)}", model=name
        )


def _check_names(name: str, alias: str | None, version: int | None) -> None:
    if not NAME.fullmatch(name):
        raise RegistryError(f"{name!r} cannot be a model's name: use a to z, 0 to 9, `.` and `-`")
    if alias is not None and not is_alias(alias):
        raise RegistryError(f"{alias!r} cannot be an alias: it must be a name, not `latest` and not a number")
    if version is not None and not NUMBER.fullmatch(str(version)):
        raise RegistryError(f"{version} cannot be a version: versions are numbers from 1 on")


def _numbers(folder: Path) -> list[int]:
    return sorted(int(p.name) for p in folder.iterdir() if NUMBER.fullmatch(p.name) and p.is_dir())


def _aliases(folder: Path) -> dict[str, int]:
    if not (folder / ALIASES).exists():
        return {}
    path = own_file(folder, ALIASES)
    return parse_aliases(small_text(path), str(path))


def _write_aliases(folder: Path, aliases: Mapping[str, int]) -> None:
    write(folder / ALIASES, render_aliases(aliases))


def _fetched(source: str | Path, stage: Path, max_bytes: int) -> Path:
    """The source as a path; a URL is fetched into the stage."""
    if not is_url(source):
        return Path(source).absolute()
    folder = stage / "source"
    folder.mkdir()
    return download(str(source), folder, max_bytes=max_bytes)


def _origin(source: str | Path) -> str:
    return described(str(source)) if is_url(source) else str(Path(source).absolute())


@contextlib.contextmanager
def _writing(root: Path) -> Iterator[None]:
    """A repository that cannot be written to is told as such."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise RegistryError(f"repository {root} cannot be written to: {error}") from error


@contextlib.contextmanager
def _as_named(names: Mapping[Path, str]) -> Iterator[None]:
    """Errors speak of what the caller named, not of copies in the stage. Every path is absolute."""
    try:
        yield
    except RegistryError as error:
        text = str(error)
        for path, shown in names.items():
            text = text.replace(str(path), shown)
        error.args = (text,)
        raise


def _assemble(found: Source, folder: Path, *, trust: bool, metrics: Mapping[str, float], source: str) -> None:
    """Write the folder of a version: copies of its files, and the `model.yaml` that pins them."""
    stated = found.manifest
    digests = found.copy_to(folder)
    runtime = RUNTIMES[found.name]
    manifest = msgspec.structs.replace(
        stated,
        # A drift reference may be made anew for a version that stays as it is; it carries its own hash.
        files={name: digest for name, digest in digests.items() if name != REFERENCE},
        runtime=runtime,
        trusted=trust and runtime == "torch",
        metrics={**stated.metrics, **metrics},
        created=stated.created or datetime.now(UTC).isoformat(timespec="seconds"),
        source=source,
    )
    if runtime == "onnx":
        content = read_content(folder / found.name)
        manifest = msgspec.structs.replace(
            manifest,
            inputs=stated.inputs or tensors(content.signature.inputs),
            outputs=stated.outputs or tensors(content.signature.outputs),
            operators=tuple(sorted({domain for domain, _ in content.custom})),
        )
    write(folder / MANIFEST, render_manifest(manifest))


def _adopt_reference(folder: Path, name: str, version: str) -> None:
    """A drift reference says whose it is: from now on this version's."""
    reference = read_reference(folder / REFERENCE)
    if reference is not None:
        document = msgspec.structs.replace(reference.document, model=name, version=version)
        (folder / REFERENCE).write_bytes(Reference.of(document).to_json())
        sync(folder / REFERENCE)


def _content(folder: Path) -> tuple[dict[str, str], bool]:
    """What must be equal for two versions to be the same: their files, and whether they are trusted."""
    manifest = read_manifest(folder) or Manifest()
    return manifest.files, manifest.trusted


def _listed(folder: Path, aliases: tuple[str, ...]) -> Listed:
    number = int(folder.name)
    try:
        model = model_file(folder)
        manifest = read_manifest(folder) or Manifest()
    except (RegistryError, OSError) as error:
        return Listed(version=number, aliases=aliases, problem=str(error))
    return Listed(
        version=number,
        aliases=aliases,
        runtime=RUNTIMES[model.name],
        file=model.name,
        size_bytes=sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file()),
        created=manifest.created,
        source=manifest.source,
        metrics=manifest.metrics,
    )
