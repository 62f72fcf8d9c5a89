"""Which rows a drift command means: a slice of event time, source offsets, or both."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import typer

from streamserve.batch import I64, Bools
from streamserve.config.start_position import parse_start

MARGIN_MS = 3_600_000
"""Clocks of producers and brokers differ by less; records are looked for so far before and after a slice of time."""

SinceOption = Annotated[
    str | None,
    typer.Option("--since", metavar="TIME", help="Event time from here on: ISO, epoch milliseconds, or -5m (s m h d)."),
]
UntilOption = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Event time before this.")]
OffsetsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--offsets", metavar="TOPIC:PARTITION:FIRST-END", help="Source offsets, the end not included. Repeatable."
    ),
]

_AGO = re.compile(r"-(?P<number>\d+)(?P<unit>[smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_OFFSETS = re.compile(r"(?P<topic>[^:]+):(?P<partition>\d+):(?P<first>\d+)-(?P<end>\d+)")

Source = tuple[str, int]
Offsets = Mapping[Source, tuple[int, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Rows by event time and by source offset; what is None or empty does not limit.

    Attributes:
        since_ms, until_ms: event time, epoch milliseconds, the end not included.
        offsets: source partition -> first offset and the position after the last; other partitions are left out.
    """

    since_ms: int | None = None
    until_ms: int | None = None
    offsets: Offsets = field(default_factory=dict)

    def holds(self, event_time_ms: I64) -> Bools:
        """Which of these times lie in it, bool[n]."""
        inside = np.ones(len(event_time_ms), dtype=np.bool_)
        if self.since_ms is not None:
            inside &= event_time_ms >= self.since_ms
        if self.until_ms is not None:
            inside &= event_time_ms < self.until_ms
        return inside

    @property
    def reads_from_ms(self) -> int | None:
        """Time of a record from which on its rows can lie in it: none is written before its event, clocks aside."""
        return None if self.since_ms is None else max(self.since_ms - MARGIN_MS, 0)


def parse_range(since: str | None, until: str | None, offsets: Sequence[str] | None = None) -> Range:
    """The options as a value. Raises: typer.BadParameter."""
    found = Range(
        since_ms=_moment(since, "--since"),
        until_ms=_moment(until, "--until"),
        offsets=dict(_offsets(text) for text in offsets or ()),
    )
    if found.since_ms is not None and found.until_ms is not None and found.since_ms >= found.until_ms:
        raise typer.BadParameter("ends before it begins", param_hint="--since, --until")
    if len(found.offsets) < len(offsets or ()):
        raise typer.BadParameter("names a partition twice", param_hint="--offsets")
    return found


def _moment(text: str | None, option: str) -> int | None:
    if text is None:
        return None
    ago = _AGO.fullmatch(text)
    if ago is not None:
        return int((time.time() - int(ago["number"]) * _SECONDS[ago["unit"]]) * 1000)
    try:
        moment = parse_start(text)
    except ValueError:
        moment = "end"
    if isinstance(moment, str):
        raise typer.BadParameter(f"{text!r} is none of: -5m, 2026-01-31T12:00, epoch milliseconds", param_hint=option)
    return moment


def _offsets(text: str) -> tuple[Source, tuple[int, int]]:
    found = _OFFSETS.fullmatch(text)
    if found is None or int(found["first"]) >= int(found["end"]):
        raise typer.BadParameter(
            f"{text!r} is not TOPIC:PARTITION:FIRST-END, such as flights.departures:0:1000-2000",
            param_hint="--offsets",
        )
    return (found["topic"], int(found["partition"])), (int(found["first"]), int(found["end"]))
