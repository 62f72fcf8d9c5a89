"""`streamserve drift verify`: two files compared in the definitions of another tool.

Reads files and prints; connects to nothing. The figures come from `streamserve.drift.compat`.
"""

from __future__ import annotations

from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Annotated

import typer

from streamserve.cli.console import emit_json, say, show, show_table
from streamserve.cli.options import Format, FormatOption
from streamserve.cli.record_text import printable
from streamserve.drift.compat import Measure, Peer, PeerReport, Score, compare
from streamserve.drift.tables import read_table

_FILE = "CSV, NPZ, JSON lines (.jsonl) or parquet."


def verify(
    reference: Annotated[
        Path, typer.Argument(help=f"Rows taken as normal. {_FILE}", exists=True, dir_okay=False, readable=True)
    ],
    current: Annotated[
        Path, typer.Argument(help=f"Rows to compare. {_FILE}", exists=True, dir_okay=False, readable=True)
    ],
    compat: Annotated[Peer, typer.Option("--compat", help="Whose definitions to compute in.")],
    columns: Annotated[
        list[str] | None, typer.Option("--column", metavar="NAME", help="Compare this column only. Repeatable.")
    ] = None,
    categorical: Annotated[
        list[str] | None,
        typer.Option("--categorical", metavar="NAME", help="Take this column of numbers as categories. Repeatable."),
    ] = None,
    format: FormatOption = Format.TEXT,
) -> None:
    """Recompute another tool's drift scores from two files, to check figures against it."""
    normal, compared = (read_table(path).as_categorical(categorical or []) for path in (reference, current))
    report = compare(compat, normal, compared, columns or None)
    if format is Format.JSON:
        emit_json(_document(report))
    else:
        _print(report)


def _document(report: PeerReport) -> dict[str, object]:
    """The report as JSON; a number that is not finite is null there."""
    scores = [{key: _finite(value) for key, value in asdict(score).items()} for score in report.scores]
    return {**asdict(report), "scores": scores}


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not isfinite(value) else value


def _print(report: PeerReport) -> None:
    """Scores as a table, then what the measures mean; the measure that the peer picks by default has a star."""
    rows = [_row(score) for score in report.scores]
    show_table(("COLUMN", "MEASURE", "VALUE", "P", "THRESHOLD", "DRIFT", "NOTE"), rows)
    meanings: dict[Measure, str] = {score.measure: score.meaning for score in report.scores}
    show("")
    for measure, meaning in meanings.items():
        show(f"{measure:<18}  {meaning}", style="dim")
    if any(score.default for score in report.scores):
        show(f"{'*':<18}  {report.peer} picks this measure when it is told nothing", style="dim")
    rows_of_both = f"{report.reference_rows:,} reference rows, {report.current_rows:,} current rows"
    say(f"{report.peer} {report.version}: {rows_of_both}" + (f"; {report.verdict}" if report.verdict else ""))
    if report.left_out:
        say(f"left out: {', '.join(map(printable, report.left_out))}")


def _row(score: Score) -> tuple[str, ...]:
    return (
        printable(score.column),
        score.measure + ("*" if score.default else ""),
        _number(score.value),
        _number(score.p_value if score.p_value != score.value else None),
        _number(score.threshold),
        "" if score.drifted is None else "yes" if score.drifted else "no",
        score.note,
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
