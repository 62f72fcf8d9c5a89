"""NannyML's definitions (0.13.1, `nannyml/drift/univariate/methods.py`, Apache-2.0), written anew on numpy.

Everything is fitted on the reference: Doane's edges for Jensen-Shannon and Hellinger with one more bin for rows
outside them; from 10,000 reference rows on, Kolmogorov-Smirnov and Wasserstein on 10,000 equal bins between the
reference's least and largest value. Missing values are dropped. The threshold of a measure is its mean over the
reference's chunks (ten of equal size, and the rest) plus three of their standard deviations; chi-square alone is
judged by p < 0.05. The current rows are one chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, TypeAlias, TypeVar

import numpy as np

from streamserve.batch import F64
from streamserve.drift.compat.distances import (
    aligned_counts,
    contingency_chi_square,
    hellinger_distance,
    jensen_shannon_distance,
    wasserstein_distance,
)
from streamserve.drift.compat.ks_test import ks_two_sample
from streamserve.drift.compat.report import Measure, Score
from streamserve.drift.schema import Kind
from streamserve.drift.special import chi2_sf
from streamserve.drift.tables import CategoricalColumn, Numbers, NumericColumn, Texts

_GRID_FROM_ROWS: Final = 10_000
_GRID_BINS: Final = 10_000
_CHUNKS: Final = 10
_DEVIATIONS: Final = 3
_P_BELOW: Final = 0.05

_MEANINGS: Final[dict[Measure, str]] = {
    "jensen_shannon": "distance, base 2; Doane bins of the reference",
    "hellinger": "distance; Doane bins of the reference",
    "wasserstein": "in the column's unit",
    "kolmogorov_smirnov": "statistic",
    "l_infinity": "largest change of a share",
    "chi_square": "statistic, two-sample",
}

Values = TypeVar("Values", Numbers, Texts)
Fitted: TypeAlias = Callable[[Values], float]
"""A measure, fitted on the reference, of the rows of one chunk; nan for none."""


class NannyML:
    """Scores as `nannyml` computes them."""

    version = "0.13.1"

    def numeric(self, reference: NumericColumn, current: NumericColumn) -> list[Score]:
        """Jensen-Shannon, Hellinger, Wasserstein, KS with the thresholds that the reference's chunks give."""
        a, b = _present(reference.values), _present(current.values)
        fits: dict[Measure, Callable[[Numbers], Fitted[Numbers]]] = {
            "jensen_shannon": lambda a: _binned(a, _jensen_shannon),
            "hellinger": lambda a: _binned(a, hellinger_distance),
            "wasserstein": _wasserstein,
            "kolmogorov_smirnov": _kolmogorov_smirnov,
        }
        if refusal := _refusal(a, b):
            return [_unscored(reference.name, "numeric", measure, refusal) for measure in fits]
        scores = []
        for measure, fit in fits.items():
            fitted = fit(a)
            chunks = (_present(reference.values[chunk]) for chunk in _chunks(reference.values.size))
            threshold = _threshold([fitted(chunk) for chunk in chunks if chunk.size])
            scores.append(_judged(reference.name, "numeric", measure, fitted(b), threshold))
        return scores

    def categorical(self, reference: CategoricalColumn, current: CategoricalColumn) -> list[Score]:
        """Jensen-Shannon, Hellinger, L-infinity with thresholds, chi-square by its p-value."""
        a, b = reference.values[reference.present], current.values[current.present]
        measures: dict[Measure, Callable[[Texts, Texts], float]] = {
            "jensen_shannon": lambda a, b: _jensen_shannon(*_category_shares(a, b)),
            "hellinger": lambda a, b: hellinger_distance(*_category_shares(a, b)),
            "l_infinity": _l_infinity,
        }
        if not (a.size and b.size):
            every: list[Measure] = [*measures, "chi_square"]
            return [_unscored(reference.name, "categorical", measure, "no values") for measure in every]
        scores = []
        for measure, compute in measures.items():
            chunks = (reference.values[c][reference.present[c]] for c in _chunks(reference.values.size))
            threshold = _threshold([compute(a, chunk) for chunk in chunks if chunk.size])
            scores.append(_judged(reference.name, "categorical", measure, compute(a, b), threshold))
        return [*scores, _chi_square(reference.name, a, b)]

    def verdict(self, scores: list[Score]) -> str:  # noqa: ARG002  # the port's signature
        """NannyML alerts by column and says nothing of the data as a whole."""
        return ""


def _refusal(a: Numbers, b: Numbers) -> str:
    if not (a.size and b.size):
        return "no values"
    return "" if np.isfinite(a).all() and np.isfinite(b).all() else "infinite values: leave them out first"


def _unscored(column: str, kind: Kind, measure: Measure, note: str) -> Score:
    return Score(column=column, kind=kind, measure=measure, meaning=_MEANINGS[measure], value=None, note=note)


def _judged(column: str, kind: Kind, measure: Measure, value: float, threshold: float | None) -> Score:
    if measure == "kolmogorov_smirnov" and threshold is not None:
        threshold = min(threshold, 1.0)
    return Score(
        column=column,
        kind=kind,
        measure=measure,
        meaning=_MEANINGS[measure],
        value=value,
        threshold=threshold,
        drifted=None if threshold is None else value > threshold,
        default=measure == "jensen_shannon",
        note="" if threshold is not None else f"the reference has fewer than {_CHUNKS} rows: no threshold",
    )


def _present(values: Numbers) -> Numbers:
    return values[~np.isnan(values)]


def _chunks(rows: int) -> Iterator[slice]:
    """Ten chunks of equal size in row order, and the remainder as one more; none of fewer than ten rows."""
    size = rows // _CHUNKS
    for start in range(0, rows, size) if size else ():
        yield slice(start, start + size)


def _threshold(of_chunks: list[float]) -> float | None:
    """Mean and three standard deviations (of the population) of a measure over the reference's chunks."""
    if not of_chunks:
        return None
    return float(np.mean(of_chunks) + np.std(of_chunks) * _DEVIATIONS)


def _jensen_shannon(p: F64, q: F64) -> float:
    return jensen_shannon_distance(p, q, base=2)


def _binned(reference: Numbers, distance: Callable[[F64, F64], float]) -> Fitted[Numbers]:
    """A distance over Doane's edges of the reference, with a bin for the rows outside them."""
    edges = np.histogram_bin_edges(reference.astype(np.float64), bins="doane")
    p = np.histogram(reference, edges)[0] / reference.size

    def measure(rows: Numbers) -> float:
        return distance(*_with_leftover(p, np.histogram(rows, edges)[0] / rows.size))

    return measure


def _with_leftover(p: F64, q: F64) -> tuple[F64, F64]:
    """Both, with the share that `q` lacks as a bin that the reference never fills; rounding may make one, too."""
    leftover = 1 - np.sum(q)
    return (np.append(p, 0.0), np.append(q, leftover)) if leftover > 0 else (p, q)


def _category_shares(a: Texts, b: Texts) -> tuple[F64, F64]:
    """Shares of the reference's categories, and of all others together."""
    counts_a, counts_b = aligned_counts(a, b)
    known = counts_a > 0
    return _with_leftover(counts_a[known] / a.size, counts_b[known] / b.size)


def _kolmogorov_smirnov(reference: Numbers) -> Fitted[Numbers]:
    """The KS statistic, on a grid of 10,000 bins when the reference has as many rows."""
    if reference.size < _GRID_FROM_ROWS:
        return lambda rows: ks_two_sample(reference, rows)[0]
    counts, edges = np.histogram(reference, np.linspace(reference.min(), reference.max(), _GRID_BINS + 1))
    reference_cdf = np.cumsum(counts / reference.size)

    def measure(rows: Numbers) -> float:
        shares = np.histogram(rows, edges)[0] / rows.size
        below = np.count_nonzero(rows < edges[0]) / rows.size
        return float(np.max(np.abs(reference_cdf - (below + np.cumsum(shares)))))

    return measure


def _wasserstein(reference: Numbers) -> Fitted[Numbers]:
    """The Wasserstein distance, on a grid of 10,000 bins when the reference has as many rows.

    Rows outside the grid count by their own distribution function, whose step at the grid's edge weighs as one
    more row: that is NannyML's arithmetic, kept as it is.
    """
    if reference.size < _GRID_FROM_ROWS:
        return lambda rows: wasserstein_distance(reference, rows)
    counts, edges = np.histogram(reference, bins=_GRID_BINS)
    reference_cdf, width = np.cumsum(counts / reference.size), edges[1] - edges[0]

    def measure(rows: Numbers) -> float:
        below, above = rows[rows < edges[0]].astype(np.float64), rows[rows > edges[-1]].astype(np.float64)
        under = over = share_below = 0.0
        if below.size:
            share_below = (below.size + 1) / rows.size
            x, cdf = _steps(np.append(below, edges[0]))
            under = float(np.sum(cdf[:-1] * np.diff(x))) * share_below
        if above.size:
            x, cdf = _steps(np.append(above, edges[-1]))
            over = float(np.sum((1 - cdf)[:-1] * np.diff(x))) * ((above.size + 1) / rows.size)
        cdf = np.cumsum(np.histogram(rows, edges)[0] / rows.size) + share_below
        return float(np.sum(np.abs(reference_cdf - cdf) * width)) + under + over

    return measure


def _steps(values: F64) -> tuple[F64, F64]:
    """Distinct values, ascending, and the empirical distribution function at each."""
    distinct, counts = np.unique(values, return_counts=True)
    return distinct, np.cumsum(counts) / values.size


def _l_infinity(a: Texts, b: Texts) -> float:
    counts_a, counts_b = aligned_counts(a, b)
    return float(np.max(np.abs(counts_a / a.size - counts_b / b.size)))


def _chi_square(column: str, a: Texts, b: Texts) -> Score:
    statistic, freedom = contingency_chi_square(*aligned_counts(a, b))
    p_value = float(chi2_sf(statistic, freedom)) if freedom else 1.0
    return Score(
        column=column,
        kind="categorical",
        measure="chi_square",
        meaning=_MEANINGS["chi_square"],
        value=statistic,
        statistic=statistic,
        p_value=p_value,
        drifted=p_value < _P_BELOW,
        note=f"judged by p < {_P_BELOW}",
    )
