"""Hopsworks' definitions (client 5.2.1, `hsfs/core/distribution_{engine,distance}.py`, Apache-2.0), anew on numpy.

Its defaults: a number is cut at 11 of the reference's 100 percentiles (the 1st, 11th ... 100th, so that the bins
are not quite of equal share), rows outside fall into the outer bins; categories are those of both samples. 1e-6 is
added to every *count*, not share. Jensen-Shannon is the divergence, not its root; Wasserstein moves between the
middles of bins. PSI has a threshold of 0.2, the rest has none.

Hopsworks takes percentiles and counts from sketches that Spark keeps; here both are exact, so that its own figures
may differ by the errors of those sketches. Missing and infinite values are dropped.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from streamserve.batch import F64, I64
from streamserve.drift.compat.distances import aligned_counts, hellinger_distance, population_stability
from streamserve.drift.compat.report import Measure, Score
from streamserve.drift.schema import Kind
from streamserve.drift.tables import CategoricalColumn, Numbers, NumericColumn

_BINS: Final = 10
_ADDED: Final = 1e-6
_PSI_FROM: Final = 0.2

_MEANINGS: Final[dict[Measure, str]] = {
    "psi": "nats; ten bins by percentiles of the reference",
    "jensen_shannon": "divergence, nats",
    "hellinger": "distance",
    "wasserstein": "in the column's unit, between middles of bins",
    "kolmogorov_smirnov": "statistic, on the bins",
}


class Hopsworks:
    """Scores as the Hopsworks client computes them."""

    version = "5.2.1"

    def numeric(self, reference: NumericColumn, current: NumericColumn) -> list[Score]:
        """PSI, Jensen-Shannon, Hellinger, Wasserstein and KS on percentile bins."""
        a, b = (column.values[np.isfinite(column.values)] for column in (reference, current))
        if not (a.size and b.size):
            return [_score(reference.name, "numeric", measure, None, "no values") for measure in _MEANINGS]
        edges = _edges(a)
        p, q = _shares(_counts(a, edges)), _shares(_counts(b, edges))
        gaps = np.abs(np.cumsum(q) - np.cumsum(p))
        middles = (edges[:-1] + edges[1:]) / 2.0
        values: dict[Measure, float] = {
            **_distances(p, q),
            "wasserstein": float(np.sum(gaps[:-1] * np.diff(middles))),
            "kolmogorov_smirnov": float(np.max(gaps)),
        }
        return [_score(reference.name, "numeric", measure, value) for measure, value in values.items()]

    def categorical(self, reference: CategoricalColumn, current: CategoricalColumn) -> list[Score]:
        """PSI, Jensen-Shannon, Hellinger over the categories of both samples."""
        a, b = reference.values[reference.present], current.values[current.present]
        if not (a.size and b.size):
            measures: tuple[Measure, ...] = ("psi", "jensen_shannon", "hellinger")
            return [_score(reference.name, "categorical", measure, None, "no values") for measure in measures]
        values = _distances(*map(_shares, aligned_counts(a, b)))
        return [_score(reference.name, "categorical", measure, value) for measure, value in values.items()]

    def verdict(self, scores: list[Score]) -> str:  # noqa: ARG002  # the port's signature
        """Hopsworks judges each feature by itself."""
        return ""


def _score(column: str, kind: Kind, measure: Measure, value: float | None, note: str = "") -> Score:
    judged = measure == "psi"
    return Score(
        column=column,
        kind=kind,
        measure=measure,
        meaning=_MEANINGS[measure],
        value=value,
        threshold=_PSI_FROM if judged else None,
        drifted=value >= _PSI_FROM if judged and value is not None else None,
        note=note,
    )


def _edges(reference: Numbers) -> F64:
    """Eleven of a hundred percentiles, strictly ascending; two around the value where there is only one."""
    percentiles = np.quantile(reference, np.arange(1, 101) / 100, method="inverted_cdf").astype(np.float64)
    edges = np.unique(percentiles[np.linspace(0, 99, _BINS + 1).round().astype(np.int64)])
    if edges.size >= 2:
        return edges
    low, high = float(reference.min()), float(reference.max())
    if low == high:
        margin = abs(low) * 0.01 if low else 0.01
        return np.array([low - margin, high + margin])
    return np.linspace(low, high, _BINS + 1)


def _counts(rows: Numbers, edges: F64) -> I64:
    """Rows in each `[edge, next edge)`; those outside in the outer bins."""
    index = np.clip(np.searchsorted(edges, rows, side="right") - 1, 0, edges.size - 2)
    return np.bincount(index, minlength=edges.size - 1)


def _shares(counts: I64) -> F64:
    smoothed = counts + _ADDED
    shares: F64 = smoothed / smoothed.sum()
    return shares


def _distances(p: F64, q: F64) -> dict[Measure, float]:
    middle = 0.5 * (p + q)
    divergence = 0.5 * float(np.sum(q * np.log(q / middle))) + 0.5 * float(np.sum(p * np.log(p / middle)))
    return {
        "psi": population_stability(p, q),
        "jensen_shannon": divergence,
        "hellinger": hellinger_distance(p, q),
    }
