"""The command line: `main`, the entry point, and the list of nouns.

One module a noun, `streamserve/cli/<noun>.py`, imported only when its noun is asked for, so that `--help`
and `lint` start without any client library. Such a module exposes either

- `app`, a `typer.Typer` with the noun's verbs (`topics plan`), or - `command`, a function whose parameters
are typer options (`lint`).

A module that is not there leaves its noun out. Commands raise: `StreamServeError` becomes one message and
its exit code, anything else a short message and 1 (the traceback comes with `-v`). Data goes to stdout, the
rest to stderr (`console`); options shared by commands are in `options`.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.core import TyperGroup

import streamserve
from streamserve.errors import ConfigError, StreamServeError

__all__ = ["EXIT_CODES", "NOUNS", "build_app", "main"]

NOUNS = {
    "init": "Make a pipeline folder from a model.",
    "lint": "Check a configuration and the files around it.",
    "config": "Show the configuration.",
    "topics": "Compare topics with a cluster, and make them so.",
    "run": "Run the workers of a pipeline.",
    "sidecar": "Watch a pipeline for drift, and serve the dashboard.",
    "produce": "Write events to a topic.",
    "tail": "Follow the predictions of a pipeline.",
    "dlq": "Look at dead letters and replay them.",
    "replay": "Score input records again with another version.",
    "cache": "Read and rebuild the prediction cache.",
    "model": "Keep, try and roll out the versions of a model.",
    "drift": "Measure drift: references, reports, other tools' figures.",
    "retrain": "Train when it is asked for, check, and roll out.",
    "demo": "Run a whole pipeline on this machine.",
}
"""Noun -> its line in `--help`; in this order."""

EXIT_CODES = {
    0: "success (a drain to the end included)",
    1: "runtime failure",
    2: "usage: unknown command or option",
    3: "changes pending, or a check not met",
    69: "a broker or the cache is unavailable",
    78: "the configuration is wrong",
    130: "a second SIGINT cut the drain short",
    143: "a second SIGTERM cut the drain short",
}
"""Contract: what the process ends with."""

_EPILOG = "Exit codes: " + " · ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items())


class _InOrder(TyperGroup):
    """Lists nouns in the order of `NOUNS`; typer would list verbs' groups after plain commands."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]  # the public name of it
        return [noun for noun in NOUNS if noun in super(_InOrder, self).list_commands(ctx)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit.

    Args:
        arguments: without the program's name; default those of the process.
    """
    arguments = _verbosity_first(sys.argv[1:] if arguments is None else arguments)
    try:
        build_app(_noun(arguments))(args=arguments, prog_name="streamserve")
    except StreamServeError as error:
        sys.exit(_report(error))
    except Exception as error:
        sys.exit(_report_unexpected(error))


def build_app(noun: str | None = None) -> typer.Typer:
    """The whole application.

    Args:
        noun: the only noun whose module is imported; the others are listed with their help alone. None
            imports all, as shell completion needs it.
    """
    app = typer.Typer(
        cls=_InOrder,
        help="Streaming inference workers on Kafka: micro-batches in, predictions out, exactly once.",
        epilog=_EPILOG,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_globals)
    for name, line in NOUNS.items():
        if importlib.util.find_spec(f"{__name__}.{name}") is None:
            continue
        if noun is not None and name != noun:
            app.command(name, help=line)(_not_loaded)
            continue
        module = importlib.import_module(f"{__name__}.{name}")
        if hasattr(module, "app"):
            app.add_typer(module.app, name=name, help=line, no_args_is_help=True)
        else:
            app.command(name, help=line)(module.command)
    return app


def verbosity() -> int:
    """What `-v` and `-q` add up to: 1 and more is verbose, -1 and less quiet."""
    return int(os.environ.get(_VERBOSITY, "0"))


# In the environment, so that worker processes inherit it.
_VERBOSITY = "_STREAMSERVE_VERBOSITY"
_VERBOSITY_OPTIONS = frozenset({"-v", "-vv", "--verbose", "-q", "-qq", "--quiet"})


def _show_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"streamserve {streamserve.__version__}\n")
        raise typer.Exit


def _globals(
    verbose: Annotated[int, typer.Option("-v", "--verbose", count=True, help="Say more; tracebacks on errors.")] = 0,
    quiet: Annotated[int, typer.Option("-q", "--quiet", count=True, help="Say less.")] = 0,
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    del version  # its callback has done the work
    level = verbose - quiet
    os.environ[_VERBOSITY] = str(level)
    logging.getLogger("streamserve").setLevel(
        logging.DEBUG if level > 0 else logging.ERROR if level < 0 else logging.INFO
    )


def _not_loaded() -> None:
    """Stands for a noun that this call does not use."""


def _verbosity_first(arguments: Sequence[str]) -> list[str]:
    """The arguments with `-v` and `-q` before the noun: people also write them at the end."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    ours = [argument for argument in arguments[:end] if argument in _VERBOSITY_OPTIONS]
    others = [argument for argument in arguments[:end] if argument not in _VERBOSITY_OPTIONS]
    return [*ours, *others, *arguments[end:]]


def _noun(arguments: Sequence[str]) -> str | None:
    """The noun in the arguments: the first that is no option; `` for none, None when all must be loaded."""
    if any(name.endswith("_COMPLETE") and "STREAMSERVE" in name for name in os.environ):
        return None
    return next((argument for argument in arguments if not argument.startswith("-")), "")


def _report(error: StreamServeError) -> int:
    from streamserve.cli.console import say
    from streamserve.config.masking import mask_text

    problems = error.problems if isinstance(error, ConfigError) else [error]
    for problem in problems:
        say(f"error: {mask_text(str(problem))}", "red")
    if len(problems) > 1:
        say(f"{len(problems)} problems")
    _trace()
    return error.exit_code


def _report_unexpected(error: Exception) -> int:
    from streamserve.cli.console import say
    from streamserve.config.masking import mask_text

    text = mask_text(str(error)).strip()
    say(f"error: {type(error).__name__}" + (f": {text}" if text else ""), "red")
    if verbosity() <= 0:
        say("this is a bug or a broken environment; -v shows where it happened")
    _trace()
    return 1


def _trace() -> None:
    if verbosity() > 0:
        import traceback

        from streamserve.config.masking import mask_text

        sys.stderr.write(mask_text(traceback.format_exc()))
