"""Live rows until there are enough of them for a provisional reference.

Rows of one sampling level only: those of the level that has enough first. Memory is bounded by that number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import starmap

import numpy as np

from streamserve.drift.chunk import SampledColumn, TextColumn
from streamserve.drift.gathered import Rows

MIN_PANES = 30
Columns = Mapping[str, SampledColumn]


class Learner:
    """Collects rows.

    Args:
        rows: how many are enough.
        pane_s: they must come from at least `MIN_PANES` panes of this length, seconds.
    """

    def __init__(self, rows: int, pane_s: float) -> None:
        self._wanted = rows
        self._pane_ms = round(pane_s * 1000)
        self._kept: dict[int, list[Rows]] = {}
        self._panes: dict[int, set[int]] = {}

    @property
    def rows(self) -> int:
        """How many there are of the level that has most."""
        return max((sum(map(len, parts)) for parts in self._kept.values()), default=0)

    def add(self, rows: Rows) -> Rows | None:
        """Keep rows. Returns: all rows for the reference, once there are enough."""
        for level in np.unique(rows.level).tolist():
            mine = rows.take(np.flatnonzero(rows.level == level))
            self._panes.setdefault(level, set()).update(np.unique(mine.event_time_ms // self._pane_ms).tolist())
            parts = self._kept.setdefault(level, [])
            parts.append(mine)
            count = sum(map(len, parts))
            if count >= self._wanted and len(self._panes[level]) >= MIN_PANES:
                return _joined(parts)
            while count - len(parts[0]) > 2 * self._wanted:  # a slow pane clock: the newest rows will do
                count -= len(parts.pop(0))
        return None


def _joined(parts: Sequence[Rows]) -> Rows:
    """All rows in one; where they come from is left out."""
    return Rows(
        columns=joined([part.columns for part in parts], [len(part) for part in parts]),
        event_time_ms=np.concatenate([part.event_time_ms for part in parts]),
        level=np.concatenate([part.level for part in parts]),
        span=np.zeros(sum(map(len, parts)), dtype=np.int64),
        offset=np.concatenate([part.offset for part in parts]),
        spans=(),
        id=(),
    )


def joined(parts: Sequence[Columns], counts: Sequence[int]) -> dict[str, SampledColumn]:
    """Columns of several sets of rows one after the other; a column that a part lacks is missing there."""
    names = list(dict.fromkeys(name for part in parts for name in part))
    return {name: _join([part.get(name) for part in parts], counts) for name in names}


def _join(columns: Sequence[SampledColumn | None], counts: Sequence[int]) -> SampledColumn:
    if any(isinstance(column, TextColumn) for column in columns):
        texts = list(starmap(_texts, zip(columns, counts, strict=True)))
        return TextColumn.of([text for part in texts for text in part])
    shapes = {column.shape[1:] for column in columns if isinstance(column, np.ndarray)}
    width = min(shapes)
    parts = []
    for column, count in zip(columns, counts, strict=True):
        if isinstance(column, np.ndarray) and column.shape[1:] == width:
            parts.append(column)
        else:
            parts.append(np.full((count, *width), np.nan))
    return np.concatenate(parts)


def _texts(column: SampledColumn | None, count: int) -> list[str | None]:
    if column is None:
        return [None] * count
    if isinstance(column, TextColumn):
        return column.texts()
    return [str(value) for value in column.ravel()[:count].tolist()]
