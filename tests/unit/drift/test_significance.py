"""p-values hold under no change, far out, for rare cells, dependence and small references; and find what there is."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from streamserve.drift.dispersion import Dispersion, Effective, contrasts
from streamserve.drift.schema import BINS, CELLS, MISSING, UNSEEN
from streamserve.drift.scores import shares
from streamserve.drift.significance import (
    combined_dof,
    p_chi_square,
    p_contrasts,
    p_rare,
    signed_root,
    significance,
    swing_root,
)

LOOKS = 2000


def worth(rows, dof=np.inf, columns=1, sampled=None):
    return Effective(
        sampled=np.array([float(rows if sampled is None else sampled)]),
        rows=np.full((columns, CELLS), float(rows)),
        dof=np.full((columns, CELLS), float(dof)),
        peak_rows=np.full(columns, float(rows)),
        peak_dof=np.full(columns, float(dof)),
    )


def share_of(kind):
    share = np.zeros(CELLS)
    if kind == "even":
        share[:BINS] = 1 / BINS
    elif kind == "skewed":
        share[:6] = [0.9, 0.06, 0.03, 0.007, 0.002, 0.001]
    else:
        share[:BINS] = 2.0 ** -np.arange(BINS)
    share[MISSING] = 1e-3
    return share / share.sum()


def number():
    return np.array([True])


def category():
    return np.array([False])


@pytest.fixture
def random():
    return np.random.default_rng(3)


@pytest.mark.parametrize("kind", ["even", "skewed", "halving"])
@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize(("rows", "base"), [(300, 3000), (3000, 100_000), (5000, 2000)])
def test_no_change_is_no_finding(random, kind, ordered, rows, base):
    share = share_of(kind)
    counts = random.multinomial(rows, share, LOOKS)[:, None, :]
    expected = random.multinomial(base, share, LOOKS)[:, None, :]
    found = significance(counts, expected, np.array([ordered]), worth(rows), worth(base))
    for level in (0.05, 0.01, 0.002):
        allowed = LOOKS * level + 4 * np.sqrt(LOOKS * level)
        for p in (found.p, found.contrasts, found.chi_square, found.rare):
            assert (p <= level).sum() <= allowed


def test_a_root_is_normal_far_out_where_a_standard_error_is_not():
    # 30 of 600 where 1 in 100 is usual: exact binomial tail against both approximations
    rows, chance, hits = 600.0, 0.02, 44
    p, q = np.zeros((1, CELLS)), np.zeros((1, CELLS))
    p[0, 0], q[0, 0] = hits / rows, chance
    root, _ = signed_root(p, q, worth(rows), worth(1e12))
    exact = scipy.stats.binom.sf(hits - 1, rows, chance)
    from_root = scipy.stats.norm.sf(root[0, 0])
    from_error = scipy.stats.norm.sf((hits / rows - chance) / np.sqrt(chance * (1 - chance) / rows))
    assert from_root == pytest.approx(exact, rel=0.5)
    assert from_error < exact / 100


def test_the_contrast_of_a_median_is_students(random):
    share = np.zeros((1, CELLS))
    share[0, :2] = 0.5
    moved = np.zeros((1, CELLS))
    moved[0, :2] = [0.55, 0.45]
    for dof in (10.0, 100.0, np.inf):
        p = p_contrasts(contrasts(moved, number()), contrasts(share, number()), worth(4000, dof), worth(1e12))
        root, freedom = signed_root(
            contrasts(moved, number()), contrasts(share, number()), worth(4000, dof), worth(1e12)
        )
        expected = 2 * scipy.stats.t.sf(root[0, 0], freedom[0, 0]) * CELLS
        assert p[0] == pytest.approx(min(expected, 1.0), rel=1e-9)


def test_chi_square_is_no_larger_than_pearsons(random):
    share = share_of("even")
    counts, expected = random.multinomial(5000, share), random.multinomial(50_000, share)
    p = p_chi_square(shares(counts[None]), shares(expected[None]), worth(5000), worth(50_000))
    big = slice(0, BINS)
    table = scipy.stats.chi2_contingency([counts[big], expected[big]], correction=False)
    assert p[0] >= table.pvalue * 0.999


def test_few_degrees_of_freedom_make_it_careful(random):
    share = share_of("even")
    tilted = np.where(np.arange(CELLS) % 2, share * 1.3, share)
    counts = random.multinomial(5000, tilted / tilted.sum())[None]
    expected = random.multinomial(50_000, share)[None]
    sure, unsure = (
        p_chi_square(shares(counts), shares(expected), worth(5000, dof), worth(50_000, dof))[0] for dof in (np.inf, 12)
    )
    assert sure < 1e-6 < unsure
    assert significance(counts, expected, number(), worth(5000, 0), worth(50_000, 0)).p[0] == 1.0


def test_a_new_category_is_found_by_the_exact_binomial():
    p, q = np.zeros((1, CELLS)), np.zeros((1, CELLS))
    p[0, 0], p[0, UNSEEN] = 0.99, 0.01
    q[0, 0] = 1.0
    found = p_rare(p, q, category(), worth(600), worth(100_000))
    assert found[0] == pytest.approx((600 / 100_600) ** 6 * CELLS, rel=1e-9)


def test_rare_cells_are_fishers_test_for_large_references(random):
    p, q = np.zeros((1, CELLS)), np.zeros((1, CELLS))
    p[0, :2], q[0, :2] = [0.995, 0.005], [0.9999, 0.0001]
    exact = scipy.stats.fisher_exact([[5, 995], [10, 99_990]], alternative="greater").pvalue
    assert p_rare(p, q, category(), worth(1000), worth(100_000))[0] == pytest.approx(exact * CELLS, rel=0.1)


def test_an_inflated_stream_needs_more_hits():
    p, q = np.zeros((1, CELLS)), np.zeros((1, CELLS))
    p[0, 0], p[0, UNSEEN] = 0.99, 0.01
    q[0, 0] = 1.0
    alone = p_rare(p, q, category(), worth(600), worth(100_000))[0]
    clustered = p_rare(p, q, category(), worth(600 / 3), worth(100_000 / 3))[0]
    unsure = p_rare(p, q, category(), worth(600, 20), worth(100_000, 20))[0]
    assert alone < clustered
    assert alone < unsure


def test_a_shift_and_a_spread_and_missing_values_are_found(random):
    share = share_of("even")
    shifted = share * np.where(np.arange(CELLS) < BINS, np.linspace(0.8, 1.2, CELLS), 1.0)
    spread = share * np.where(np.arange(CELLS) < BINS, 0.8 + 0.4 * np.abs(np.linspace(-1, 1, CELLS)), 1.0)
    missing = share.copy()
    missing[MISSING] = 0.02
    expected = random.multinomial(200_000, share)[None]
    for changed in (shifted, spread, missing):
        counts = random.multinomial(20_000, changed / changed.sum())[None]
        assert significance(counts, expected, number(), worth(20_000), worth(200_000)).p[0] < 1e-8


def test_a_reference_of_a_few_thousand_rows_carries_its_own_error(random):
    share = share_of("even")
    small, large = (random.multinomial(rows, share, 400)[:, None, :] for rows in (2000, 200_000))
    found = significance(large, small, number(), worth(200_000), worth(2000))
    assert found.p.min() > 1e-5
    blind = significance(large, small, number(), worth(200_000), worth(200_000))
    assert blind.p.min() < 1e-12


def one(value):
    return np.array([float(value)])


def test_without_swings_the_root_is_the_binomials():
    for share in (0.05, 0.3, 0.6):
        plain, _ = signed_root(np.full((1, CELLS), share), np.full((1, CELLS), 0.25), worth(800), worth(90_000))
        assert swing_root(one(share), one(0.25), one(800), one(90_000), one(0))[0] == pytest.approx(
            plain[0, 0], rel=2e-3
        )


def test_with_many_rows_the_root_is_the_swing_alone():
    log_odds = np.log(0.12 / 0.88) - np.log(0.02 / 0.98)
    root = swing_root(one(0.12), one(0.02), one(1e9), one(1e9), one(0.25))[0]
    assert root == pytest.approx(log_odds / 0.5, rel=1e-3)


def test_a_share_that_swings_by_factors_is_no_finding_when_it_does(random):
    # log-odds of missing values swing by 0.5 from window to window: 2 % becomes 10 %
    log_odds = np.log(0.02 / 0.98) + 0.5 * random.standard_normal((20_000, 1))
    hits = random.binomial(600, 1 / (1 + np.exp(-log_odds)))
    counts = np.zeros((20_000, 1, CELLS))
    counts[:, 0, 0], counts[:, 0, MISSING] = 600 - hits[:, 0], hits[:, 0]
    factor = hits.var() / (600 * hits.mean() / 600 * (1 - hits.mean() / 600))
    expected = np.broadcast_to(counts.sum(axis=0), counts.shape)
    rows = float(expected[0].sum())
    found = significance(
        counts, expected, category(), worth(600 / factor, sampled=600), worth(rows / factor, sampled=rows)
    )
    assert factor > 3
    assert hits.max() > 60
    assert found.p.min() > 1e-6


def test_errors_of_both_samples_add_up():
    assert combined_dof(np.float64(100), np.float64(50), np.float64(1e12), np.float64(5)) == pytest.approx(50, rel=1e-3)
    assert combined_dof(np.float64(100), np.float64(50), np.float64(100), np.float64(50)) == pytest.approx(50)
    assert combined_dof(np.float64(100), np.float64(50), np.float64(100), np.float64(0)) == 0


def test_nothing_in_either_sample_is_no_finding():
    nothing = np.zeros((1, CELLS), np.int64)
    dispersion = Dispersion.independent(1, CELLS)
    window = dispersion.inflation(6).effective(0.0)
    assert significance(nothing, nothing, category(), window, window).p[0] == 1.0
