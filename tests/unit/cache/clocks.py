"""A clock that stands still until it is moved."""

from __future__ import annotations


class HandClock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic_s(self) -> float:
        return self.now_s

    def epoch_ms(self) -> int:
        return int(self.now_s * 1000)
