"""Rows gathered for a reference, in bounded memory: the newest by event time stay."""

from __future__ import annotations

import numpy as np

from streamserve.batch import I64
from streamserve.cli.drift_scoring import ScoredRows
from streamserve.drift.chunk import SampledColumn
from streamserve.drift.learner import joined
from streamserve.drift.levels import kept

DEFAULT_ROWS = 1_000_000
SLACK = 1.25
"""So many times the limit is held before the oldest rows are let go: sorting them out costs time."""


class RowStore:
    """Collects rows.

    Args:
        limit: most rows that are kept in the end.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: list[ScoredRows] = []
        self._held = 0
        self.seen = 0

    def add(self, rows: ScoredRows) -> None:
        """Take in rows, in any order of time."""
        if not len(rows):
            return
        self.seen += len(rows)
        self._held += len(rows)
        self._parts.append(rows)
        if self._held > self._limit * SLACK:
            self._cut()

    def all(self) -> ScoredRows:
        """The newest rows, by event time ascending, all of the coarsest level; the store is empty after that."""
        level = max((part.level for part in self._parts), default=0)
        self._parts = [_of_level(part, level) for part in self._parts]
        self._held = sum(map(len, self._parts))
        self._cut()
        columns: dict[str, SampledColumn] = {}
        counts = [len(part) for part in self._parts]
        times = self._times()
        labels = [label for part in self._parts for label in part.labels]
        left = [dict(part.columns) for part in self._parts]
        self._parts, self._held = [], 0
        # One column at a time: both forms of all of them would take twice the memory.
        for name in list(dict.fromkeys(name for part in left for name in part)):
            columns |= joined([{name: part.pop(name)} if name in part else {} for part in left], counts)
        rows = ScoredRows(columns=columns, event_time_ms=times, labels=labels, level=level)
        return rows if (np.diff(times) >= 0).all() else rows.pick(np.argsort(times, kind="stable"))

    def _times(self) -> I64:
        return np.concatenate([np.zeros(0, np.int64), *(part.event_time_ms for part in self._parts)])

    def _cut(self) -> None:
        """Let the oldest rows beyond the limit go; of rows of one time the first ones read."""
        over = self._held - self._limit
        if over <= 0:
            return
        keep = np.ones(self._held, dtype=np.bool_)
        keep[np.argsort(self._times(), kind="stable")[:over]] = False
        bounds = np.cumsum([len(part) for part in self._parts])[:-1]
        parts = zip(self._parts, np.split(keep, bounds), strict=True)
        self._parts = [part.take(inside) for part, inside in parts if inside.any()]
        self._held = self._limit


def _of_level(rows: ScoredRows, level: int) -> ScoredRows:
    """The rows that belong to a coarser level too."""
    if rows.draws is None or rows.level == level:
        return rows if rows.level == level else rows.pick(np.zeros(0, np.int64))
    inside = np.zeros(len(rows), dtype=np.bool_)
    inside[kept(rows.draws, level)] = True
    return rows.take(inside)
