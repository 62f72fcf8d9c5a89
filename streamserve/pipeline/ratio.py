"""The stop on too many rejects: a bad deployment must not drain a topic into its dead-letter topic."""

from __future__ import annotations

from collections import deque

from streamserve.errors import TooManyRejects


class RejectRatio:
    """Watches the share of rejects among the latest records.

    Args:
        max_ratio: a larger share raises.
        window: records over which the share is taken; nothing is judged before so many were seen.
    """

    def __init__(self, max_ratio: float, window: int) -> None:
        self._max_ratio = max_ratio
        self._window = window
        self._batches: deque[tuple[int, int]] = deque()
        self._records = 0
        self._rejects = 0

    def add(self, records: int, rejects: int) -> None:
        """Count a batch. Raises: TooManyRejects when the share over the window is too large."""
        self._batches.append((records, rejects))
        self._records += records
        self._rejects += rejects
        while self._records - self._batches[0][0] >= self._window:
            gone_records, gone_rejects = self._batches.popleft()
            self._records -= gone_records
            self._rejects -= gone_rejects
        if self._records >= self._window and self._rejects > self._max_ratio * self._records:
            raise TooManyRejects(
                f"{self._rejects} of the last {self._records} records were rejected, more than dead_letter.max_ratio"
                f" ({self._max_ratio:g}) allows; this batch was not committed. `streamserve dlq ls` shows the reasons;"
                " mend the events, the features or the model, or raise the ratio"
            )
