"""`streamserve model`: what lies in a model repository."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypedDict

import orjson
import typer

from streamserve.config.engine_settings import EngineSettings
from streamserve.engines import build_engine
from streamserve.errors import ConfigError, StreamServeError
from streamserve.ports import TensorSpec
from streamserve.registry.model import MODEL_FILE, ModelVersion
from streamserve.registry.repository import FolderRepository, read_version

app = typer.Typer(name="model", help="Look into model repositories.", no_args_is_help=True)


class Format(StrEnum):
    """How results are written."""

    TEXT = "text"
    JSON = "json"


class TensorReport(TypedDict):
    name: str
    dtype: str
    shape: list[int]


class Report(TypedDict):
    """What `inspect` says; the keys of its JSON."""

    name: str
    version: str
    path: str
    sha256: str
    size_bytes: int
    inputs: list[TensorReport]
    outputs: list[TensorReport]
    providers: list[str]
    metrics: dict[str, float]
    features: str
    created: str
    source: str


@app.callback()
def model() -> None:
    """Look into model repositories."""


@app.command()
def inspect(
    model: Annotated[str, typer.Argument(help="A model's name, its folder, or its .onnx file.")],
    repository: Annotated[Path, typer.Option(help="Folder of the repository.")] = Path("models"),
    version: Annotated[str, typer.Option(help="latest, a number, or an alias.")] = "latest",
    format: Annotated[Format, typer.Option(help="How to write it.")] = Format.TEXT,
) -> None:
    """Check a model and show its signature, provider, digest, metrics and size."""
    try:
        report = _report(_find(model, repository, version))
    except StreamServeError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code) from error
    if format is Format.JSON:
        sys.stdout.write(orjson.dumps(report, option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        sys.stdout.write(_text(report))


def _find(model: str, repository: Path, version: str) -> ModelVersion:
    """A model by its path, or by its name in the repository."""
    path = Path(model)
    if path.name == MODEL_FILE and path.is_file():
        path = path.parent
    if path.is_dir() and (path / MODEL_FILE).is_file():
        folder = path.resolve()
        return read_version(path, folder.parent.name if folder.name.isdigit() else folder.name, folder.name)
    return FolderRepository(repository).resolve(model, version)


def _report(found: ModelVersion) -> Report:
    """All there is to say about a version; the runtime loads it, so that a bad model is found out here."""
    try:
        engine = build_engine(found, EngineSettings(allow_cpu_fallback=True))
        providers = [engine.provider]
        engine.close()
    except ConfigError as error:
        typer.echo(f"note: {error}", err=True)
        providers = []
    return Report(
        name=found.name,
        version=found.version,
        path=found.path,
        sha256=found.sha256,
        size_bytes=found.size_bytes,
        inputs=[_tensor(spec) for spec in found.signature.inputs],
        outputs=[_tensor(spec) for spec in found.signature.outputs],
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
        "file": report["path"],
        "sha256": report["sha256"],
        "size": f"{report['size_bytes']:,} bytes",
        "inputs": side(report["inputs"]),
        "outputs": side(report["outputs"]),
        "provider": ", ".join(report["providers"]) or "none: no runtime installed",
        "metrics": ", ".join(f"{name} {value:g}" for name, value in report["metrics"].items()),
        "features": report["features"],
        "created": report["created"],
        "source": report["source"],
    }
    return "".join(f"{label:<9} {_printable(value)}\n" for label, value in lines.items() if value)


def _printable(text: str) -> str:
    """Text from a file, unable to steer a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
