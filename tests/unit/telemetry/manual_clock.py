"""A clock that a test turns by hand."""


class HandClock:
    def __init__(self, now_s=100.0, ms=1_700_000_000_123):
        self.now_s = now_s
        self.ms = ms

    def monotonic_s(self):
        return self.now_s

    def epoch_ms(self):
        return self.ms
