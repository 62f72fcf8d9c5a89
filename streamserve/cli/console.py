"""Where the command line writes: data on stdout, everything else on stderr, colours only for a terminal.

Rich is imported when something is printed by it, never before; `NO_COLOR` and a pipe turn colours off.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def stdout() -> Console:
    """A console for data."""
    from rich.console import Console

    return Console(soft_wrap=True, highlight=False)


def stderr() -> Console:
    """A console for messages."""
    from rich.console import Console

    return Console(stderr=True, soft_wrap=True, highlight=False)


def emit_json(value: object) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def say(message: str, style: str = "") -> None:
    """A line on stderr, as it is: no markup is looked for in it."""
    stderr().print(message, style=style, markup=False)


def show(message: str, style: str = "") -> None:
    """A line of data on stdout, as it is."""
    stdout().print(message, style=style, markup=False)


def show_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table on stdout: straight columns, without lines, nothing cut off, whatever the terminal's width."""
    cells = [list(columns), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for number, row in enumerate(cells):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        show(line, style="bold" if number == 0 else "")
