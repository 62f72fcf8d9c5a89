"""How far two samples of the same cells are apart: chi-square, KS, PSI, Jensen-Shannon, Wasserstein and others.

Every function takes counts with the cells on the last axis and any leading axes (columns, looks), so that a whole
model is one call. Cells are the reference's (`streamserve.drift.schema`): missing, unseen and other values are cells
like the rest, except where a docstring speaks of numbers. These are descriptions: whether a distance could be chance
is the business of `significance`, whether it matters that of `decision`.
"""

from __future__ import annotations

from typing import Final, Protocol

import numpy as np

from streamserve.batch import F64, I64, Bools
from streamserve.drift.dispersion import Dispersion
from streamserve.drift.schema import BINS
from streamserve.drift.special import chi2_sf

POOL_BELOW: Final = 10.0
"""Cells in which either sample is expected to have fewer rows are pooled into one."""


class ReferenceSample(Protocol):
    """What a comparison needs of a reference (or of the segment of one, or of another live profile)."""

    @property
    def counts(self) -> I64:
        """I64[F, C]."""

    @property
    def centers(self) -> F64:
        """F64[F, BINS]: mean of the reference's rows in each bin, without nan."""

    @property
    def std(self) -> F64:
        """F64[F]: standard deviation of numbers, above 0; 1 for categories."""

    @property
    def ordered(self) -> Bools:
        """bool[F]: whether the column is a number."""

    @property
    def dispersion(self) -> Dispersion:
        """How much more the stream varies than independent rows."""


def shares(counts: F64 | I64) -> F64:
    """Share of every cell; zeros where there are no rows."""
    total = counts.sum(axis=-1, keepdims=True)
    result: F64 = np.asarray(counts, np.float64) / np.where(total > 0, total, 1)
    return result


def chi_square(observed: F64 | I64, expected: F64 | I64) -> tuple[F64, F64, F64]:
    """Two-sample chi-square test of homogeneity, rows taken as independent.

    X = sum over both samples and all cells of (count - e)^2 / e, with e = both counts x the sample's share of all
    rows; dof = cells - 1. Cells in which e is under 10 for either sample are pooled into one, which is left out when
    it stays under 10. The decision uses a version that allows for dependence, `significance.p_chi_square`.

    Args:
        observed: counts, [..., C].
        expected: counts of the reference sample, [..., C].

    Returns:
        Statistic, degrees of freedom (0: nothing to compare) and p-value, each [...].

    Source: Pearson, K. (1911), Biometrika 8, 250-254.
    """
    n, m = (np.asarray(counts.sum(axis=-1, keepdims=True), np.float64) for counts in (observed, expected))
    both = np.asarray(observed, np.float64) + expected
    smaller = both * np.minimum(n, m) / np.maximum(n + m, 1.0)
    cells, base, kept = pooled(np.asarray(observed, np.float64), np.asarray(expected, np.float64), smaller)
    pearson, _ = two_sample_terms(cells, base)
    statistic = np.where(kept, pearson, 0.0).sum(axis=-1)
    dof = np.maximum(kept.sum(axis=-1) - 1.0, 0.0)
    return statistic, dof, np.where(dof > 0, chi2_sf(statistic, np.where(dof > 0, dof, 1.0)), 1.0)


def pooled(observed: F64, expected: F64, least: F64) -> tuple[F64, F64, Bools]:
    """Counts with the cells whose `least` is under 10 put into one more cell at the end.

    Returns:
        Both counts as [..., C + 1], zero in cells that are not used, and which cells are.
    """
    large = least >= POOL_BELOW
    rest = (least * ~large).sum(axis=-1, keepdims=True) >= POOL_BELOW
    kept = np.concatenate([large, rest], axis=-1)
    both = []
    for counts in (observed, expected):
        small = (counts * ~large).sum(axis=-1, keepdims=True)
        both.append(np.concatenate([counts, small], axis=-1) * kept)
    return both[0], both[1], kept


def two_sample_terms(observed: F64, expected: F64) -> tuple[F64, F64]:
    """Every cell's part of Pearson's statistic and of the deviance, both samples, [..., C]; 0 for empty cells.

    Pearson: sum of (count - e)^2 / e; deviance: sum of 2 (count ln(count / e) - count + e).
    """
    n, m = observed.sum(axis=-1, keepdims=True), expected.sum(axis=-1, keepdims=True)
    both = (observed + expected) / np.maximum(n + m, 1e-300)
    pearson = np.zeros(both.shape)
    deviance = np.zeros(both.shape)
    for counts, total in ((observed, n), (expected, m)):
        mean = both * total
        safe = np.where(mean > 0, mean, 1.0)
        pearson += np.where(mean > 0, (counts - mean) ** 2 / safe, 0.0)
        ratio = np.where((counts > 0) & (mean > 0), counts / safe, 1.0)
        deviance += np.where(mean > 0, 2.0 * (counts * np.log(ratio) - counts + mean), 0.0)
    return pearson, deviance


def kolmogorov_smirnov(observed: F64 | I64, expected: F64 | I64) -> F64:
    """Largest distance of the two distribution functions at the edges of the bins: numbers only, 0 to 1.

    D = max over bins j of abs(F(j) - G(j)), among the rows that hold a number. It is the two-sample statistic of the
    rows themselves, seen on the grid: never more than it.

    Source: Smirnov, N. (1948), Annals of Mathematical Statistics 19, 279-281.
    """
    difference = np.cumsum(shares(observed[..., :BINS]), axis=-1) - np.cumsum(shares(expected[..., :BINS]), axis=-1)
    result: F64 = np.abs(difference).max(axis=-1)
    return result


def population_stability(observed: F64 | I64, expected: F64 | I64) -> F64:
    """Population stability index, natural logarithm: sum of (p - q) ln(p / q) over the cells.

    A cell that is empty in one sample only counts as half a row there, so that the index stays finite. Between two
    samples of one distribution it is about (1/n + 1/m) times a chi-square variable with cells - 1 degrees of
    freedom, and so has no fixed threshold.

    Source: Lewis, E.M. (1994), An Introduction to Credit Scoring; Kullback & Leibler (1951), Ann. Math. Stat. 22.
    """
    seen = (np.asarray(observed) > 0) | (np.asarray(expected) > 0)
    p = np.where(seen, np.maximum(observed, 0.5) / np.maximum(observed.sum(axis=-1, keepdims=True), 1), 1.0)
    q = np.where(seen, np.maximum(expected, 0.5) / np.maximum(expected.sum(axis=-1, keepdims=True), 1), 1.0)
    result: F64 = ((p - q) * np.log(p / q)).sum(axis=-1)
    return result


def jensen_shannon(observed: F64 | I64, expected: F64 | I64) -> F64:
    """Jensen-Shannon distance, base 2, 0 to 1: the square root of the divergence.

    sqrt(KL(p, mid) / 2 + KL(q, mid) / 2) with mid = (p + q) / 2 and logarithms to base 2.

    Source: Endres, D.M. & Schindelin, J.E. (2003), IEEE Trans. Information Theory 49, 1858-1860.
    """
    p, q = shares(observed), shares(expected)
    middle = 0.5 * (p + q)
    safe = np.where(middle > 0, middle, 1.0)
    parts = [np.where(s > 0, s * np.log2(np.where(s > 0, s / safe, 1.0)), 0.0).sum(axis=-1) for s in (p, q)]
    result: F64 = np.sqrt(np.maximum(0.5 * (parts[0] + parts[1]), 0.0))
    return result


def hellinger(observed: F64 | I64, expected: F64 | I64) -> F64:
    """Hellinger distance, 0 to 1: sqrt(sum of (sqrt(p) - sqrt(q))^2 / 2).

    Source: Hellinger, E. (1909), Journal fuer die reine und angewandte Mathematik 136, 210-271.
    """
    difference = np.sqrt(shares(observed)) - np.sqrt(shares(expected))
    result: F64 = np.sqrt(0.5 * (difference * difference).sum(axis=-1))
    return result


def total_variation(observed: F64 | I64, expected: F64 | I64) -> F64:
    """Total variation distance, 0 to 1: half the sum of abs(p - q): the share of rows that would have to move.

    Source: Levin, D.A., Peres, Y. & Wilmer, E.L. (2009), Markov Chains and Mixing Times, section 4.1.
    """
    result: F64 = 0.5 * np.abs(shares(observed) - shares(expected)).sum(axis=-1)
    return result


def l_infinity(observed: F64 | I64, expected: F64 | I64) -> F64:
    """Largest change of the share of one cell, 0 to 1: max of abs(p - q) (the Chebyshev distance)."""
    result: F64 = np.abs(shares(observed) - shares(expected)).max(axis=-1)
    return result


def wasserstein(observed: F64 | I64, expected: F64 | I64, centers: F64, std: F64) -> F64:
    """Wasserstein-1 distance on the grid, in standard deviations of the reference: numbers only.

    sum over bins of abs(F(j) - G(j)) x (center[j + 1] - center[j]) / std, among the rows that hold a number: every
    row stands at the mean of the reference's rows in its bin. What moves inside of a bin is not seen, and rows
    beyond the outermost centers count as if they lay there.

    Args:
        observed: counts, [..., C].
        expected: counts of the reference sample, [..., C].
        centers: F64[..., BINS], in the column's unit.
        std: F64[...], in the column's unit, above 0.

    Source: Vallender, S.S. (1974), Theory of Probability and its Applications 18, 784-786.
    """
    difference = np.cumsum(shares(observed[..., :BINS]), axis=-1) - np.cumsum(shares(expected[..., :BINS]), axis=-1)
    width = np.maximum(np.diff(centers, axis=-1), 0.0)  # bins that are not used lie anywhere, and hold nothing
    result: F64 = (np.abs(difference[..., :-1]) * width).sum(axis=-1) / std
    return result


def share_change(observed: F64 | I64, expected: F64 | I64, ordered: Bools) -> F64:
    """Largest change of a share that has a name, 0 to 1: missing, unseen, other; for categories any category."""
    difference = np.abs(shares(observed) - shares(expected))
    named = np.arange(difference.shape[-1]) >= np.where(np.asarray(ordered), BINS, 0)[..., None]
    result: F64 = (difference * named).max(axis=-1)
    return result
