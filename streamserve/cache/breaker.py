"""A circuit breaker: when a dependency that failed may be tried again.

Owns three states and the waits between trials; knows not what is tried. Closed: everything passes. Open:
nothing passes until a wait is over, twice as long after every failed trial, with jitter so that workers do
not come back in step. Half open: one trial passes and decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal

from streamserve.clock import Clock

State = Literal["closed", "open", "half_open"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Waits of `first_s`, doubled after each failure up to `most_s`, each cut by up to `jitter` of itself."""

    first_s: float = 0.1
    most_s: float = 5.0
    jitter: float = 0.5

    def wait_s(self, failures: int, random: Random) -> float:
        """The wait after the `failures`-th failure in a row, 1 or more."""
        whole_s = min(self.most_s, self.first_s * 2.0 ** min(failures - 1, 60))
        return whole_s * (1 - self.jitter * random.random())


class Breaker:
    """One dependency's breaker; one thread at a time.

    Args:
        backoff: how long to wait after failures.
        clock: for the waits.
        random: for the jitter.
    """

    def __init__(self, backoff: Backoff, clock: Clock, random: Random) -> None:
        self._backoff = backoff
        self._clock = clock
        self._random = random
        self._failures = 0
        self._again_at_s = 0.0

    @property
    def state(self) -> State:
        if not self._failures:
            return "closed"
        return "open" if self.wait_s() > 0 else "half_open"

    def wait_s(self) -> float:
        """Seconds until something may pass; 0 when it may now."""
        return max(0.0, self._again_at_s - self._clock.monotonic_s()) if self._failures else 0.0

    def succeeded(self) -> None:
        """What passed went well: closed."""
        self._failures = 0

    def failed(self) -> None:
        """What passed failed: open for the next wait."""
        self._failures += 1
        self._again_at_s = self._clock.monotonic_s() + self._backoff.wait_s(self._failures, self._random)
