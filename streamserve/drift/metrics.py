"""Figures and their confidence intervals, read from the sums of `performance`.

A figure that is not defined (the precision of a model that predicted nothing) is left out. Intervals use the effective
number of rows, so that weighted samples do not look surer than they are; that of a part of the rows (the positives) is
taken in proportion to its weight.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from streamserve.drift.intervals import Interval, normal_quantile, of_mean, wilson
from streamserve.drift.performance import Performance


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A figure.

    Attributes:
        value: the estimate.
        low, high: its confidence interval; None where none is given.
        n: effective number of rows behind it.
    """

    value: float
    low: float | None
    high: float | None
    n: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ReliabilityBin:
    """Predictions of about one score: how often they came true."""

    low: float
    high: float
    weight: float
    mean_score: float
    share: float


def metrics(performance: Performance, level: float = 0.95) -> dict[str, Metric]:
    """All figures of a task.

    Binary: `accuracy`, `precision`, `recall`, `selection_rate`, `false_positive_rate`, `base_rate` (Wilson intervals);
    `log_loss` (nats), `brier` (normal); `auc`; `ece`. Multiclass: `accuracy`, `log_loss`, `ece` of the largest
    probability. Regression: `mae`, `rmse`, `bias` (prediction minus label), in units of the label. All: `value`, the
    mean of the business value, and `click_rate`, where they are given.

    `auc` is the chance that a positive has a higher score than a negative, a tie counting half; scores in one of the
    192 cells of `SCORE_EDGES` are tied, and on those cells the figure and its interval are exact (E. R. DeLong et al.,
    Biometrics 44, 1988). The cells cost it less than 0.01, that much only where all scores lie in a few of them. `ece`
    is the mean distance between score and share of truths over 16 equal steps of the score (Naeini et al., AAAI 2015),
    upward biased by chance where rows are few.

    Args:
        performance: the sums.
        level: confidence of the intervals.
    """
    if performance.n_effective <= 0:
        return _business(performance, level)
    read = {"binary": _binary, "multiclass": _multiclass, "regression": _regression}[performance.task.kind]
    return {**read(performance, level), **_business(performance, level)}


def reliability(performance: Performance) -> list[ReliabilityBin]:
    """The reliability diagram: the steps of the score that have rows."""
    weight, scores, truths = performance.bins
    steps = len(weight)
    return [
        ReliabilityBin(
            low=step / steps,
            high=(step + 1) / steps,
            weight=float(weight[step]),
            mean_score=float(scores[step] / weight[step]),
            share=float(truths[step] / weight[step]),
        )
        for step in np.flatnonzero(weight > 0).tolist()
    ]


def by_class(performance: Performance, level: float = 0.95) -> list[dict[str, Metric]]:
    """`precision`, `recall` and `base_rate` of every class of a multiclass task, in order."""
    total = performance.sums["weight"]
    return [
        _without_none(
            precision=_share(performance, hits, predicted, level),
            recall=_share(performance, hits, actual, level),
            base_rate=_share(performance, actual, total, level),
        )
        for hits, predicted, actual in performance.table.T.tolist()
    ]


def _binary(performance: Performance, level: float) -> dict[str, Metric]:
    sums = performance.sums
    total, tp, fp, fn, tn = (sums[name] for name in ("weight", "tp", "fp", "fn", "tn"))
    return _without_none(
        accuracy=_share(performance, tp + tn, total, level),
        precision=_share(performance, tp, tp + fp, level),
        recall=_share(performance, tp, tp + fn, level),
        selection_rate=_share(performance, tp + fp, total, level),
        false_positive_rate=_share(performance, fp, fp + tn, level),
        base_rate=_share(performance, tp + fn, total, level),
        log_loss=_mean(performance, sums["loss"], sums["loss2"], total, level),
        brier=_mean(performance, sums["brier"], sums["brier2"], total, level),
        auc=_auc(performance, level),
        ece=_ece(performance),
    )


def _multiclass(performance: Performance, level: float) -> dict[str, Metric]:
    sums = performance.sums
    return _without_none(
        accuracy=_share(performance, sums["correct"], sums["weight"], level),
        log_loss=_mean(performance, sums["loss"], sums["loss2"], sums["scored"], level),
        ece=_ece(performance),
    )


def _regression(performance: Performance, level: float) -> dict[str, Metric]:
    sums = performance.sums
    total = sums["weight"]
    square = _mean(performance, sums["square"], sums["square2"], total, level)
    rmse = square and Metric(
        value=square.value**0.5, low=max(square.low or 0.0, 0.0) ** 0.5, high=(square.high or 0.0) ** 0.5, n=square.n
    )
    return _without_none(
        mae=_mean(performance, sums["absolute"], sums["square"], total, level),
        rmse=rmse,
        bias=_mean(performance, sums["error"], sums["square"], total, level),
    )


def _business(performance: Performance, level: float) -> dict[str, Metric]:
    sums = performance.sums
    return _without_none(
        value=_mean(performance, sums["value"], sums["value2"], sums["value_n"], level),
        click_rate=_share(performance, sums["clicks"], sums["click_n"], level),
    )


def _auc(performance: Performance, level: float) -> Metric | None:
    negative, positive = np.maximum(performance.table, 0.0)
    negatives, positives = float(negative.sum()), float(positive.sum())
    if negatives <= 0 or positives <= 0:
        return None
    below = (np.cumsum(negative) - negative / 2) / negatives  # of each positive: the share of negatives it beats
    above = 1 - (np.cumsum(positive) - positive / 2) / positives
    auc = float(positive @ below) / positives
    variance = float(positive @ (below - auc) ** 2) / positives / _effective(performance, positives)
    variance += float(negative @ (above - auc) ** 2) / negatives / _effective(performance, negatives)
    half = normal_quantile(level) * variance**0.5
    n = _effective(performance, negatives + positives)
    return Metric(value=auc, low=max(auc - half, 0.0), high=min(auc + half, 1.0), n=n)


def _ece(performance: Performance) -> Metric | None:
    weight, scores, truths = performance.bins
    total = float(weight.sum())
    if total <= 0:
        return None
    value = float(np.abs(scores - truths).sum()) / total
    return Metric(value=value, low=None, high=None, n=_effective(performance, total))


def _share(performance: Performance, part: float, whole: float, level: float) -> Metric | None:
    """A proportion of weights; rounding in differences of sums may leave it just outside [0, 1]."""
    n = _effective(performance, whole)
    if n <= 0:
        return None
    value = min(max(part / whole, 0.0), 1.0)
    return _metric(value, wilson(value, n, level), n)


def _mean(performance: Performance, total: float, squares: float, weight: float, level: float) -> Metric | None:
    n = _effective(performance, weight)
    if n <= 0:
        return None
    mean = total / weight
    return _metric(mean, of_mean(mean, squares / weight - mean**2, n, level), n)


def _metric(value: float, interval: Interval, n: float) -> Metric:
    return Metric(value=value, low=interval[0], high=interval[1], n=n)


def _effective(performance: Performance, weight: float) -> float:
    """Effective number of rows of a part: its weight times (sum w / sum w^2)."""
    sums = performance.sums
    return weight * sums["weight"] / sums["weight2"] if sums["weight2"] > 0 else max(weight, 0.0)


def _without_none(**found: Metric | None) -> dict[str, Metric]:
    return {name: metric for name, metric in found.items() if metric is not None}
