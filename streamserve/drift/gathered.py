"""Sampled rows of one model version, gathered into the panes of every window and segment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streamserve.batch import I64
from streamserve.config.drift_settings import LabelSettings
from streamserve.drift.cells import Cells, derived
from streamserve.drift.chunk import SampleChunk, SampledColumn, Span, TextColumn
from streamserve.drift.panes import Pane
from streamserve.drift.profile import Moments, Profile
from streamserve.drift.reference import Reference
from streamserve.drift.segments import ALL, Segments
from streamserve.drift.windows import Ring


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Rows in time, n of them.

    Attributes:
        columns: features and outputs, derived ones too.
        event_time_ms, level: int64[n].
        span, offset: where each is from: index into `spans`, offset.
        spans: source partitions.
        id: event ids.
    """

    columns: Mapping[str, SampledColumn]
    event_time_ms: I64
    level: I64
    span: I64
    offset: I64
    spans: Sequence[Span]
    id: Sequence[str]

    @staticmethod
    def of(chunk: SampleChunk, labels: LabelSettings | None) -> Rows:
        """All rows of a chunk, and what `labels` lets one derive from its outputs."""
        return Rows(
            columns=derived(chunk.columns, labels),
            event_time_ms=chunk.event_time_ms,
            level=chunk.level.astype(np.int64),
            span=chunk.span.astype(np.int64),
            offset=chunk.offset,
            spans=chunk.spans,
            id=chunk.id,
        )

    def __len__(self) -> int:
        return len(self.offset)

    def take(self, index: npt.NDArray[np.intp]) -> Rows:
        """Some of the rows, columns and all."""
        if len(index) == len(self):
            return self
        return Rows(
            columns={name: rows_of(column, index) for name, column in self.columns.items()},
            event_time_ms=self.event_time_ms[index],
            level=self.level[index],
            span=self.span[index],
            offset=self.offset[index],
            spans=self.spans,
            id=[self.id[i] for i in index.tolist()],
        )


def rows_of(column: SampledColumn, index: npt.NDArray[np.intp]) -> SampledColumn:
    """Some rows of a column."""
    if isinstance(column, TextColumn):
        return TextColumn(codes=column.codes[index], values=column.values)
    return column[index]


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """Records of a chunk beside its rows: how many, and how many were rejected for what."""

    at_ms: int
    consumed: int
    rejects: Counter[tuple[str, str]]


class Gathered:
    """Rings of panes for every window and segment.

    Args:
        reference: whose cells are counted.
        segments: which rows are counted on their own.
        pane_s: seconds.
        windows_s: seconds, the shortest first.
    """

    def __init__(self, reference: Reference, segments: Segments, pane_s: float, windows_s: Sequence[float]) -> None:
        self._cells = Cells(reference.columns)
        self._columns = len(reference.columns)
        self._segments = segments
        self._pane_ms = round(pane_s * 1000)
        self.rings: dict[tuple[float, str], Ring[Pane]] = {
            (window_s, name): Ring(window_s, pane_s) for window_s in windows_s for name in segments.names
        }

    def add(self, rows: Rows, newest_ms: int) -> None:
        """Put rows into their panes. Rows of panes that have left a ring are left out of that ring alone."""
        if not len(rows):
            return
        codes, values = self._cells.of(rows.columns, len(rows))
        pane = rows.event_time_ms // self._pane_ms
        for name, members in self._segments.of(rows.columns, len(rows)):
            numbers = pane[members]
            for number in np.unique(numbers).tolist():
                mine = members[numbers == number]
                part = Pane(Profile.of(codes[mine], rows.level[mine]))
                if name == ALL:
                    part.moments = Moments.of(values[mine], np.ldexp(1.0, rows.level[mine]))
                    part.spans = _spans(rows, mine)
                self._put(name, number, part, newest_ms)

    def add_volume(self, volume: Volume, newest_ms: int) -> None:
        """Count records of a chunk."""
        part = Pane(Profile.empty(self._columns), Moments.empty(self._columns))
        part.consumed = volume.consumed
        part.rejects = volume.rejects
        self._put(ALL, volume.at_ms // self._pane_ms, part, newest_ms)

    def window(self, window_s: float, segment: str, slot: int) -> Pane:
        """All rows of the window that ends with that slot."""
        return Pane.merged(self.rings[window_s, segment].window(slot), self._columns)

    def clear(self) -> None:
        """Forget all rows."""
        for ring in self.rings.values():
            ring.clear()

    def _put(self, segment: str, pane: int, part: Pane, newest_ms: int) -> None:
        for (_, name), ring in self.rings.items():
            if name == segment:
                ring.add(ring.slot_of(pane * self._pane_ms), part.copy(), ring.slot_of(newest_ms))


def _spans(rows: Rows, mine: I64) -> dict[tuple[str, int], tuple[int, int]]:
    found: dict[tuple[str, int], tuple[int, int]] = {}
    span, offset = rows.span[mine], rows.offset[mine]
    for number in np.unique(span).tolist():
        offsets = offset[span == number]
        source = rows.spans[number]
        low, high = int(offsets.min()), int(offsets.max()) + 1
        before = found.get((source.topic, source.partition))
        if before is not None:
            low, high = min(low, before[0]), max(high, before[1])
        found[source.topic, source.partition] = (low, high)
    return found
