"""Time, handed in: a `Clock` has both kinds of time, a `Deadline` is a point on the monotonic one.

Durations and deadlines use monotonic seconds; stamps use UTC epoch milliseconds. Code under test gets a clock of
its own (`streamserve.testing.ManualClock`) and never sleeps for real.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol


class Clock(Protocol):
    """Two clocks: `monotonic_s` for durations, `epoch_ms` for stamps."""

    def monotonic_s(self) -> float:
        """Seconds on a clock that never goes back; its zero means nothing."""
        ...

    def epoch_ms(self) -> int:
        """UTC milliseconds since 1970."""
        ...


class SystemClock:
    """The machine's clocks."""

    def monotonic_s(self) -> float:
        return time.monotonic()

    def epoch_ms(self) -> int:
        return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point in monotonic time after which a wait is over."""

    at_s: float
    clock: Clock

    @classmethod
    def after(cls, seconds: float, clock: Clock) -> Deadline:
        """The deadline `seconds` from now on `clock`."""
        return cls(clock.monotonic_s() + seconds, clock)

    def remaining_s(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.at_s - self.clock.monotonic_s())

    def expired(self) -> bool:
        """Whether no time is left."""
        return self.clock.monotonic_s() >= self.at_s
