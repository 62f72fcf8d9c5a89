"""The stop on too many rejects: a bad deployment must not drain a topic into its dead-letter topic.

While several versions score, the stable one (or the control) stands for all: of records that went to the others it is
taken to reject the same share. What a candidate rejects is left to the guard, which ends the candidate and not the
pipeline.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from streamserve.errors import TooManyRejects


class Tally(NamedTuple):
    """What became of records.

    Attributes:
        records: how many there were.
        refused: rejected before any version had them.
        scored: how many of the others the stable version had.
        rejects: how many of these it rejected.
    """

    records: int = 0
    refused: int = 0
    scored: int = 0
    rejects: int = 0

    def plus(self, other: Tally, sign: int = 1) -> Tally:
        """Both together, or without the other (sign -1)."""
        return Tally(*(own + sign * more for own, more in zip(self, other, strict=True)))

    @property
    def expected(self) -> float:
        """How many would have been rejected, had the stable version had them all."""
        return self.refused + ((self.records - self.refused) * self.rejects / self.scored if self.scored else 0)


class RejectRatio:
    """Watches the share of rejects among the latest records.

    Args:
        max_ratio: a larger share raises.
        window: records over which the share is taken; nothing is judged before so many were seen.
    """

    def __init__(self, max_ratio: float, window: int) -> None:
        self._max_ratio = max_ratio
        self._window = window
        self._batches: deque[Tally] = deque()
        self._sum = Tally()

    def add(self, batch: Tally) -> None:
        """Count a batch. Raises: TooManyRejects when the share over the window is too large."""
        self._batches.append(batch)
        self._sum = self._sum.plus(batch)
        while self._sum.records - self._batches[0].records >= self._window:
            self._sum = self._sum.plus(self._batches.popleft(), -1)
        records, expected = self._sum.records, self._sum.expected
        if records >= self._window and expected > self._max_ratio * records:
            raise TooManyRejects(
                f"{expected:.0f} of the last {records} records were rejected, more than dead_letter.max_ratio"
                f" ({self._max_ratio:g}) allows; this batch was not committed. `streamserve dlq ls` shows the reasons;"
                " mend the events, the features or the model, or raise the ratio"
            )
