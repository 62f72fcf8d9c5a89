"""Formulas that several peers share, on probability vectors and on raw rows.

Owns formulas only: who bins how, and what becomes of zeros, is in the module of each peer. Sums run in the order
of scipy 1.17, so that results agree to the last digits.
"""

from __future__ import annotations

from math import log, nan, sqrt

import numpy as np

from streamserve.batch import F64, I64
from streamserve.drift.tables import Numbers, Texts


def population_stability(p: F64, q: F64) -> float:
    """Population stability index, in nats: `sum((p - q) * ln(p / q))`; symmetric.

    Args:
        p: float64[b], shares of the bins in one sample, none of them zero.
        q: float64[b], those in the other, none of them zero.

    Source: Wu, Olson: Enterprise risk management, J. Oper. Res. Soc. 61 (2010) 179-190.
    """
    with np.errstate(divide="ignore", over="ignore"):
        return float(np.sum((p - q) * np.log(p / q)))


def jensen_shannon_distance(p: F64, q: F64, base: float | None = None) -> float:
    """Jensen-Shannon distance: `sqrt((KL(p, m) + KL(q, m)) / 2)` with `m = (p + q) / 2`.

    Args:
        p: float64[b], non-negative; normalised here, as scipy does.
        q: float64[b], likewise.
        base: of the logarithm; None for nats.

    Returns:
        In [0, sqrt(ln 2)] nats or [0, 1] bits; nan when either has no mass at all.

    Source: Lin: Divergence measures based on the Shannon entropy, IEEE Trans. Inf. Theory 37 (1991) 145-151;
    `scipy.spatial.distance.jensenshannon`.
    """
    mass_p, mass_q = float(np.sum(p)), float(np.sum(q))
    if not (mass_p and mass_q):
        return nan
    p, q = p / mass_p, q / mass_q
    middle = (p + q) / 2.0
    divergence = float(np.sum(_relative_entropy(p, middle)) + np.sum(_relative_entropy(q, middle)))
    if base is not None:
        divergence /= log(base)
    return sqrt(max(divergence, 0.0) / 2.0)


def _relative_entropy(p: F64, q: F64) -> F64:
    """`p * ln(p / q)` a bin, 0 where p is 0."""
    held = p > 0
    terms = np.zeros_like(p)
    terms[held] = p[held] * np.log(p[held] / q[held])
    return terms


def hellinger_distance(p: F64, q: F64) -> float:
    """Hellinger distance: `sqrt(sum((sqrt(p) - sqrt(q))^2) / 2)`, in [0, 1].

    Source: Hellinger, J. reine angew. Math. 136 (1909) 210-271.
    """
    return float(np.sqrt(np.sum((np.sqrt(p) - np.sqrt(q)) ** 2)) / np.sqrt(2))


def wasserstein_distance(a: Numbers, b: Numbers) -> float:
    """First Wasserstein distance of two samples, in their unit: the area between their distribution functions.

    Args:
        a: [n], finite, not empty.
        b: [m], finite, not empty.

    Source: Ramdas, Garcia, Cuturi: On Wasserstein two-sample testing, Entropy 19 (2017) 47;
    `scipy.stats.wasserstein_distance`.
    """
    pooled = np.sort(np.concatenate((a, b)))
    widths = np.diff(pooled)
    cdf_a = np.sort(a).searchsorted(pooled[:-1], "right") / a.size
    cdf_b = np.sort(b).searchsorted(pooled[:-1], "right") / b.size
    return float(np.sum(np.abs(cdf_a - cdf_b) * widths))


def aligned_counts(reference: Numbers | Texts, current: Numbers | Texts) -> tuple[I64, I64]:
    """How often each value of either sample occurs: int64[k] of the reference, int64[k] of the current rows."""
    values, index = np.unique(np.concatenate((reference, current)), return_inverse=True)
    return (
        np.bincount(index[: reference.size], minlength=values.size),
        np.bincount(index[reference.size :], minlength=values.size),
    )


def contingency_chi_square(a: I64, b: I64) -> tuple[float, int]:
    """Chi-square of a two-row table of counts, and its degrees of freedom.

    `sum((observed - expected)^2 / expected)`; with one degree of freedom every count is first brought nearer to
    its expectation by at most 0.5 (Yates).

    Args:
        a: int64[k], counts of the categories in one sample.
        b: int64[k], those in the other; no category is empty in both.

    Source: Pearson, Phil. Mag. 50 (1900) 157-175; Yates, Suppl. J. R. Stat. Soc. 1 (1934) 217-235;
    `scipy.stats.chi2_contingency`.
    """
    observed = np.array([a, b], dtype=np.float64)
    expected = observed.sum(axis=1, keepdims=True) * observed.sum(axis=0, keepdims=True) / observed.sum()
    freedom = observed.shape[1] - 1
    if freedom == 0:
        return 0.0, 0
    if freedom == 1:
        gap = expected - observed
        observed = observed + np.minimum(0.5, np.abs(gap)) * np.sign(gap)
    return float(np.sum((observed - expected) ** 2 / expected)), freedom
