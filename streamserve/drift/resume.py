"""From where the panes can be built again: what makes a restart exact.

For every offset of the samples topic at which a new pane began, what was known before it: the newest pane that any
earlier row fell into, and the marks. To have all rows of panes from p on, it is enough to read from the last such
offset before which no row fell into pane p or a later one.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from streamserve.drift.marks import MarksDocument


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumePoint:
    """State before a chunk.

    Attributes:
        offset: of the chunk in the samples topic.
        newest_pane: of all rows before it; -1 when there were none.
        marks: source positions before it, as `Marks.to_document` gives them.
        watermark_ms: before it.
        rows: sampled rows before it.
        recent: event times of the last rows before it.
    """

    offset: int
    newest_pane: int
    marks: MarksDocument
    watermark_ms: int | None
    rows: int
    recent: list[int]


class Resume:
    """The points that may still be needed.

    Args:
        step: panes between two points: fewer points, a little more to read again.
        point: where an earlier life would have resumed.
    """

    def __init__(self, step: int = 1, point: ResumePoint | None = None) -> None:
        self._step = step
        self._points: deque[ResumePoint] = deque([point] if point is not None else [])
        self._newest = point.newest_pane if point is not None else -1

    def note(self, point_before: ResumePoint, newest_pane: int) -> None:
        """A chunk was merged whose rows reach up to `newest_pane`; `point_before` is the state before it."""
        if not self._points or newest_pane > max(self._newest, self._points[-1].newest_pane + self._step - 1):
            self._points.append(point_before)
        self._newest = max(self._newest, newest_pane)

    @property
    def newest_pane(self) -> int:
        """The newest pane any row fell into; -1 before the first."""
        return self._newest

    def point(self, pane: int, *, rather: int, rows: int, most_rows: int) -> ResumePoint | None:
        """From where to read; forgets the points before it.

        Args:
            pane: all rows of this pane and later ones are needed.
            rather: rows of the panes from here on are wanted, as many as there may be.
            rows: sampled rows so far.
            most_rows: so many of them are wanted at most.
        """
        needed = self._last_before(pane)
        wanted = self._last_before(rather)
        while wanted < needed and rows - self._points[wanted].rows > most_rows:
            wanted += 1
        for _ in range(min(needed, wanted)):
            self._points.popleft()
        return self._points[0] if self._points else None

    def _last_before(self, pane: int) -> int:
        """Index of the last point before which no row fell into `pane` or a later one; 0 when there is none."""
        found = 0
        for i, each in enumerate(self._points):
            if each.newest_pane >= pane:
                break
            found = i
        return found
