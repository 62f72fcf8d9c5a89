"""What is learnt of how long batches take, and what is promised of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamserve.pipeline.latency_model import LatencyModel, Line

SIZES = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]

unhurried = settings(deadline=None, max_examples=40)
row_seconds = st.floats(1e-6, 5e-3)
batch_seconds = st.floats(1e-5, 2e-2)
budgets = st.floats(-1.0, 100.0)


@st.composite
def lines(draw):
    level = draw(st.floats(0.2, 5))
    return Line(
        draw(st.floats(0, 5e-3)),
        draw(st.floats(1e-6, 2e-2)),
        level,
        level + draw(st.floats(0, 3)),
        only=draw(st.sampled_from([0, 0, 1, 64])),
    )


def taught(a_s, b_s, seed, *, noise=0.0, outliers=0.0, batches=200, sizes=SIZES):
    generator = np.random.default_rng(seed)
    model = LatencyModel()
    for n in generator.choice(sizes, batches).tolist():
        seconds = (a_s * n + b_s) * (1 + noise * generator.standard_normal())
        if generator.random() < outliers:
            seconds *= generator.uniform(5, 100)
        model.observe(n, seconds)
    return model.line


@unhurried
@given(row_seconds, batch_seconds, st.integers(0, 2**32))
def test_exact_timings_are_recovered(a_s, b_s, seed):
    line = taught(a_s, b_s, seed)
    assert line.row_s == pytest.approx(a_s, rel=1e-6)
    assert line.batch_s == pytest.approx(b_s, rel=1e-3)
    assert (line.level, line.margin) == (pytest.approx(1, rel=1e-3), pytest.approx(1, rel=1e-2))


@unhurried
@given(row_seconds, batch_seconds, st.integers(0, 2**32))
def test_noise_and_one_outlier_in_twenty_move_no_prediction_far(a_s, b_s, seed):
    line = taught(a_s, b_s, seed, noise=0.03, outliers=0.05)
    for n in SIZES:
        assert line.typical_s(n) == pytest.approx(a_s * n + b_s, rel=0.25)
    assert line.row_s == pytest.approx(a_s, rel=0.25) or line.row_s * 512 < 0.25 * b_s


@unhurried
@given(row_seconds, batch_seconds, st.integers(0, 2**32))
def test_a_p99_is_above_nearly_all_batches_and_not_far_above_without_outliers(a_s, b_s, seed):
    line = taught(a_s, b_s, seed, noise=0.05)
    fresh = np.random.default_rng(seed + 1)
    kept = 0.0
    for n in SIZES:
        took = (a_s * n + b_s) * (1 + 0.05 * fresh.standard_normal(1000))
        kept += (took <= line.p99_s(n)).mean() / len(SIZES)
        assert line.p99_s(n) < 1.5 * (a_s * n + b_s)
    assert kept > 0.9


@given(lines(), budgets, budgets)
def test_more_time_never_means_fewer_rows_and_no_budget_means_none(line, one_s, other_s):
    less, more = sorted((one_s, other_s))
    assert 1 <= line.rows_within(less) <= line.rows_within(more)


@given(lines(), st.floats(1e-5, 100))
def test_what_is_said_to_fit_fits_and_one_row_more_does_not(line, budget_s):
    rows = line.rows_within(budget_s)
    assert rows == 1 or line.p99_s(rows) <= budget_s * (1 + 1e-9)
    if rows < 1 << 30 and rows >= line.only:
        assert line.p99_s(rows + 1) >= budget_s * (1 - 1e-9)


@given(lines(), st.integers(1, 65536), st.integers(1, 65536))
def test_a_batch_never_gets_shorter_by_more_rows(line, one, other):
    fewer, more = sorted((one, other))
    assert line.typical_s(fewer) <= line.typical_s(more)
    assert line.p99_s(fewer) <= line.p99_s(more)


@given(lines(), st.integers(1, 65536))
def test_the_best_throughput_is_all_but_that_of_the_largest_batch(line, most):
    rows = line.best_throughput_rows(most)
    assert 1 <= rows <= most
    assert rows / line.typical_s(rows) >= 0.994 * most / line.typical_s(most)


def test_without_a_cost_of_the_batch_a_single_row_is_as_good_as_many():
    assert Line(1e-3, 0.0).best_throughput_rows(512) == 1
    assert Line(0.0, 1e-3).best_throughput_rows(512) == 510  # 99.5 % of 512


def test_a_noisy_machine_does_not_make_batches_vanish():
    noisy = LatencyModel([(1, 2e-3), (64, 65e-3)])
    for seconds in 0.017 * np.random.default_rng(1).lognormal(0, 1.5, 64):
        noisy.observe(16, seconds)
    assert noisy.line.margin == 3 * noisy.line.level
    assert noisy.line.rows_within(1.0) > 1


def test_a_model_without_timings_knows_nothing():
    assert LatencyModel().line is None


def test_the_warm_up_is_known_before_the_first_batch():
    model = LatencyModel([(n, 0.001 * n + 0.004) for n in SIZES])
    assert model.line.rows_within(0.05) == 46


@pytest.mark.parametrize("n", [1, 64, 512])
def test_batches_of_one_size_do_not_make_up_a_slope(n):
    """BentoML's CorkDispatcher fits a line through one point there: nearly all of the cost goes to the rows."""
    line = taught(0.0001, 0.02, 1, sizes=[n], noise=0.01)
    took_s = 0.0001 * n + 0.02
    assert line.typical_s(n) == pytest.approx(took_s, rel=0.02)
    assert line.typical_s(1) == pytest.approx(took_s, rel=0.02)  # fewer rows save nothing that is known
    assert line.typical_s(2 * n) == pytest.approx(2 * took_s, rel=0.02)  # more may cost in proportion


def test_a_flood_of_full_batches_does_not_forget_the_small_ones():
    model = LatencyModel([(n, 0.0001 * n + 0.02) for n in SIZES])
    for _ in range(1000):
        model.observe(512, 0.0001 * 512 + 0.02)
    assert model.line.row_s == pytest.approx(0.0001)
    assert model.line.batch_s == pytest.approx(0.02)


def test_a_machine_that_slows_down_under_full_batches_is_noticed_and_small_ones_are_promised_nothing_better():
    model = LatencyModel([(n, 0.0001 * n + 0.02) for n in SIZES])
    for _ in range(64):
        model.observe(512, 3 * (0.0001 * 512 + 0.02))
    assert model.line.typical_s(512) == pytest.approx(3 * (0.0001 * 512 + 0.02), rel=0.05)
    assert model.line.typical_s(1) == pytest.approx(0.0201, rel=0.05)


def test_a_batch_without_rows_or_with_an_impossible_time_teaches_nothing():
    model = LatencyModel()
    for rows, seconds in ((0, 1.0), (4, 0.0), (4, -1.0), (4, float("nan")), (4, float("inf"))):
        model.observe(rows, seconds)
    assert model.line is None


def test_batches_that_get_cheaper_with_size_are_taken_as_of_one_price():
    model = LatencyModel([(1, 0.010), (100, 0.009), (200, 0.008)])
    assert model.line.row_s == 0
    assert model.line.typical_s(500) == pytest.approx(0.009)
