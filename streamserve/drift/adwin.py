"""ADWIN: a detector that keeps a window as long as its values have one mean. Chosen and budgeted in `detectors`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

import msgspec
import numpy as np

from streamserve.batch import F64

ADWIN_CONFIDENCE: Final = 0.002
"""The default, that of the literature; larger ones detect hardly sooner."""
ADWIN_CLOCK: Final = 8
"""Labels per look; at the 32 of other implementations an alarm comes 14 labels later, and labels are few."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdwinSettings:
    """How ADWIN looks.

    Attributes:
        delta: confidence: the chance of an alarm at one look when nothing changed, in (0, 1).
        clock: values per look.
        max_buckets: buckets of one size before two are merged; the more, the finer the cuts.
        min_window_length: shortest part that is compared.
        grace_period: no look before the window is longer.
    """

    delta: float = ADWIN_CONFIDENCE
    clock: int = ADWIN_CLOCK
    max_buckets: int = 5
    min_window_length: int = 5
    grace_period: int = 10

    def __post_init__(self) -> None:
        if not 0 < self.delta < 1:
            raise ValueError(f"delta is {self.delta}, not between 0 and 1")
        if min(self.clock, self.max_buckets, self.min_window_length) < 1 or self.grace_period < 1:
            raise ValueError("clock, max_buckets, min_window_length and grace_period are at least 1")


class _AdwinDocument(msgspec.Struct, frozen=True, kw_only=True):
    kind: Literal["adwin"]
    settings: AdwinSettings
    ticks: int
    total: float
    m2: float
    totals: list[list[float]]
    m2s: list[list[float]]


class Adwin:
    """ADWIN: a window as long as its values have one mean, and an alarm when they stop having it.

    The window is cut in two, at every border between buckets; when the means of an older part of n0 and a newer one of
    n1 values differ by more than

        eps = sqrt(2 v d (1/n0' + 1/n1')) + 2/3 d (1/n0' + 1/n1'),   d = ln(2 ln(n) / delta),  n' = n - min_length + 1

    (v: variance of the window, n its length), the oldest bucket is dropped until no cut differs. After an alarm the
    newer part stays, as in the paper, so that one large change may be told at several looks; whoever wants it told
    once calls `reset` after an alarm, as river does.

    Values lie in an exponential histogram: up to `max_buckets` buckets of each size 1, 2, 4 ..., each with its total
    and its sum of squared deviations, so that memory is O(max_buckets * log n).

    Source: A. Bifet, R. Gavalda, "Learning from Time-Changing Data with Adaptive Windowing", SIAM SDM 2007, section 4
    (ADWIN2); variances as in Babcock et al., PODS 2003. The lengthening by `min_length` is MOA's.

    Args:
        settings: how it looks.
    """

    def __init__(self, settings: AdwinSettings | None = None) -> None:
        self.settings = settings or AdwinSettings()
        self._ticks = 0
        self.reset()

    def reset(self) -> None:
        """Forget the window."""
        self._ticks = 0
        self._width = 0
        self._total = 0.0
        self._m2 = 0.0
        self._totals: list[list[float]] = [[]]  # by size 2^i; oldest bucket first
        self._m2s: list[list[float]] = [[]]

    @property
    def width(self) -> int:
        """Length of the window, values."""
        return self._width

    @property
    def mean(self) -> float:
        """Mean of the window; 0 when it is empty."""
        return self._total / self._width if self._width else 0.0

    @property
    def variance(self) -> float:
        """Variance of the window (divided by its length); 0 when it is empty."""
        return self._m2 / self._width if self._width else 0.0

    def update(self, value: float) -> bool:
        """Read one value. Returns: whether drift is detected at it. Raises: ValueError when it is not finite."""
        if not math.isfinite(value):
            raise ValueError(f"{value} is not finite")
        self._insert(float(value))
        self._ticks += 1
        return self._ticks % self.settings.clock == 0 and self._shrink()

    def extend(self, values: F64) -> list[int]:
        """Read float64[n] in order. Returns: the indices of alarms. Raises: ValueError; then none was read."""
        if values.ndim != 1 or not np.isfinite(values).all():
            raise ValueError("values are one finite number after the other")
        found = []
        clock, ticks, insert = self.settings.clock, self._ticks, self._insert
        for index, value in enumerate(values.tolist()):
            insert(value)
            ticks += 1
            if ticks % clock == 0 and self._shrink():
                found.append(index)
        self._ticks = ticks
        return found

    def _insert(self, value: float) -> None:
        width = self._width
        if width:
            away = value - self._total / width
            self._m2 += width * away * away / (width + 1)
        self._width = width + 1
        self._total += value
        row = self._totals[0]
        row.append(value)
        self._m2s[0].append(0.0)
        if len(row) > self.settings.max_buckets:
            self._compress()

    def _compress(self) -> None:
        """Merge the two oldest buckets of a size into one of the next, as long as a size has too many."""
        size = 1
        for i, (totals, m2s) in enumerate(zip(self._totals, self._m2s, strict=True)):
            if len(totals) <= self.settings.max_buckets:
                return
            if i + 1 == len(self._totals):
                self._totals.append([])
                self._m2s.append([])
            apart = (totals[0] - totals[1]) / size
            self._totals[i + 1].append(totals[0] + totals[1])
            self._m2s[i + 1].append(m2s[0] + m2s[1] + size * apart * apart / 2)
            del totals[:2], m2s[:2]
            size *= 2

    def _shrink(self) -> bool:
        """Drop the oldest buckets while a cut differs. Returns: whether one did."""
        shrunk = False
        if self._width <= self.settings.grace_period:
            return False
        while self._differs():
            self._drop_oldest()
            shrunk = True
        return shrunk

    def _differs(self) -> bool:
        """Whether some cut has means too far apart."""
        least = self.settings.min_window_length
        width, total = self._width, self._total
        if width < 2 * least:
            return False
        d = math.log(2 * math.log(width) / self.settings.delta)
        variance_term, range_term = 2 * max(self._m2, 0.0) / width * d, 2 / 3 * d
        n0, u0 = 0, 0.0
        for i in range(len(self._totals) - 1, -1, -1):
            row, size = self._totals[i], 1 << i
            for bucket_total in row:
                n0 += size
                u0 += bucket_total
                n1 = width - n0
                if n1 < least:
                    break  # of all further cuts the newer part is shorter still
                if n0 < least:
                    continue
                m = 1 / (n0 - least + 1) + 1 / (n1 - least + 1)
                if abs(u0 / n0 - (total - u0) / n1) > math.sqrt(variance_term * m) + range_term * m:
                    return True
        return False

    def _drop_oldest(self) -> None:
        totals, m2s = self._totals[-1], self._m2s[-1]
        size = 1 << (len(self._totals) - 1)
        total, m2 = totals.pop(0), m2s.pop(0)
        self._width -= size
        self._total -= total
        apart = total / size - self._total / self._width
        self._m2 -= m2 + size * self._width * apart * apart / (size + self._width)
        while len(self._totals) > 1 and not self._totals[-1]:
            del self._totals[-1], self._m2s[-1]

    def to_document(self) -> dict[str, object]:
        """JSON from which `from_document` makes a detector that goes on bit by bit the same."""
        document: dict[str, object] = msgspec.to_builtins(
            _AdwinDocument(
                kind="adwin",
                settings=self.settings,
                ticks=self._ticks,
                total=self._total,
                m2=self._m2,
                totals=self._totals,
                m2s=self._m2s,
            )
        )
        return document

    @classmethod
    def from_document(cls, document: dict[str, object]) -> Adwin:
        """The detector that wrote the document. Raises: ValueError."""
        state = msgspec.convert(document, _AdwinDocument)
        if not state.totals or [len(row) for row in state.totals] != [len(row) for row in state.m2s]:
            raise ValueError("totals and deviations of the buckets do not fit")
        detector = cls(state.settings)
        detector._ticks = state.ticks
        detector._total, detector._m2 = state.total, state.m2
        detector._totals = [list(row) for row in state.totals]
        detector._m2s = [list(row) for row in state.m2s]
        detector._width = sum(len(row) << i for i, row in enumerate(state.totals))
        return detector
