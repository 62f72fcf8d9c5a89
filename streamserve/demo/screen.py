"""What the demo shows while it runs: a live page on a terminal, a line every few seconds elsewhere.

A `Frame` is one moment in plain values; `page` and `line` turn it into something to print. The newest
predictions scroll: each frame adds one, so that a row stays long enough to be read at thousands a second.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from streamserve.demo.ledger import Percentiles

LINE_EVERY_S = 3.0
FRAMES_PER_S = 4
BAR_CELLS = 12
FIXED_LINES = 17
"""Lines of the page, and of the steps above it, that are no predictions."""
FEWEST_ROWS, MOST_ROWS = 3, 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One prediction: will this flight arrive more than 15 minutes late?"""

    flight: str
    day: str
    route: str
    dep_delay_min: int
    probability: float
    late: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One moment of a run.

    Attributes:
        state: what goes on, in words.
        over: nothing more is sent.
        rate_in, rate_out: events a second over the last moments; when it is over, over the whole run.
        drift: what the sidecar says, in words; empty without one.
    """

    state: str
    over: bool
    elapsed_s: float
    sent: int
    predictions: int
    dead_letters: int
    lag: int
    rate_in: float
    rate_out: float
    latency: Percentiles | None
    newest: Row | None
    newest_dead_letter: str
    drift: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What stays the same during a run."""

    title: str
    place: str
    metrics: str


class Screen(Protocol):
    """Shows frames; a context manager."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def show(self, frame: Frame) -> None:
        """Show this moment instead of the last."""


def screen(console: Console, header: Header) -> Screen:
    """A live page if `console` is a terminal that can, else lines."""
    if console.is_terminal and not console.is_dumb_terminal:
        return LivePage(console, header)
    return Lines(console, header)


class LivePage:
    """A page that is drawn over itself; the last one stays."""

    def __init__(self, console: Console, header: Header) -> None:
        self._console = console
        self._header = header
        self._rows: deque[Row] = deque(maxlen=MOST_ROWS)
        self._live = Live(console=console, auto_refresh=False, vertical_overflow="crop")

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, frame: Frame) -> None:
        if frame.newest is not None and (not self._rows or self._rows[0] != frame.newest):
            self._rows.appendleft(frame.newest)
        room = max(FEWEST_ROWS, min(MOST_ROWS, self._console.height - FIXED_LINES))
        rows = list(self._rows)[:room]
        self._live.update(page(self._header, frame, rows, room, blocks=_blocks(self._console)), refresh=True)


class Lines:
    """A line now and then, for logs and pipes."""

    def __init__(self, console: Console, header: Header) -> None:
        self._console = console
        self._header = header
        self._next_s = 0.0
        self._drift = ""

    def __enter__(self) -> Self:
        for text in (self._header.title, self._header.place, f"metrics {self._header.metrics}"):
            self._console.print(text, markup=False)
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, frame: Frame) -> None:
        now_s = time.monotonic()
        if now_s >= self._next_s:
            self._next_s = now_s + LINE_EVERY_S
            self._console.print(line(frame), markup=False)
        if frame.drift != self._drift:
            self._drift = frame.drift
            self._console.print(f"drift {frame.drift}", markup=False)


def line(frame: Frame) -> str:
    """A frame in one line."""
    parts = [
        f"{frame.elapsed_s:5.0f} s {frame.state}",
        f"in {frame.rate_in:,.0f}/s",
        f"out {frame.rate_out:,.0f}/s",
        f"predictions {frame.predictions:,}",
        f"dead letters {frame.dead_letters}",
        f"lag {frame.lag:,}",
    ]
    if frame.latency is not None:
        parts.append(f"p50 {frame.latency.p50:.0f} ms p99 {frame.latency.p99:.0f} ms")
    return "  ".join(parts)


def page(header: Header, frame: Frame, rows: Sequence[Row], room: int, *, blocks: bool) -> RenderableType:
    """A frame as a page of `room` predictions."""
    return Group(
        Text(""),
        Text(header.title, style="bold", overflow="ellipsis", no_wrap=True),
        Text(header.place, overflow="ellipsis", no_wrap=True),
        Text(f"metrics {header.metrics}", style="dim", overflow="ellipsis", no_wrap=True),
        Text(frame.drift and f"drift {frame.drift}", overflow="ellipsis", no_wrap=True),
        Text(""),
        _figures(frame),
        Text(""),
        _predictions(rows, room, blocks=blocks),
        _dead_letter(frame),
        Text(_footer(frame), style="dim"),
    )


def _figures(frame: Frame) -> Table:
    table = Table.grid(padding=(0, 3, 0, 0))
    latency = frame.latency
    cells = [
        ("in", f"{frame.rate_in:>7,.0f}/s", "events", f"{frame.sent:,}", "p50", latency and latency.p50),
        ("out", f"{frame.rate_out:>7,.0f}/s", "predictions", f"{frame.predictions:,}", "p95", latency and latency.p95),
        ("lag", f"{frame.lag:>7,}  ", "dead letters", f"{frame.dead_letters:,}", "p99", latency and latency.p99),
    ]
    for _ in range(2):
        table.add_column(style="dim")
        table.add_column(justify="right")
    table.add_column(style="dim")
    table.add_column(justify="right")
    for rate, rate_text, total, total_text, percentile, value in cells:
        table.add_row(
            rate, rate_text, total, total_text, f"latency {percentile}", "-" if value is None else f"{value:.0f} ms"
        )
    return table


def _predictions(rows: Sequence[Row], room: int, *, blocks: bool) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name, width in (("flight", 7), ("day", 10), ("route", 10)):
        table.add_column(name, no_wrap=True, min_width=width)
    table.add_column("left", justify="right", no_wrap=True, min_width=9)
    table.add_column("arrives more than 15 min late?", no_wrap=True)
    for row in rows:
        style = "yellow" if row.late else ""
        delay = f"{row.dep_delay_min:+d} min"
        verdict = f"{_bar(row.probability, blocks=blocks)} {row.probability:4.0%}  {'late' if row.late else 'on time'}"
        table.add_row(row.flight, row.day, row.route, delay, Text(verdict, style=style))
    for _ in range(room - len(rows)):
        table.add_row("", "", "", "", "")
    return table


def _dead_letter(frame: Frame) -> Text:
    text = frame.newest_dead_letter and f"newest dead letter: {frame.newest_dead_letter}"
    return Text(text, style="red", overflow="ellipsis", no_wrap=True)


def _footer(frame: Frame) -> str:
    hint = "" if frame.over else " · Ctrl-C ends it with a summary"
    return f"{frame.state} · {frame.elapsed_s:.0f} s{hint}"


def _bar(share: float, *, blocks: bool) -> str:
    full = round(max(0.0, min(1.0, share)) * BAR_CELLS)
    on, off = ("█", "░") if blocks else ("#", ".")
    return on * full + off * (BAR_CELLS - full)


def _blocks(console: Console) -> bool:
    return console.encoding.lower().startswith("utf")
