"""`ManualClock`: time that a test moves by hand."""

from __future__ import annotations

import threading


class ManualClock:
    """A clock that stands still until `advance` moves it; both kinds of time move together. Thread-safe.

    Args:
        now_s: monotonic seconds at the beginning.
        epoch_ms: UTC milliseconds since 1970 at the beginning.
    """

    def __init__(self, now_s: float = 0.0, epoch_ms: int = 1_700_000_000_000) -> None:
        self._lock = threading.Lock()
        self._now_s = now_s
        self._epoch_ms = float(epoch_ms)

    def monotonic_s(self) -> float:
        return self._now_s

    def epoch_ms(self) -> int:
        return int(self._epoch_ms)

    def advance(self, seconds: float) -> None:
        """Let time pass. Raises: ValueError for a negative time: no clock goes back."""
        if seconds < 0:
            raise ValueError(f"a clock cannot go back by {-seconds} s")
        with self._lock:
            self._now_s += seconds
            self._epoch_ms += seconds * 1000
