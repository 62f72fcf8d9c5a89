"""`streamserve init`: a folder with a pipeline that lints, made from a model file and a sample event."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Annotated

import typer

from streamserve.cli import scaffold
from streamserve.cli.console import emit_json, say, show
from streamserve.cli.options import Format, FormatOption
from streamserve.config.base import NAME_PATTERN
from streamserve.config.lint import check
from streamserve.config.loading import load
from streamserve.config.schema import render as render_schema
from streamserve.errors import ContractError, StreamServeError

MAX_SAMPLE_BYTES = 1 << 20


def command(
    name: Annotated[str, typer.Argument(help="Name of the pipeline and of its model.")],
    model: Annotated[Path, typer.Option("--model", help="The model, an ONNX file.")],
    sample: Annotated[Path | None, typer.Option("--sample", help="A file with one event, a JSON object.")] = None,
    folder: Annotated[
        Path | None, typer.Option("--dir", help="Where to make it.  [default: a folder of that name here]")
    ] = None,
    format: FormatOption = Format.TEXT,
    *,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that exist.")] = False,
) -> None:
    """Make a pipeline folder: configuration, topics, schemas, model."""
    if not re.fullmatch(NAME_PATTERN, name):
        raise typer.BadParameter(
            "use lower-case letters, digits, `.` and `-`, with a letter or digit at both ends",
            param_hint="NAME",
        )
    target = folder or Path(name)
    from streamserve.registry.onnx_file import read_onnx

    if not model.is_file():
        raise typer.BadParameter(f"there is no file {model}", param_hint="--model")
    content = read_onnx(model)
    if content.external:
        raise ContractError(
            f"{model} keeps weights in other files ({', '.join(sorted(content.external)[:3])}): "
            "save it as one file, or put model and weights into a repository folder by hand (docs/models.md)"
        )
    made = scaffold.draft(content.signature, _sample(sample))
    texts = scaffold.files(name, made, content.signature) | {"streamserve.schema.json": render_schema()}
    model_path = target / "models" / name / "1" / "model.onnx"
    paths = [*(target / path for path in texts), model_path]
    existing = [str(path) for path in paths if path.exists()]
    if existing and not force:
        raise typer.BadParameter(
            f"{existing[0]} exists{f', and {len(existing) - 1} more' if len(existing) > 1 else ''}; --force overwrites",
            param_hint="NAME",
        )
    _write(target, texts, model, model_path)
    issues = check(load(target / "streamserve.yaml", environ={}))
    if format is Format.JSON:
        emit_json({"files": [str(path) for path in paths], "open_questions": list(made.open_questions)})
    else:
        for path in paths:
            show(str(path))
    for issue in issues:
        say(str(issue), "yellow")
    _next_steps(target, made.open_questions)


def _sample(path: Path | None) -> dict[str, object] | None:
    if path is None:
        return None
    try:
        with path.open("rb") as stream:
            event = json.loads(stream.read(MAX_SAMPLE_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise typer.BadParameter(f"cannot read {path} as JSON: {error}", param_hint="--sample") from error
    if not isinstance(event, dict):
        raise typer.BadParameter(f"{path} must hold one JSON object", param_hint="--sample")
    return event


def _write(target: Path, texts: dict[str, str], model: Path, model_path: Path) -> None:
    try:
        for path, text in texts.items():
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            (target / path).write_text(text, encoding="utf-8")
        model_path.parent.mkdir(parents=True, exist_ok=True)
        if not (model_path.exists() and model_path.samefile(model)):
            shutil.copyfile(model, model_path)
    except OSError as error:
        raise StreamServeError(f"cannot write {error.filename}: {(error.strerror or 'error').lower()}") from error


def _next_steps(target: Path, questions: tuple[str, ...]) -> None:
    for question in questions:
        say(f"look at: {question}", "yellow")
    say("next:")
    for step in ("streamserve lint", "streamserve topics apply", "streamserve run"):
        say(f"  {step} -c {target / 'streamserve.yaml'}")
