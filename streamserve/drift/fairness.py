"""Whether a binary model treats the values of a protected feature alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from streamserve.drift.intervals import newcombe
from streamserve.drift.metrics import Metric, metrics
from streamserve.drift.performance import Performance

Rate = Literal["selection_rate", "true_positive_rate", "false_positive_rate"]
RATES: dict[Rate, str] = {
    "selection_rate": "selection_rate",
    "true_positive_rate": "recall",
    "false_positive_rate": "false_positive_rate",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FairnessDifference:
    """A rate of one value against that of the most frequent one.

    Attributes:
        rate: which.
        segment, other: the two; `other` has the most rows.
        value, other_value: their rates.
        difference: `value - other_value`.
        low, high: its simultaneous confidence interval; 0 outside of it: they differ.
        n, other_n: effective numbers of rows behind them.
    """

    rate: Rate
    segment: str
    other: str
    value: float
    other_value: float
    difference: float
    low: float
    high: float
    n: float
    other_n: float


def fairness(segments: Mapping[str, Performance], level: float = 0.95) -> list[FairnessDifference]:
    """Differences of the rates between the values of one protected feature.

    Selection rate: share predicted 1 (demographic parity); true and false positive rate: share predicted 1 of those
    whose label is 1 resp. 0 (equalized odds; M. Hardt et al., "Equality of Opportunity in Supervised Learning", NIPS
    2016). Every value is compared with the one of most rows. Intervals are Newcombe's (see `intervals.newcombe`) at
    1 - (1 - level) / comparisons, so that all of them hold together with probability `level` (Bonferroni).

    Args:
        segments: segment -> its performance, of one window and version.
        level: confidence of all intervals together.

    Returns:
        One per value and rate where both have rows, the largest difference first.

    Raises:
        ValueError: the task is not binary.
    """
    if any(each.task.kind != "binary" for each in segments.values()):
        raise ValueError("fairness is of binary predictions")
    found = {name: metrics(each) for name, each in sorted(segments.items()) if each.sums["weight"] > 0}
    if not found:
        return []
    other = max(found, key=lambda name: segments[name].sums["weight"])
    pairs: list[tuple[Rate, str, Metric, Metric]] = [
        (rate, name, figures[metric], found[other][metric])
        for rate, metric in RATES.items()
        for name, figures in found.items()
        if name != other and metric in figures and metric in found[other]
    ]
    sure = 1 - (1 - level) / max(len(pairs), 1)
    differences = [_difference(rate, name, other, mine, most, sure) for rate, name, mine, most in pairs]
    return sorted(differences, key=lambda each: -abs(each.difference))


def _difference(rate: Rate, segment: str, other: str, mine: Metric, most: Metric, level: float) -> FairnessDifference:
    low, high = newcombe(mine.value, mine.n, most.value, most.n, level)
    return FairnessDifference(
        rate=rate,
        segment=segment,
        other=other,
        value=mine.value,
        other_value=most.value,
        difference=mine.value - most.value,
        low=low,
        high=high,
        n=mine.n,
        other_n=most.n,
    )
