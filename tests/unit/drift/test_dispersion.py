"""The inflation is the variance of real streams over that of independent rows, with honest degrees of freedom."""

from __future__ import annotations

import json

import numpy as np
import pytest

from streamserve.drift.dispersion import Dispersion, contrasts
from streamserve.drift.schema import BINS, CELLS, MISSING

PANES = 1200
ROWS = 60
COLUMNS = 12
RHO = 0.9
MIDDLE = BINS // 2 - 1
"""The contrast at the median."""


def counts_of(codes):
    """[panes, rows, F] cells to [panes, F, C]."""
    panes, _, columns = codes.shape
    counts = np.zeros((panes, columns, CELLS), np.int64)
    for column in range(columns):
        flat = (codes[:, :, column] + np.arange(panes)[:, None] * CELLS).ravel()
        counts[:, column] = np.bincount(flat, minlength=panes * CELLS).reshape(panes, CELLS)
    return counts


def binned(values):
    """Standard normal values to bins of equal mass."""
    edges = np.quantile(values, np.arange(1, BINS) / BINS)
    return np.searchsorted(edges, values)


def autoregression(random, steps, width):
    noise = random.standard_normal((steps, width)) * np.sqrt(1 - RHO**2)
    values = np.empty((steps, width))
    level = random.standard_normal(width)
    for step in range(steps):
        level = RHO * level + noise[step]
        values[step] = level
    return values


@pytest.fixture
def random():
    return np.random.default_rng(11)


@pytest.fixture
def independent(random):
    return counts_of(random.integers(0, BINS, (PANES, ROWS, COLUMNS)))


def numbers(columns=COLUMNS):
    return np.ones(columns, np.bool_)


def test_contrasts_are_cumulative_for_numbers_and_cells_for_the_rest():
    counts = np.arange(2 * CELLS).reshape(2, CELLS)
    found = contrasts(counts, np.array([True, False]))
    assert found[0, BINS - 1] == counts[0, :BINS].sum()
    assert found[0, MISSING] == counts[0, MISSING]
    assert (found[1] == counts[1]).all()


def test_independent_rows_are_not_inflated(independent):
    fitted = Dispersion.fit(independent, numbers())
    for window, most in ((1, 1.2), (6, 1.4), (30, 2.0)):
        factor = fitted.inflation(window).factor[:, MIDDLE]
        assert factor.min() >= 1.0
        assert np.median(factor) < most


def test_rows_that_lean_on_each_other_are_worth_a_nineteenth(random):
    values = autoregression(random, PANES * ROWS, COLUMNS).reshape(PANES, ROWS, COLUMNS)
    fitted = Dispersion.fit(counts_of(binned(values)), numbers())
    inflation = fitted.inflation(6)
    # (1 + rho) / (1 - rho) = 19 for the mean, the direction that varies most
    assert np.median(inflation.peak) == pytest.approx(19, rel=0.25)
    # the median's indicator mixes the odd modes: 2 / pi x sum of ((2 k)! ...) is about 13
    assert 9 < np.median(inflation.factor[:, MIDDLE]) < 17


def test_inflation_by_panes_that_lean_on_each_other_grows_with_the_window(random):
    level = autoregression(random, PANES, COLUMNS)[:, None, :] / np.sqrt(ROWS)
    values = level + random.standard_normal((PANES, ROWS, COLUMNS))
    fitted = Dispersion.fit(counts_of(binned(values)), numbers())
    peaks = [float(np.median(fitted.inflation(window).peak)) for window in (1, 6, 30, 200)]
    assert peaks == sorted(peaks)
    # one pane: about 2; many: 1 + (1 + rho) / (1 - rho) = 20
    assert peaks[0] == pytest.approx(2.0, abs=0.5)
    assert peaks[-1] == pytest.approx(20, rel=0.4)


def test_longer_windows_are_known_less_well(independent):
    fitted = Dispersion.fit(independent, numbers())
    dof = [float(np.median(fitted.inflation(window).dof[:, MIDDLE])) for window in (1, 6, 60, 360)]
    assert dof == sorted(dof, reverse=True)
    assert dof[0] > 500
    assert dof[-1] < 40


def test_measured_degrees_of_freedom_match_the_spread_of_fits(random):
    factors = []
    for _ in range(60):
        shares = random.binomial(600, 0.5, (200, 1))
        counts = np.zeros((200, 1, CELLS), np.int64)
        counts[:, 0, 0], counts[:, 0, 1] = shares[:, 0], 600 - shares[:, 0]
        fitted = Dispersion.fit(counts, np.array([False]))
        factors.append(fitted.curve[2, 0, 0])
        dof = fitted.inflation(4).dof[0, 0]
    # relative variance of a variance: 2 / dof; the estimate errs on the safe side
    assert np.var(factors) / np.mean(factors) ** 2 < 2 / dof * 1.5


@pytest.mark.parametrize("panes", [0, 1, 3])
def test_too_few_panes_know_nothing(independent, panes):
    inflation = Dispersion.fit(independent[:panes], numbers()).inflation(6)
    assert (inflation.dof == 0).all()
    assert (inflation.peak_dof == 0).all()


def test_a_few_panes_know_little(independent):
    inflation = Dispersion.fit(independent[:30], numbers()).inflation(360)
    assert inflation.dof.max() < 20


def test_an_unseen_cell_is_known_as_well_as_the_column(independent):
    inflation = Dispersion.fit(independent, numbers()).inflation(6)
    assert (inflation.dof[:, MISSING] == inflation.peak_dof).all()
    assert (inflation.factor[:, MISSING] >= inflation.peak).all()


def test_rows_are_worth_less_than_they_are_many(independent):
    inflation = Dispersion.fit(independent, numbers()).inflation(6)
    effective = inflation.effective(6.0 * ROWS)
    assert (effective.rows <= 6 * ROWS).all()
    assert effective.rows == pytest.approx(6 * ROWS / inflation.factor)


def test_rows_beyond_the_density_of_the_reference_are_credited_in_bounds(independent):
    inflation = Dispersion.fit(independent, numbers()).inflation(6)
    usual, dense = inflation.effective(6.0 * ROWS), inflation.effective(6.0 * ROWS * 1000)
    assert (dense.rows >= usual.rows * 0.999).all()
    assert (dense.dof <= usual.dof).all()
    assert dense.peak_rows.max() < 6 * ROWS * 10


def test_independence_can_be_taken_for_granted():
    effective = Dispersion.independent(3, CELLS).inflation(6).effective(5000.0)
    assert (effective.rows == 5000).all()
    assert np.isinf(effective.dof).all()


def test_a_document_keeps_four_digits(independent):
    fitted = Dispersion.fit(independent, numbers())
    again = Dispersion.from_document(json.loads(json.dumps(fitted.to_document())))
    for window in (6, 60, 360):
        ours, theirs = fitted.inflation(window), again.inflation(window)
        assert ours.factor == pytest.approx(theirs.factor, rel=5e-3)
        assert ours.peak_dof == pytest.approx(theirs.peak_dof, rel=2e-2)


def test_panes_without_rows_and_columns_of_one_value_are_no_problem(independent):
    independent[5:50] = 0
    independent[:, 0] = 0
    independent[:, 0, 3] = independent[:, 1].sum(axis=-1)
    inflation = Dispersion.fit(independent, numbers()).inflation(6)
    assert np.isfinite(inflation.factor).all()
    assert np.isfinite(inflation.effective(360.0).rows).all()
