"""The command line's reference, written from the commands: `docs/cli.md` is this text and nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from unittest import mock

TARGET = "docs/cli.md"
"""Where the text belongs, relative to the repository's root."""

_INTRODUCTION = """# Command line

<!-- Generated from streamserve/cli; changes are made there. -->

Data goes to stdout, logs and progress to stderr. `-v` and `-q` go with every command. `NO_COLOR` turns
colours off.
"""
_PLAIN = {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb", "TERMINAL_WIDTH": "100"}


def render() -> str:
    """The reference as Markdown, ending in a newline: the help of every command."""
    from typer.testing import CliRunner

    from streamserve.cli import EXIT_CODES, build_app

    app = build_app()
    app.rich_markup_mode = None  # plain text, the same on every terminal
    runner = CliRunner()
    parts = [_INTRODUCTION, "Exit codes:\n", "| code | meaning |\n|---|---|"]
    parts += [f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items()]
    with mock.patch.dict(os.environ, _PLAIN):
        for path in _commands(app):
            text = runner.invoke(app, [*path, "--help"], prog_name="streamserve").output
            lines = "\n".join(line.rstrip() for line in text.strip("\n").splitlines()).strip("\n")
            parts.append(f"\n## {' '.join(('streamserve', *path))}\n\n```text\n{lines}\n```")
    return "\n".join(parts) + "\n"


def _commands(app: object) -> Iterator[tuple[str, ...]]:
    """The path of every command, from the application's own group."""
    import typer.main

    from streamserve.cli import NOUNS

    def walk(command: object, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        yield path
        inner = getattr(command, "commands", {})
        for name in sorted(inner, key=list(NOUNS).index) if not path else inner:
            yield from walk(inner[name], (*path, name))

    yield from walk(typer.main.get_command(app), ())  # type: ignore[arg-type]  # a Typer
