"""HDDM-A: a detector that compares the mean of all errors with the best beginning. Budgeted in `detectors`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

import msgspec
import numpy as np

from streamserve.batch import F64, I64

HDDM_CONFIDENCE: Final = 0.001
"""The default, that of the literature; larger ones detect hardly sooner."""
_BLOCK: Final = 256
_LARGEST_BLOCK: Final = 16384


@dataclass(frozen=True, slots=True, kw_only=True)
class HddmSettings:
    """How sure HDDM-A must be.

    Attributes:
        drift: confidence of an alarm, in (0, 1).
        warning: confidence of a warning, at least `drift`.
        two_sided: tell falling errors too.
    """

    drift: float = HDDM_CONFIDENCE
    warning: float = 5 * HDDM_CONFIDENCE
    two_sided: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.drift <= self.warning < 1:
            raise ValueError(f"confidences {self.drift} (drift) and {self.warning} (warning): 0 < drift <= warning < 1")


class _HddmDocument(msgspec.Struct, frozen=True, kw_only=True):
    kind: Literal["hddm_a"]
    settings: HddmSettings
    n: int
    total: float
    low: tuple[int, float]
    high: tuple[int, float]
    warning: bool


class HddmA:
    """HDDM-A: an alarm when the mean of all errors lies above that of the best beginning.

    The best beginning, of n1 values, is the one with the least `mean + sqrt(ln(1/drift) / (2 n1))`; the mean of all n
    values is compared with its mean by Hoeffding's inequality for a mean and a part of it,

        eps = sqrt(m/2 * ln(2/drift)),   m = (n - n1) / (n1 n).

    Two-sided, the beginning with the greatest `mean - sqrt(...)` is tested for falling errors likewise. An alarm
    forgets everything. Values are meant to lie in [0, 1]; errors (0 or 1) do.

    Source: I. Frias-Blanco et al., "Online and Non-Parametric Drift Detection Methods Based on Hoeffding's Bounds",
    IEEE TKDE 27(3), 2015, A-test; ln(2/drift) where the paper has ln(1/drift), as in MOA.

    Args:
        settings: how sure it must be.
    """

    def __init__(self, settings: HddmSettings | None = None) -> None:
        self.settings = settings or HddmSettings()
        self._bound = 0.5 * math.log(1 / self.settings.drift)
        self._drift = 0.5 * math.log(2 / self.settings.drift)
        self._warn = 0.5 * math.log(2 / self.settings.warning)
        self.reset()

    def reset(self) -> None:
        """Forget all values."""
        self._n, self._total = 0, 0.0
        self._low, self._high = (0, 0.0), (0, 0.0)  # the best beginnings: values and their total
        self._warning = False

    @property
    def warning(self) -> bool:
        """Whether the last value left a warning: less sure than an alarm."""
        return self._warning

    @property
    def mean(self) -> float:
        """Mean since the last alarm; 0 when there is no value."""
        return self._total / self._n if self._n else 0.0

    def update(self, value: float) -> bool:
        """Read one value. Returns: whether drift is detected at it. Raises: ValueError when it is not finite."""
        if not math.isfinite(value):
            raise ValueError(f"{value} is not finite")
        self._n += 1
        self._total += value
        n, mean, radius = self._n, self._total / self._n, math.sqrt(self._bound / self._n)
        low, high = self._low, self._high
        if mean + radius <= self._bound_of(low, 1):
            low = self._low = (n, self._total)
        if radius - mean <= self._bound_of(high, -1):
            high = self._high = (n, self._total)
        grown, m_low = mean - low[1] / low[0], (n - low[0]) / low[0] / n
        fallen, m_high = high[1] / high[0] - mean, (n - high[0]) / high[0] / n
        grew, fell = n > low[0], n > high[0] and self.settings.two_sided
        if (grew and grown >= math.sqrt(m_low * self._drift)) or (fell and fallen >= math.sqrt(m_high * self._drift)):
            self.reset()
            return True
        self._warning = (grew and grown >= math.sqrt(m_low * self._warn)) or (
            fell and fallen >= math.sqrt(m_high * self._warn)
        )
        return False

    def _bound_of(self, beginning: tuple[int, float], sign: int) -> float:
        n, total = beginning
        return sign * (total / n) + math.sqrt(self._bound / n) if n else math.inf

    def extend(self, values: F64) -> list[int]:
        """Read float64[n] in order. Returns: the indices of alarms. Raises: ValueError; then none was read."""
        if values.ndim != 1 or not np.isfinite(values).all():
            raise ValueError("values are one finite number after the other")
        found: list[int] = []
        start, block = 0, _BLOCK
        while start < len(values):
            at = self._read(values[start : start + block])
            if at is None:
                start, block = start + block, min(2 * block, _LARGEST_BLOCK)
            else:
                found.append(start + at)
                self.reset()
                start, block = start + at + 1, _BLOCK
        return found

    def _read(self, values: F64) -> int | None:
        """Read up to the first alarm. Returns: its index."""
        total = np.cumsum(np.concatenate(([self._total], values)))[1:]
        n = np.arange(self._n + 1, self._n + 1 + len(values), dtype=np.int64)
        mean, radius = total / n, np.sqrt(self._bound / n)
        low_n, low_total = _best(mean + radius, n, total, self._low, self._bound_of(self._low, 1))
        high_n, high_total = _best(radius - mean, n, total, self._high, self._bound_of(self._high, -1))
        grown, m_low = mean - low_total / low_n, (n - low_n) / low_n / n
        fallen, m_high = high_total / high_n - mean, (n - high_n) / high_n / n
        grew, fell = n > low_n, (n > high_n) & self.settings.two_sided
        drift = (grew & (grown >= np.sqrt(m_low * self._drift))) | (fell & (fallen >= np.sqrt(m_high * self._drift)))
        if drift.any():
            return int(np.argmax(drift))
        self._n, self._total = int(n[-1]), float(total[-1])
        self._low = (int(low_n[-1]), float(low_total[-1]))
        self._high = (int(high_n[-1]), float(high_total[-1]))
        self._warning = bool(
            (grew[-1] and grown[-1] >= math.sqrt(m_low[-1] * self._warn))
            or (fell[-1] and fallen[-1] >= math.sqrt(m_high[-1] * self._warn))
        )
        return None

    def to_document(self) -> dict[str, object]:
        """JSON from which `from_document` makes a detector that goes on bit by bit the same."""
        document: dict[str, object] = msgspec.to_builtins(
            _HddmDocument(
                kind="hddm_a",
                settings=self.settings,
                n=self._n,
                total=self._total,
                low=self._low,
                high=self._high,
                warning=self._warning,
            )
        )
        return document

    @classmethod
    def from_document(cls, document: dict[str, object]) -> HddmA:
        """The detector that wrote the document. Raises: ValueError."""
        state = msgspec.convert(document, _HddmDocument)
        detector = cls(state.settings)
        detector._n, detector._total, detector._warning = state.n, state.total, state.warning
        detector._low, detector._high = state.low, state.high
        return detector


def _best(bounds: F64, n: I64, total: F64, best: tuple[int, float], best_bound: float) -> tuple[I64, F64]:
    """The beginning with the least bound up to each value, the last of equals.

    Args:
        bounds: float64[k], the bound of each beginning.
        n: length of each, int64[k].
        total: total of each, float64[k].
        best: length and total of the best before them.
        best_bound: its bound.

    Returns:
        Length and total of the best, [k] each.
    """
    least = np.minimum.accumulate(np.minimum(bounds, best_bound))
    at = np.maximum.accumulate(np.where(bounds <= least, np.arange(len(bounds)), -1))
    return np.where(at >= 0, n[at], best[0]), np.where(at >= 0, total[at], best[1])
