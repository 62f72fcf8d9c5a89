"""`streamserve lint`: everything that is wrong with a configuration, before anything starts.

Connects to nothing. Where the model is in its repository, it is read, never run, and held against the configuration.
Ends with 78 on errors, with 3 on warnings when `--strict` is given.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from streamserve.cli.console import emit_json, say, show
from streamserve.cli.options import (
    DEFAULT_CONFIG,
    ConfigOption,
    Format,
    FormatOption,
    SetOption,
    parse_set,
)
from streamserve.config.lint import Issue, lint
from streamserve.config.loading import LoadedConfig, load
from streamserve.config.masking import mask_text
from streamserve.errors import ConfigError, ContractError, ModelNotFound, Problem, RegistryError

_OPENINGS = {
    "engine.fallback": ("engine", "fallback"),
    "output.post": ("output", "post"),
    "The output settings": ("output",),
    "The features": ("features",),
}
"""How errors of what does not fit the model begin -> where the configuration says it."""


def command(
    config: ConfigOption = DEFAULT_CONFIG,
    set_: SetOption = None,
    format: FormatOption = Format.TEXT,
    *,
    strict: Annotated[bool, typer.Option("--strict", help="End with 3 when there are warnings.")] = False,
) -> None:
    """Check a configuration and the files around it."""
    try:
        loaded = load(config, parse_set(set_))
        issues = lint(loaded)
        if not any(issue.severity == "error" for issue in issues):
            issues = [*model_issues(loaded), *issues]
    except ConfigError as error:
        issues = [Issue(problem=problem, severity="error") for problem in error.problems]
    if format is Format.JSON:
        emit_json([_as_json(issue) for issue in issues])
    else:
        for issue in issues:
            show(mask_text(str(issue)), "red" if issue.severity == "error" else "yellow")
    errors = sum(issue.severity == "error" for issue in issues)
    warnings = len(issues) - errors
    summary = f"{_counted(errors, 'error')}, {_counted(warnings, 'warning')}" if issues else "no mistakes found"
    say(f"{config}: {summary}")
    if errors:
        raise typer.Exit(ConfigError.exit_code)
    if warnings and strict:
        raise typer.Exit(3)


def model_issues(loaded: LoadedConfig) -> Iterator[Issue]:
    """What a worker would find wrong between the configuration and its model; nothing where no version is there."""
    settings = loaded.settings
    folder = Path(settings.model.repository) / settings.model.name
    if not any(folder.glob("[1-9]*/model.*")):
        return
    from streamserve.composition.models import check_fit, resolve_model
    from streamserve.engines import RUNTIMES

    try:
        files = resolve_model(settings)
        check_fit(settings, files.signature)
    except ModelNotFound as error:
        yield Issue(problem=loaded.problem(("model", "version"), str(error)), severity="warning")
        return
    except RegistryError as error:
        yield Issue(problem=loaded.problem(("model", "version"), str(error)), severity="error")
        return
    except ContractError as error:
        yield Issue(problem=_unfit(loaded, str(error)), severity="error")
        return
    runtime, name = RUNTIMES[Path(files.path).suffix], Path(files.path).name
    if settings.engine.runtime not in ("auto", runtime):
        message = f"is {settings.engine.runtime}, but {name} of version {files.version} is for {runtime}"
        yield Issue(problem=loaded.problem(("engine", "runtime"), message, "engine.runtime: auto"), severity="error")
    if settings.engine.compile and runtime != "torch":
        message = f"has no effect: {name} of version {files.version} is no PyTorch model"
        yield Issue(problem=loaded.problem(("engine", "compile"), message), severity="warning")


def _unfit(loaded: LoadedConfig, error: str) -> Problem:
    """An error of `check_fit` at the key that it begins with."""
    for opening, path in _OPENINGS.items():
        if error.startswith(opening):
            return loaded.problem(path, error.removeprefix(opening).strip())
    return loaded.problem(("model",), error)


def _counted(count: int, word: str) -> str:
    return f"{count} {word}" + ("" if count == 1 else "s")


def _as_json(issue: Issue) -> dict[str, object]:
    problem = issue.problem
    return {
        "severity": issue.severity,
        "file": problem.file,
        "line": problem.line,
        "column": problem.column,
        "path": problem.path,
        "message": mask_text(problem.message),
        "hint": problem.hint,
    }
