"""Tails against scipy, over wide random ranges and far out."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from streamserve.drift import special

SEED = 7


def furthest(ours, theirs, least=1e-300):
    """Largest relative difference where the tail is a floating point number."""
    inside = theirs > least
    return float(np.max(np.abs(ours - theirs)[inside] / theirs[inside]))


@pytest.fixture
def random():
    return np.random.default_rng(SEED)


def test_chi_square(random):
    dof = random.uniform(0.5, 300, 20_000)
    x = dof * np.exp(random.uniform(-4, 3, 20_000))
    theirs = scipy.stats.chi2.sf(x, dof)
    assert furthest(special.chi2_sf(x, dof), theirs) < 1e-11
    assert theirs.min() < 1e-250


def test_f(random):
    above, below = random.uniform(0.5, 40, 20_000), np.exp(random.uniform(0, 9, 20_000))
    x = np.exp(random.uniform(-3, 6, 20_000))
    theirs = scipy.stats.f.sf(x, above, below)
    assert furthest(special.f_sf(x, above, below), theirs, 1e-200) < 1e-8
    assert special.f_sf(3.0, 5.0, np.inf) == pytest.approx(scipy.stats.chi2.sf(15.0, 5), rel=1e-12)


def test_student(random):
    dof, t = np.exp(random.uniform(0, 9, 20_000)), np.exp(random.uniform(-3, 4, 20_000))
    assert furthest(special.student_two_sided(t, dof), 2 * scipy.stats.t.sf(t, dof)) < 1e-10
    assert special.student_two_sided(50.0, 0.0) == 1.0


def test_normal():
    x = np.linspace(-6, 37, 2000)
    assert furthest(special.normal_sf(x), scipy.stats.norm.sf(x)) < 1e-11


def test_binomial(random):
    n = np.floor(np.exp(random.uniform(0, 12, 20_000)))
    p = np.exp(random.uniform(-12, -0.01, 20_000))
    k = np.clip(np.floor(n * p + random.uniform(-3, 40, 20_000) * np.sqrt(n * p + 1)), 0, n)
    # scipy itself errs by 3e-8 near 1e-266 (compared with exact sums)
    assert furthest(special.binomial_sf(k, n, p), scipy.stats.binom.sf(k - 1, n, p), 1e-100) < 1e-9


def test_binomial_is_exact_far_out():
    # sum over j = 1853 ... 1875 of C(1875, j) p^j (1 - p)^(1875 - j), in 60 digits
    assert special.binomial_sf(1853, 1875, 0.6839335395125407) == pytest.approx(1.544254418351685e-266, rel=1e-11)


def test_the_logarithm_goes_on_where_the_tail_is_zero():
    assert special.binomial_sf(2000, 2000, 1e-3) == 0.0
    assert special.log_binomial_sf(2000, 2000, 1e-3) == pytest.approx(2000 * np.log(1e-3), rel=1e-12)


@pytest.mark.parametrize(
    ("k", "n", "expected"), [(0, 10, 1.0), (-3, 10, 1.0), (11, 10, 0.0), (10, 10, 0.25**10), (1, 0, 0.0)]
)
def test_binomial_at_the_ends(k, n, expected):
    assert special.binomial_sf(k, n, 0.25) == pytest.approx(expected, rel=1e-12)


def test_hypergeometric(random):
    marked, unmarked = (np.floor(np.exp(random.uniform(1, 11, 3000))) for _ in range(2))
    drawn = np.floor((marked + unmarked) * random.uniform(0, 1, 3000))
    mean = marked * drawn / (marked + unmarked)
    k = np.floor(mean + random.uniform(-3, 10, 3000) * np.sqrt(mean * unmarked / (marked + unmarked) + 1))
    theirs = scipy.stats.hypergeom.sf(k - 1, marked + unmarked, marked, drawn)
    assert furthest(special.hypergeometric_sf(k, marked, unmarked, drawn), theirs) < 1e-7


@pytest.mark.parametrize("n", [50, 1000, 5000])
def test_kolmogorov_is_near_in_the_body_and_never_too_small_in_the_tail(n):
    d = np.linspace(0.3, 4, 40) / np.sqrt(n)
    ours, theirs = special.kolmogorov_sf(d, n), scipy.stats.kstwo.sf(d, n)
    body = theirs > 2e-3
    assert np.abs(ours - theirs)[body].max() < 0.03 / n**0.5
    assert np.all(ours >= theirs * (1 - 1e-3))


@pytest.mark.parametrize("p", [1e-300, 1e-20, 1e-5, 0.3, 0.5, 0.7, 0.999, 1 - 1e-10])
def test_normal_quantile(p):
    assert special.normal_quantile(p) == pytest.approx(scipy.stats.norm.ppf(p), rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("p", [1e-6, 0.01, 0.5, 0.95, 1 - 1e-9])
def test_chi_square_quantile(p):
    dof = np.array([1.0, 2, 5, 33, 100])
    assert special.chi2_quantile(p, dof) == pytest.approx(scipy.stats.chi2.ppf(p, dof), rel=1e-9)


@settings(max_examples=200, deadline=None)
@given(st.just(0.0) | st.floats(1e-290, 1), st.floats(0.01, 1e4), st.floats(0.01, 1e4))
def test_incomplete_beta_is_a_distribution_function(x, a, b):
    value = float(special.beta_cdf(x, a, b))
    assert 0.0 <= value <= 1.0
    assert value == pytest.approx(scipy.stats.beta.cdf(x, a, b), rel=1e-6, abs=1e-12)
