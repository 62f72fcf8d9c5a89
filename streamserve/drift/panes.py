"""What one slice of event time holds of one segment, and where it came from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

from streamserve.drift.profile import Moments, Profile

Source = tuple[str, int]


@dataclass(slots=True)
class Pane:
    """Rows of one slice.

    Attributes:
        profile: counts.
        moments: means and deviations of the numbers, for all rows only.
        spans: source partition -> first offset and the position after the last, of the rows in it.
        consumed: records, predicted or rejected, whether sampled or not.
        rejects: (feature, reason) -> records.
    """

    profile: Profile
    moments: Moments | None = None
    spans: dict[Source, tuple[int, int]] = field(default_factory=dict)
    consumed: int = 0
    rejects: Counter[tuple[str, str]] = field(default_factory=Counter)

    @classmethod
    def merged(cls, panes: Iterable[Pane], columns: int) -> Self:
        """All of these in one, a new one."""
        whole = cls(Profile.empty(columns), Moments.empty(columns))
        for pane in panes:
            whole.add(pane)
        return whole

    def add(self, other: Pane) -> None:
        """Take in another part."""
        self.profile.add(other.profile)
        if self.moments is not None and other.moments is not None:
            self.moments.merge(other.moments)
        for source, (first, end) in other.spans.items():
            mine = self.spans.get(source)
            self.spans[source] = (first, end) if mine is None else (min(mine[0], first), max(mine[1], end))
        self.consumed += other.consumed
        self.rejects.update(other.rejects)

    def copy(self) -> Self:
        """The same, to be added to on its own."""
        whole = type(self)(self.profile.copy(), spans=dict(self.spans), consumed=self.consumed)
        whole.rejects = Counter(self.rejects)
        if self.moments is not None:
            whole.moments = self.moments.copy()
        return whole

    def span_document(self) -> dict[str, dict[str, list[int]]]:
        """JSON: topic -> partition -> [first offset, position after the last]."""
        document: dict[str, dict[str, list[int]]] = {}
        for (topic, partition), (first, end) in sorted(self.spans.items()):
            document.setdefault(topic, {})[str(partition)] = [first, end]
        return document
