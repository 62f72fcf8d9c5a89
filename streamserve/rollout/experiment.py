"""The arms of an experiment compared, under repeated looks.

The interval is a confidence sequence: with probability 1 - alpha it holds the true difference at *every* look at once,
so one may look after every label and stop when one likes; an ordinary 95 % interval, looked at often, misses far more
than 5 % of the time. It is the asymptotic confidence sequence of Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas,
"Time-uniform central limit theory and asymptotic confidence sequences" (Annals of Statistics 2024), Theorem 2.2, on
the difference of two means.

Rows of one key are not independent, and a key is always in one arm. The variance is therefore that of sums by key, and
because there may be millions of keys, of sums by a hash of the key: keys that share a place only make it more cautious.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal
from zlib import crc32

import numpy as np

from streamserve.batch import F64

PLACES: Final = 4096
"""Sums by key are kept at so many places."""
LEAST_ROWS: Final = 100
"""Labels that an arm must have before anything is said: the sequence is asymptotic."""

Verdict = Literal["better", "worse", "no difference", "go on", "too few"]


class ArmTally:
    """Outcomes of one arm. Memory does not grow with rows or keys."""

    def __init__(self) -> None:
        self._rows: F64 = np.zeros(PLACES)
        self._sums: F64 = np.zeros(PLACES)

    def add(self, keys: Sequence[bytes], outcomes: F64) -> None:
        """Outcomes float64[n] of rows with these keys."""
        places = np.fromiter(map(crc32, keys), np.int64, len(keys)) % PLACES
        np.add.at(self._rows, places, 1.0)
        np.add.at(self._sums, places, outcomes)

    @property
    def rows(self) -> int:
        """How many."""
        return int(self._rows.sum())

    @property
    def mean(self) -> float:
        """Mean outcome; NaN of nothing."""
        rows = self._rows.sum()
        return float(self._sums.sum() / rows) if rows else float("nan")

    @property
    def variance_of_mean(self) -> float:
        """Of the mean, by sums of keys; infinite for less than two places."""
        used = int(np.count_nonzero(self._rows))
        if used < 2:
            return float("inf")
        rest = self._sums - self.mean * self._rows
        return float((rest**2).sum() / self._rows.sum() ** 2 * used / (used - 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """An arm against the control.

    Attributes:
        estimate: mean outcome of the arm less that of the control.
        low, high: the confidence sequence at this look; infinite while there is too little.
        verdict: what it means for whoever decides: `better` and `worse` as more or less is wanted.
    """

    estimate: float
    low: float
    high: float
    verdict: Verdict


def compare(
    control: ArmTally,
    arm: ArmTally,
    *,
    alpha: float = 0.05,
    expected_rows: int = 5000,
    indifference: float = 0.0,
    more_is_better: bool = True,
) -> Difference:
    """The difference after what has come so far.

    Args:
        control: outcomes of the arm that the other is held against.
        arm: outcomes of the other.
        alpha: probability that any look misses.
        expected_rows: labels of both arms at which the interval is to be narrowest; fixed before the first look.
        indifference: a difference within this, either way, is none.
        more_is_better: whether a larger outcome is.
    """
    estimate = arm.mean - control.mean
    if min(control.rows, arm.rows) < LEAST_ROWS:
        return Difference(estimate=estimate, low=-np.inf, high=np.inf, verdict="too few")
    variance = control.variance_of_mean + arm.variance_of_mean
    reach = np.sqrt(variance) * boundary(control.rows + arm.rows, alpha=alpha, expected_rows=expected_rows)
    low, high = float(estimate - reach), float(estimate + reach)
    return Difference(estimate=estimate, low=low, high=high, verdict=_verdict(low, high, indifference, more_is_better))


def boundary(rows: float | F64, *, alpha: float, expected_rows: int) -> float | F64:
    """How many standard errors of the mean the interval reaches to either side after `rows` observations.

    Source: Waudby-Smith et al. (2024), Theorem 2.2, with the rho that is best at `expected_rows`.
    """
    spread = -2 * np.log(alpha)
    rho2 = (spread + np.log(spread) + 1) / expected_rows
    v = rows * rho2
    reach: float | F64 = np.sqrt(2 * (v + 1) / v * np.log(np.sqrt(v + 1) / alpha))
    return reach


def _verdict(low: float, high: float, indifference: float, more_is_better: bool) -> Verdict:
    if low > indifference:
        return "better" if more_is_better else "worse"
    if high < -indifference:
        return "worse" if more_is_better else "better"
    return "no difference" if indifference > 0 and low >= -indifference and high <= indifference else "go on"
