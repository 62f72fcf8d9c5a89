"""Scores on cells are what scipy says of the same distributions."""

from __future__ import annotations

import numpy as np
import scipy.spatial.distance
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from streamserve.drift import scores
from streamserve.drift.schema import BINS, CELLS


def drawn(seed, empty, least, largest):
    """Counts of every cell, some empty, the others of any order of magnitude from `least` to `largest`."""
    random = np.random.default_rng(seed)
    counts = np.floor(np.exp(random.uniform(np.log(least), np.log(largest), CELLS)))
    return np.where(random.random(CELLS) < empty, 0, counts).astype(np.int64)


def counts_of(empty=(0.0, 0.3, 0.9), least=1, largest=(3, 50, 100_000)):
    return st.builds(drawn, st.integers(0, 2**32), st.sampled_from(empty), st.just(least), st.sampled_from(largest))


COUNTS = counts_of()
CENTERS = st.integers(0, 2**32).map(lambda seed: np.sort(np.random.default_rng(seed).standard_cauchy(BINS)))


def some(counts):
    return counts.sum() > 0


def numeric(counts):
    return counts[:BINS].sum() > 0


@settings(max_examples=200, deadline=None)
@given(COUNTS.filter(some), COUNTS.filter(some))
def test_jensen_shannon_is_scipys_distance_to_base_two(a, b):
    theirs = scipy.spatial.distance.jensenshannon(a, b, base=2)
    # scipy takes the root of a small negative number where both are the same
    assert np.isclose(scores.jensen_shannon(a, b), np.nan_to_num(theirs), atol=1e-6)


@settings(max_examples=200, deadline=None)
@given(COUNTS.filter(numeric), COUNTS.filter(numeric), CENTERS, st.floats(0.1, 1e3))
def test_wasserstein_is_scipys_on_the_centers(a, b, centers, std):
    theirs = scipy.stats.wasserstein_distance(centers, centers, a[:BINS], b[:BINS])
    ours = scores.wasserstein(a, b, centers, np.float64(std))
    assert np.isclose(ours * std, theirs, rtol=1e-9, atol=1e-6)


@settings(max_examples=100, deadline=None)
@given(counts_of(largest=(3, 40)).filter(numeric), counts_of(largest=(3, 40)).filter(numeric))
def test_kolmogorov_smirnov_is_scipys_statistic_of_the_bins(a, b):
    bins = np.arange(BINS)
    few = min(a[:BINS].sum(), b[:BINS].sum()) < 5  # scipy's asymptotic p-value divides by zero for one row against one
    method = "exact" if few else "asymp"
    theirs = scipy.stats.ks_2samp(np.repeat(bins, a[:BINS]), np.repeat(bins, b[:BINS]), method=method).statistic
    assert np.isclose(scores.kolmogorov_smirnov(a, b), theirs)


@settings(max_examples=200, deadline=None)
@given(counts_of(empty=(0.0,), least=40, largest=(5000,)), st.integers(1, 20))
def test_chi_square_is_scipys_contingency_table(a, times):
    b = a[::-1] * times
    table = scipy.stats.chi2_contingency([a, b], correction=False)
    if table.expected_freq.min() < 10:
        return
    statistic, dof, p = scores.chi_square(a, b)
    assert np.isclose(statistic, table.statistic)
    assert dof == table.dof
    assert np.isclose(p, table.pvalue, rtol=1e-8)


@settings(max_examples=100, deadline=None)
@given(COUNTS.filter(some), COUNTS.filter(some))
def test_the_rest_by_their_formulas(a, b):
    p, q = a / a.sum(), b / b.sum()
    assert np.isclose(scores.total_variation(a, b), np.abs(p - q).sum() / 2)
    assert np.isclose(scores.l_infinity(a, b), scipy.spatial.distance.chebyshev(p, q))
    assert np.isclose(scores.hellinger(a, b), np.linalg.norm(np.sqrt(p) - np.sqrt(q)) / np.sqrt(2))
    assert np.isclose(scores.share_change(a, b, np.bool_(False)), np.abs(p - q).max())
    assert np.isclose(scores.share_change(a, b, np.bool_(True)), np.abs(p - q)[BINS:].max())


@settings(max_examples=100, deadline=None)
@given(counts_of(empty=(0.0,)), counts_of(empty=(0.0,)))
def test_psi_is_the_sum_of_both_relative_entropies(a, b):
    theirs = scipy.stats.entropy(a, b) + scipy.stats.entropy(b, a)
    assert np.isclose(scores.population_stability(a, b), theirs)


@settings(max_examples=100, deadline=None)
@given(COUNTS.filter(some), COUNTS.filter(some))
def test_bounds_hold_between_distances(a, b):
    variation, hellinger = scores.total_variation(a, b), scores.hellinger(a, b)
    assert 0 <= hellinger**2 <= variation + 1e-12
    assert variation <= np.sqrt(2) * hellinger + 1e-12
    assert scores.l_infinity(a, b) <= variation + 1e-12
    assert 0 <= scores.jensen_shannon(a, b) <= 1 + 1e-12
    assert np.isfinite(scores.population_stability(a, b))


@settings(max_examples=50, deadline=None)
@given(st.lists(COUNTS, min_size=3, max_size=3).map(np.stack), st.integers(0, 2))
def test_columns_at_once_are_the_columns_one_by_one(counts, column):
    other = counts[::-1]
    for score in (scores.jensen_shannon, scores.population_stability, scores.hellinger, scores.kolmogorov_smirnov):
        assert np.isclose(score(counts, other)[column], score(counts[column], other[column]))
