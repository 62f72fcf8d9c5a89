"""Frouros' definitions (0.9.0, `frouros/detectors/data_drift/batch`, BSD-3-Clause), written anew on numpy.

PSI and Hellinger use ten equal bins over reference *and* current rows; an empty bin counts as the smallest normal
float, about 2e-308, so that one empty bin moves PSI by hundreds. Jensen-Shannon first smooths each sample into a
histogram of numpy's own choice of bins and compares the two on nine equal cells. Frouros ships no thresholds, and
takes neither missing nor infinite values.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from math import isnan
from typing import Final

import numpy as np

from streamserve.batch import F64
from streamserve.drift.compat.distances import (
    aligned_counts,
    contingency_chi_square,
    hellinger_distance,
    jensen_shannon_distance,
    population_stability,
    wasserstein_distance,
)
from streamserve.drift.compat.ks_test import ks_two_sample
from streamserve.drift.compat.report import Measure, Score
from streamserve.drift.special import chi2_sf
from streamserve.drift.tables import CategoricalColumn, Numbers, NumericColumn

_BINS: Final = 10

_MEANINGS: Final[dict[Measure, str]] = {
    "psi": "nats; ten equal bins of both samples",
    "jensen_shannon": "distance, nats; nine cells of two smoothed histograms",
    "hellinger": "distance; ten equal bins of both samples",
    "wasserstein": "in the column's unit",
    "kolmogorov_smirnov": "statistic",
    "chi_square": "statistic, two-sample",
}


class Frouros:
    """Scores as `frouros` computes them."""

    version = "0.9.0"

    def numeric(self, reference: NumericColumn, current: NumericColumn) -> list[Score]:
        """PSI, Jensen-Shannon, Hellinger, Wasserstein (`EMD`) and KS."""
        a, b = reference.values, current.values
        distances: dict[Measure, Callable[[Numbers, Numbers], float]] = {
            "psi": lambda a, b: population_stability(*map(_filled, _shares(a, b))),
            "jensen_shannon": lambda a, b: jensen_shannon_distance(*_smoothed(a, b)),
            "hellinger": lambda a, b: hellinger_distance(*_shares(a, b)),
            "wasserstein": wasserstein_distance,
        }
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            every: list[Measure] = [*distances, "kolmogorov_smirnov"]
            return [_score(reference, m, None, note="Frouros refuses missing and infinite values") for m in every]
        statistic, p_value = ks_two_sample(a, b)
        return [
            *(_score(reference, measure, compute(a, b)) for measure, compute in distances.items()),
            _score(reference, "kolmogorov_smirnov", statistic, p_value),
        ]

    def categorical(self, reference: CategoricalColumn, current: CategoricalColumn) -> list[Score]:
        """Chi-square; a missing value is refused, as it has no one form in Frouros."""
        if not (reference.present.all() and current.present.all()):
            return [_score(reference, "chi_square", None, note="missing values: leave them out first")]
        statistic, freedom = contingency_chi_square(*aligned_counts(reference.values, current.values))
        p_value = float(chi2_sf(statistic, freedom)) if freedom else 1.0
        return [_score(reference, "chi_square", statistic, p_value)]

    def verdict(self, scores: list[Score]) -> str:  # noqa: ARG002  # the port's signature
        """Frouros compares one column at a time."""
        return ""


def _score(
    column: NumericColumn | CategoricalColumn,
    measure: Measure,
    value: float | None,
    p_value: float | None = None,
    note: str = "",
) -> Score:
    if value is not None and isnan(value):
        value, note = None, "one value only: not defined"
    return Score(
        column=column.name,
        kind="numeric" if isinstance(column, NumericColumn) else "categorical",
        measure=measure,
        meaning=_MEANINGS[measure],
        value=value,
        statistic=None if p_value is None else value,
        p_value=p_value,
        note=note,
    )


def _shares(a: Numbers, b: Numbers) -> tuple[F64, F64]:
    """Shares of ten equal bins between the least and the largest value of both samples."""
    edges = np.histogram_bin_edges(np.concatenate((a, b)), bins=_BINS)
    return np.histogram(a, edges)[0] / a.size, np.histogram(b, edges)[0] / b.size


def _filled(shares: F64) -> F64:
    return np.where(shares == 0.0, sys.float_info.min, shares)


def _smoothed(a: Numbers, b: Numbers) -> tuple[F64, F64]:
    """Shares of nine equal cells, each sample read from its own histogram as if rows lay evenly in a bin."""
    points = np.linspace(min(a.min(), b.min()), max(a.max(), b.max()), _BINS)
    return np.diff(_histogram_cdf(a, points)), np.diff(_histogram_cdf(b, points))


def _histogram_cdf(rows: Numbers, points: F64) -> F64:
    counts, edges = np.histogram(rows, bins="auto")
    return np.interp(points, edges, np.concatenate(([0.0], np.cumsum(counts) / rows.size)))
