"""Significant and material, under one budget."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from streamserve.batch import F64, I64, Bools
from streamserve.drift.decision import Budget, Decider, EffectFloors, holm
from streamserve.drift.dispersion import Dispersion
from streamserve.drift.schema import BINS, CELLS, MISSING, UNSEEN

MINUTE, TEN, HOUR = 60.0, 600.0, 3600.0


@dataclass(frozen=True, kw_only=True)
class Sample:
    counts: I64
    centers: F64
    std: F64
    ordered: Bools
    dispersion: Dispersion


def even(missing=0.0):
    share = np.zeros(CELLS)
    share[:BINS] = (1 - missing) / BINS
    share[MISSING] = missing
    return share


@pytest.fixture
def random():
    return np.random.default_rng(5)


@pytest.fixture
def reference(random):
    """Two numbers and a category of 32 values, independent rows."""
    return Sample(
        counts=random.multinomial(100_000, even(), 3),
        centers=np.tile(np.linspace(-2, 2, BINS), (3, 1)),
        std=np.ones(3),
        ordered=np.array([True, True, False]),
        dispersion=Dispersion.independent(3, CELLS),
    )


def test_looks_are_fewer_at_longer_windows():
    budget = Budget()
    assert [budget.stride_panes(window) for window in (MINUTE, TEN, HOUR)] == [1, 6, 36]
    assert [budget.looks_per_week(window) for window in (MINUTE, TEN, HOUR)] == [60480, 10080, 1680]


@pytest.mark.parametrize("streams", [1, 7])
@pytest.mark.parametrize("detectors", [0.0, 0.1])
def test_all_looks_and_the_detectors_spend_the_budget_and_no_more(streams, detectors):
    budget = Budget(false_alarms_per_week=2.0, streams=streams, detectors=detectors)
    looks = sum(streams * budget.looks_per_week(window) * budget.alpha(window) for window in budget.windows_s)
    assert looks + budget.detectors_per_week() == pytest.approx(2.0)


def test_panes_that_do_not_divide_a_window():
    budget = Budget(pane_s=7.0, windows_s=(7.0, 70.0, 700.0))
    assert [budget.panes(window) for window in budget.windows_s] == [1, 10, 100]
    assert [budget.stride_panes(window) for window in budget.windows_s] == [1, 1, 10]


def test_holm_steps_down():
    p = np.array([0.03, 0.001, 0.02, 0.5])
    assert holm(p, 0.05).tolist() == [False, True, False, False]
    assert holm(p, 0.1).tolist() == [True, True, True, False]
    assert holm(np.zeros(0), 0.05).tolist() == []


def test_no_change_is_quiet(reference, random):
    verdict = Decider().look(reference, random.multinomial(6000, even(), 3), window_s=MINUTE)
    assert verdict.decided
    assert not verdict.drifted.any()
    assert verdict.quiet.all()
    assert verdict.floor.tolist() == [
        0 if severity < 1 else floor for severity, floor in zip(verdict.severity, verdict.floor, strict=True)
    ]


def test_missing_values_are_drift_of_that_column_alone(reference, random):
    counts = random.multinomial(6000, even(), 3)
    counts[1] = random.multinomial(6000, even(missing=0.05))
    verdict = Decider().look(reference, counts, window_s=MINUTE)
    assert verdict.drifted.tolist() == [False, True, False]
    assert verdict.quiet.tolist() == [True, False, True]
    assert verdict.floor_name(1) == "share"
    assert verdict.severity[1] == pytest.approx(10, rel=0.2)


def test_a_shift_is_told_in_standard_deviations(reference, random):
    counts = random.multinomial(6000, even(), 3)
    tilted = even() * np.linspace(0.6, 1.4, CELLS)
    counts[0] = random.multinomial(6000, tilted / tilted.sum())
    verdict = Decider().look(reference, counts, window_s=MINUTE)
    assert verdict.drifted.tolist() == [True, False, False]
    assert verdict.floor_name(0) == "wasserstein"
    assert verdict.wasserstein[0] == pytest.approx(verdict.severity[0] * 0.05)


def test_what_is_certain_but_small_is_no_drift(reference, random):
    # 0.1 % of a category more, two million rows: certain, and under every floor
    share = even()
    share[0] += 0.002
    share[1] -= 0.002
    reference = Sample(
        counts=random.multinomial(4_000_000, even(), 3),
        centers=reference.centers,
        std=reference.std,
        ordered=reference.ordered,
        dispersion=reference.dispersion,
    )
    counts = random.multinomial(2_000_000, even(), 3)
    counts[2] = random.multinomial(2_000_000, share)
    verdict = Decider().look(reference, counts, window_s=HOUR)
    assert verdict.p[2] < verdict.alpha / 3
    assert not verdict.drifted.any()
    assert Decider(floors=EffectFloors(share=0.001)).look(reference, counts, window_s=HOUR).drifted[2]


def test_too_few_rows_decide_nothing(reference, random):
    counts = random.multinomial(90, even(missing=0.9), 3)
    verdict = Decider().look(reference, counts, window_s=MINUTE)
    assert not verdict.decided
    assert not verdict.drifted.any()
    assert not verdict.quiet.any()


def test_a_level_is_worth_fewer_rows(reference, random):
    sampled = random.multinomial(300, even(missing=0.04), 3)
    as_rows = Decider().look(reference, sampled * 16, window_s=MINUTE)
    as_level = Decider().look(reference, sampled * 16, window_s=MINUTE, level=4)
    assert as_rows.p.max() < as_level.p.min()
    assert as_level.rows == 300
    assert as_level.share_change == pytest.approx(as_rows.share_change)


def test_an_unknown_dispersion_decides_for_no_drift(reference, random):
    blind = Sample(
        counts=reference.counts,
        centers=reference.centers,
        std=reference.std,
        ordered=reference.ordered,
        dispersion=Dispersion.unknown(3, CELLS),
    )
    verdict = Decider().look(blind, random.multinomial(6000, even(missing=0.5), 3), window_s=MINUTE)
    assert (verdict.p == 1.0).all()
    assert not verdict.drifted.any()


def test_two_live_versions_are_compared_with_each_other(reference, random):
    stable = random.multinomial(50_000, even(), 3)
    canary = random.multinomial(3000, even(), 3)
    canary[2, UNSEEN] += 150
    decider = Decider(budget=Budget(streams=2))
    verdict = decider.compare(reference, stable, canary, window_s=TEN)
    assert verdict.drifted.tolist() == [False, False, True]
    assert verdict.segment == "canary"
    assert not decider.compare(reference, stable, stable, window_s=TEN).drifted.any()


def test_a_model_without_columns():
    nothing = Sample(
        counts=np.zeros((0, CELLS), np.int64),
        centers=np.zeros((0, BINS)),
        std=np.zeros(0),
        ordered=np.zeros(0, np.bool_),
        dispersion=Dispersion.independent(0, CELLS),
    )
    verdict = Decider().look(nothing, np.zeros((0, CELLS), np.int64), window_s=MINUTE)
    assert not verdict.decided
