"""Whether an engine is quick: whether polling and scoring at the same time would gain nothing.

While the engine works, Python's other threads can run. A quick engine leaves them too little time for that to be worth
what threads of one interpreter cost each other, and scoring a batch does not keep the poll thread from the group for
long.
"""

from __future__ import annotations

QUICK_INFER_S = 0.002
QUICK_S = 0.01
"""Scoring a quick batch takes no longer, in the engine and in all."""
QUICK_BATCHES = 16
"""So many quick batches more than slow ones make an engine quick."""
SLOW_WEIGHT = 8
"""A slow batch counts for so many quick ones: machines stutter, and one in twenty is no slow engine."""


class Pace:
    """Counts quick batches up and slow ones down.

    Attributes:
        quick: whether the engine is quick; changes at either end of the count only.
    """

    def __init__(self) -> None:
        self.quick = False
        self._count = 0

    def add(self, infer_s: float, all_s: float) -> None:
        """A batch took so long in the engine, and in all."""
        if infer_s < QUICK_INFER_S and all_s < QUICK_S:
            self._count = min(QUICK_BATCHES, self._count + 1)
        else:
            self._count = max(0, self._count - SLOW_WEIGHT)
        if self._count in {0, QUICK_BATCHES}:
            self.quick = self._count > 0
