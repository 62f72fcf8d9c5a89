"""`streamserve model inspect`: one version, checked and loaded as a worker would."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, TypedDict

import typer

from streamserve.cli.console import emit_json, say
from streamserve.cli.model_list import size
from streamserve.cli.model_options import ConfigurationOption, Place, RepositoryOption, find_place
from streamserve.cli.options import Format, FormatOption
from streamserve.cli.record_text import printable
from streamserve.config.engine_settings import EngineSettings
from streamserve.config.pinned import pinned_file
from streamserve.engines import build_engine
from streamserve.errors import ConfigError
from streamserve.ports import TensorSpec
from streamserve.registry.formats import RUNTIMES
from streamserve.registry.model import ModelVersion
from streamserve.registry.version import read_version


class TensorReport(TypedDict):
    name: str
    dtype: str
    shape: list[int]


class Report(TypedDict):
    """What `inspect` says; the keys of its JSON."""

    name: str
    version: str
    aliases: list[str]
    path: str
    runtime: str
    trusted: bool
    sha256: str
    size_bytes: int
    inputs: list[TensorReport]
    outputs: list[TensorReport]
    operators: list[str]
    providers: list[str]
    metrics: dict[str, float]
    features: str
    created: str
    source: str


def inspect(
    model: Annotated[str, typer.Argument(help="A model's name, a version's folder, or the model file in it.")],
    repository: RepositoryOption = None,
    config: ConfigurationOption = None,
    version: Annotated[str, typer.Option(help="latest, a number, or an alias.")] = "latest",
    format: FormatOption = Format.TEXT,
) -> None:
    """Check a model and show its signature, provider, digest, metrics and size."""
    place = find_place(repository, config)
    found, aliases = _find(model, place, version)
    report = _report(found, aliases, place.engine)
    if format is Format.JSON:
        emit_json(report)
    else:
        sys.stdout.write(_text(report))


def _find(model: str, place: Place, version: str) -> tuple[ModelVersion, list[str]]:
    """A version by its path, or by its name in the repository; with its aliases."""
    path = Path(model)
    if path.name in RUNTIMES and path.is_file():
        path = path.parent
    if path.is_dir() and any((path / name).is_file() for name in RUNTIMES):
        folder = path.resolve()
        name = folder.parent.name if folder.name.isdigit() else folder.name
        return read_version(path, name, folder.name, custom_operators=bool(place.engine.custom_ops)), []
    found = place.repository.resolve(model, version)
    aliases = place.repository.aliases(model).items()
    return found, sorted(alias for alias, number in aliases if str(number) == found.version)


def _report(found: ModelVersion, aliases: list[str], settings: EngineSettings) -> Report:
    """All there is to say about a version; the runtime loads it, so that a bad model is found out here."""
    for library in settings.custom_ops:
        pinned_file(library.path, library.sha256)
    try:
        engine = build_engine(found, EngineSettings(allow_cpu_fallback=True, custom_ops=settings.custom_ops))
        providers = [engine.provider]
        engine.close()
    except ConfigError as error:
        say(f"note: {error}")
        providers = []
    return Report(
        name=found.name,
        version=found.version,
        aliases=aliases,
        path=found.path,
        runtime=found.runtime,
        trusted=found.manifest.trusted,
        sha256=found.sha256,
        size_bytes=found.size_bytes,
        inputs=[_tensor(spec) for spec in found.signature.inputs],
        outputs=[_tensor(spec) for spec in found.signature.outputs],
        operators=list(found.manifest.operators),
        providers=providers,
        metrics=found.manifest.metrics,
        features=found.manifest.features,
        created=found.manifest.created,
        source=found.manifest.source,
    )


def _tensor(spec: TensorSpec) -> TensorReport:
    return TensorReport(name=spec.name, dtype=spec.dtype, shape=list(spec.shape))


def _text(report: Report) -> str:
    def side(tensors: list[TensorReport]) -> str:
        return ", ".join(f"{t['name']} {t['dtype']}{t['shape']}" for t in tensors)

    lines = {
        "model": f"{report['name']} version {report['version']}",
        "alias": ", ".join(report["aliases"]),
        "file": report["path"],
        "sha256": report["sha256"],
        "file size": size(report["size_bytes"]),
        "runtime": report["runtime"] + (", trusted: its code runs when it is loaded" if report["trusted"] else ""),
        "inputs": side(report["inputs"]),
        "outputs": side(report["outputs"]),
        "operators": ", ".join(report["operators"]),
        "provider": ", ".join(report["providers"]) or "none: no runtime installed",
        "metrics": ", ".join(f"{name} {value:g}" for name, value in report["metrics"].items()),
        "features": report["features"],
        "created": report["created"],
        "source": report["source"],
    }
    return "".join(f"{label:<10} {printable(value)}\n" for label, value in lines.items() if value)
