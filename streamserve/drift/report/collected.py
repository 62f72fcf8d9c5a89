"""The rows of a range, added up into one profile."""

from __future__ import annotations

import numpy as np

from streamserve.batch import I64
from streamserve.drift.cells import Cells
from streamserve.drift.gathered import Rows
from streamserve.drift.panes import Pane
from streamserve.drift.profile import Moments, Profile
from streamserve.drift.reference import Reference
from streamserve.drift.segments import ALL, Segments


class Collected:
    """Adds rows up; memory does not grow with them.

    Args:
        reference: whose cells are counted.
        segments: where `segment` is one of.
        segment: the only rows that count; empty for all.
    """

    def __init__(self, reference: Reference, segments: Segments, segment: str = ALL) -> None:
        self._cells = Cells(reference.columns)
        self._segments = segments
        self._segment = segment
        self.pane = Pane.merged((), len(reference.columns))
        self.first_ms: int | None = None
        self.last_ms: int | None = None

    def add(self, rows: Rows) -> None:
        """Take in rows."""
        members = dict(self._segments.of(rows.columns, len(rows))).get(self._segment)
        if members is None or not len(members):
            return
        rows = rows.take(members)
        codes, values = self._cells.of(rows.columns, len(rows))
        part = Pane(Profile.of(codes, rows.level), Moments.of(values, np.ldexp(1.0, rows.level)))
        part.spans = _spans(rows)
        self.pane.add(part)
        first, last = int(rows.event_time_ms.min()), int(rows.event_time_ms.max())
        self.first_ms = first if self.first_ms is None else min(self.first_ms, first)
        self.last_ms = last if self.last_ms is None else max(self.last_ms, last)


def _spans(rows: Rows) -> dict[tuple[str, int], tuple[int, int]]:
    """Source partition -> first offset of these rows, and the position after the last."""
    found: dict[tuple[str, int], tuple[int, int]] = {}
    for number in np.unique(rows.span).tolist():
        offsets: I64 = rows.offset[rows.span == number]
        source = rows.spans[number]
        low, high = int(offsets.min()), int(offsets.max()) + 1
        before = found.get((source.topic, source.partition), (low, high))
        found[source.topic, source.partition] = (min(low, before[0]), max(high, before[1]))
    return found
