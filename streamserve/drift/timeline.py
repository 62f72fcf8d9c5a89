"""Event time under bad clocks: which rows belong to now, and how far the stream has come.

The watermark is the largest median event time of a chunk, and of small chunks that of the last `RECENT` rows: a few
wrong clocks do not move it. Rows ahead of
the worker's own clock by more than the slack are refused, rows older than the longest window are late. When nothing
but late rows comes for a while, it was the watermark that was wrong, and it starts again where the stream is.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from streamserve.batch import I64, Bools

RESET_ROWS = 1000
"""So many late rows, with none in time among them, show that the stream went back."""
FUTURE_SLACK_MS = 3_600_000
RECENT = 21
"""Rows whose median is the time, where a chunk has fewer."""


@dataclass(slots=True)
class Timeline:
    """Where a stream is in event time.

    Attributes:
        horizon_ms: rows older than the watermark less this are late.
        watermark_ms: how far it has come; None before the first row.
        late, future: rows refused.
        recent: event times of the last rows.
    """

    horizon_ms: int
    watermark_ms: int | None = None
    late: int = 0
    future: int = 0
    late_in_a_row: int = 0
    recent: list[int] = field(default_factory=list)

    def accept(self, times_ms: I64, wall_ms: int) -> tuple[Bools, bool]:
        """Which rows belong to now.

        Args:
            times_ms: int64[n], event times of a chunk.
            wall_ms: the writer's clock.

        Returns:
            bool[n], and whether the stream went back: what was gathered is of another time.
        """
        possible = times_ms <= wall_ms + FUTURE_SLACK_MS
        self.future += int(len(times_ms) - possible.sum())
        if not possible.any():
            return possible, False
        came_ms = self._came(times_ms[possible])
        went_back = False
        if self.watermark_ms is None:
            self.watermark_ms = came_ms
        late = possible & (times_ms < self.watermark_ms - self.horizon_ms)
        if late.sum() == possible.sum():
            self.late_in_a_row += int(late.sum())
            went_back = self.late_in_a_row >= RESET_ROWS
        else:
            self.late_in_a_row = 0
        if went_back:
            self.late_in_a_row = 0
            self.watermark_ms = came_ms
            late = possible & (times_ms < came_ms - self.horizon_ms)
        self.watermark_ms = max(self.watermark_ms, came_ms)
        self.late += int(late.sum())
        return possible & ~late, went_back

    def _came(self, times_ms: I64) -> int:
        """The lower median of these times, of at least as many of the last ones as there are."""
        n = len(times_ms)
        spread = times_ms if n <= RECENT else times_ms[np.linspace(0, n - 1, RECENT).astype(np.intp)]
        self.recent = [*self.recent, *spread.tolist()][-RECENT:]
        seen = times_ms if n >= RECENT else np.array(self.recent)
        return int(np.sort(seen)[(len(seen) - 1) // 2])
