"""Evidently's definitions (0.7.23, `evidently/legacy/calculations/stattests`, Apache-2.0), written anew on numpy.

Bins of a number are Sturges' edges over reference *and* current rows, so that a score changes with what it is
compared to; with 20 distinct reference values or fewer every value is a bin. Missing and infinite values are
dropped first. An empty bin counts as a share of 0.0001, or a millionth of the smallest share where that is
smaller still. Chi-square takes the reference as exact (one sample). `n_bins` has no effect in that release.
"""

from __future__ import annotations

from collections.abc import Callable
from math import erfc, isnan, nan, sqrt
from typing import Final

import numpy as np

from streamserve.batch import F64
from streamserve.drift.compat.distances import (
    aligned_counts,
    jensen_shannon_distance,
    population_stability,
    wasserstein_distance,
)
from streamserve.drift.compat.ks_test import ks_two_sample
from streamserve.drift.compat.report import Measure, Score
from streamserve.drift.schema import Kind
from streamserve.drift.special import chi2_sf
from streamserve.drift.tables import CategoricalColumn, Numbers, NumericColumn, Texts

_DISTANCE_FROM: Final = 0.1
_P_UP_TO: Final = 0.05
_BY_VALUE_UP_TO: Final = 20
"""Distinct reference values up to which each is a bin of its own."""
_TEST_UP_TO_ROWS: Final = 1000
"""Reference rows up to which a test decides, beyond which a distance does."""
_DRIFT_SHARE: Final = 0.5

_MEANINGS: Final[dict[Measure, str]] = {
    "psi": "nats; Sturges bins of both samples",
    "jensen_shannon": "distance, nats; Sturges bins of both samples",
    "hellinger": "distance; Sturges bins of both samples' distinct values",
    "wasserstein": "in standard deviations of the reference",
    "kolmogorov_smirnov": "p-value",
    "chi_square": "p-value, reference taken as exact",
    "z": "p-value, difference of two shares",
}


class Evidently:
    """Scores as `evidently` computes them."""

    version = "0.7.23"

    def numeric(self, reference: NumericColumn, current: NumericColumn) -> list[Score]:
        """PSI, Jensen-Shannon, Hellinger, Wasserstein, KS; chi-square or z where Evidently would choose it."""
        a, b = _finite(reference.values), _finite(current.values)
        default = _default(a, b, "numeric")
        measures: dict[Measure, Callable[[], float]] = {
            "psi": lambda: _psi(a, b),
            "jensen_shannon": lambda: _jensen_shannon(a, b),
            "hellinger": lambda: _hellinger(a, b),
            "wasserstein": lambda: wasserstein_distance(a, b) / max(float(np.std(a)), 0.001),
            "kolmogorov_smirnov": lambda: ks_two_sample(a, b)[1],
        }
        if default in {"chi_square", "z"}:
            measures[default] = lambda: _z(a, b) if default == "z" else _chi_square(a, b)
        return _scores(reference.name, "numeric", measures, default, empty=not (a.size and b.size))

    def categorical(self, reference: CategoricalColumn, current: CategoricalColumn) -> list[Score]:
        """PSI, Jensen-Shannon, Hellinger, chi-square; z for two categories."""
        a, b = reference.values[reference.present], current.values[current.present]
        measures: dict[Measure, Callable[[], float]] = {
            "psi": lambda: _psi(a, b),
            "jensen_shannon": lambda: _jensen_shannon(a, b),
            "hellinger": lambda: _hellinger(a, b),
            "chi_square": lambda: _chi_square(a, b),
        }
        if np.unique(np.concatenate((a, b))).size <= 2:
            measures["z"] = lambda: _z(a, b)
        default = _default(a, b, "categorical")
        return _scores(reference.name, "categorical", measures, default, empty=not (a.size and b.size))

    def verdict(self, scores: list[Score]) -> str:
        """Drift of the data: half the columns or more drift by their default measure."""
        decided = [score.drifted for score in scores if score.default and score.drifted is not None]
        if not decided:
            return ""
        drifted = sum(decided)
        word = "drift" if drifted / len(decided) >= _DRIFT_SHARE else "no drift"
        return f"dataset {word}: {drifted} of {len(decided)} columns drift, the limit is {_DRIFT_SHARE:.0%}"


def _scores(
    column: str, kind: Kind, measures: dict[Measure, Callable[[], float]], default: Measure, *, empty: bool
) -> list[Score]:
    scores = []
    for measure, compute in measures.items():
        is_p = measure in {"kolmogorov_smirnov", "chi_square", "z"}
        computed = nan if empty else compute()
        value = None if isnan(computed) else computed
        scores.append(
            Score(
                column=column,
                kind=kind,
                measure=measure,
                meaning=_MEANINGS[measure],
                value=value,
                p_value=value if is_p else None,
                threshold=_P_UP_TO if is_p else _DISTANCE_FROM,
                drifted=None if value is None else _drifted(measure, value),
                default=measure == default,
                note="no values" if empty else "one value only: no test" if value is None else "",
            )
        )
    return scores


def _drifted(measure: Measure, value: float) -> bool:
    if measure == "kolmogorov_smirnov":
        return value <= _P_UP_TO
    if measure in {"chi_square", "z"}:
        return value < _P_UP_TO
    return value >= _DISTANCE_FROM


def _default(a: Numbers | Texts, b: Numbers | Texts, kind: Kind) -> Measure:
    """What Evidently's `registry.py` picks."""
    distinct = np.unique(np.concatenate((a, b))).size
    if a.size <= _TEST_UP_TO_ROWS:
        if kind == "numeric" and distinct > 5:
            return "kolmogorov_smirnov"
        return "chi_square" if distinct > 2 else "z"
    return "wasserstein" if kind == "numeric" and distinct > 5 else "jensen_shannon"


def _finite(values: Numbers) -> Numbers:
    return values[np.isfinite(values)]


def _shares(a: Numbers | Texts, b: Numbers | Texts) -> tuple[F64, F64]:
    """Shares of the same bins: by value, or Sturges' edges over both samples."""
    if a.dtype.kind in "if" and np.unique(a).size > _BY_VALUE_UP_TO:
        edges = np.histogram_bin_edges(np.concatenate((a, b)), bins="sturges")
        return np.histogram(a, edges)[0] / a.size, np.histogram(b, edges)[0] / b.size
    counts_a, counts_b = aligned_counts(a, b)
    return counts_a / a.size, counts_b / b.size


def _filled(shares: F64) -> F64:
    """Shares with zeros replaced."""
    smallest = float(shares[shares > 0].min())
    return np.where(shares == 0, smallest / 10**6 if smallest <= 0.0001 else 0.0001, shares)


def _psi(a: Numbers | Texts, b: Numbers | Texts) -> float:
    p, q = _shares(a, b)
    return population_stability(_filled(p), _filled(q))


def _jensen_shannon(a: Numbers | Texts, b: Numbers | Texts) -> float:
    return jensen_shannon_distance(*_shares(a, b))


def _hellinger(a: Numbers | Texts, b: Numbers | Texts) -> float:
    """`sqrt(1 - sum(sqrt(p * q)))`; the edges come from the *distinct* values, rows outside them count nowhere."""
    if a.dtype.kind in "if":
        edges = np.histogram_bin_edges(np.unique(np.concatenate((a, b))), bins="sturges")
        p, q = (np.histogram(x, edges, density=True)[0] for x in (a, b))
        affinity = float(np.sum(np.sqrt(p * q))) * float(edges[-1] - edges[0]) / (len(edges) - 1)
    else:
        counts_a, counts_b = aligned_counts(a, b)
        affinity = float(np.sum(np.sqrt((counts_a / a.size) * (counts_b / b.size))))
    return sqrt(1.0 - min(affinity, 1.0))


def _chi_square(a: Numbers | Texts, b: Numbers | Texts) -> float:
    """`sum((current - expected)^2 / expected)` with expected counts from the reference, k - 1 degrees of freedom."""
    counts_a, counts_b = aligned_counts(a, b)
    if counts_a.size == 1:
        return nan
    expected = counts_a * (b.size / a.size)
    if (expected == 0).any():
        return 0.0  # a category the reference does not have: the statistic is infinite
    return float(chi2_sf(float(np.sum((counts_b - expected) ** 2 / expected)), counts_a.size - 1))


def _z(a: Numbers | Texts, b: Numbers | Texts) -> float:
    """Two-sided z-test of the share of rows that are not the lowest value."""
    lowest = np.unique(np.concatenate((a, b)))[0]
    p, q = float(np.mean(a != lowest)), float(np.mean(b != lowest))
    pooled = (p * a.size + q * b.size) / (a.size + b.size)
    if pooled == 0.0:
        return 1.0  # one value in both
    return erfc(abs(p - q) / sqrt(pooled * (1.0 - pooled) * (1.0 / a.size + 1.0 / b.size)) / sqrt(2.0))
