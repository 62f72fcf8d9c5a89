"""`streamserve lint`: everything that is wrong with a configuration, before anything starts.

Connects to nothing. Ends with 78 on errors, with 3 on warnings when `--strict` is given.
"""

from __future__ import annotations

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
from streamserve.config.loading import load
from streamserve.config.masking import mask_text
from streamserve.errors import ConfigError


def command(
    config: ConfigOption = DEFAULT_CONFIG,
    set_: SetOption = None,
    format: FormatOption = Format.TEXT,
    *,
    strict: Annotated[bool, typer.Option("--strict", help="End with 3 when there are warnings.")] = False,
) -> None:
    """Check a configuration and the files around it."""
    try:
        issues = lint(load(config, parse_set(set_)))
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
