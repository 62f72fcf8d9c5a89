"""The bench leaves out no look that could find anything, and its streams are what it says."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest

from benchmarks import false_alarms
from benchmarks.drift_power import _moved
from benchmarks.drift_screen import Screen
from benchmarks.drift_streams import FEATURES, RHO, StationaryStream, kind_of
from streamserve.drift.decision import Budget, Decider
from streamserve.drift.schema import CELLS, MISSING

PANES = 400
MINUTE = 60.0


@pytest.fixture(scope="module")
def made():
    stream = StationaryStream(5)
    return stream, stream.reference(PANES)


@pytest.fixture
def stream(made):
    """The stream after its reference: the same for every test, whatever ran before."""
    return copy.deepcopy(made[0])


@pytest.fixture
def reference(made):
    return made[1]


@pytest.mark.parametrize("shift", [0.0, 0.3, 0.8])
def test_a_look_that_is_left_out_finds_nothing(stream, reference, shift):
    budget = Budget()
    panes = budget.panes(MINUTE)
    counts = stream.counts(60, _moved(reference, shift) if shift else reference.tables)
    sums = false_alarms.summed(np.zeros((1, FEATURES, CELLS), np.int32), counts)
    ends = np.arange(panes, 61, 3)
    screen = Screen.of(reference, budget, MINUTE, 100.0)
    flagged = false_alarms.screened(sums, ends, panes, screen)
    decider = Decider(budget=budget)
    for end, passed in zip(ends.tolist(), flagged.tolist(), strict=True):
        verdict = decider.look(reference, (sums[end] - sums[end - panes]).astype(np.int64), window_s=MINUTE)
        assert passed or verdict.p.min() > verdict.alpha / FEATURES
    assert flagged.any() == (shift > 0)


def test_a_change_would_be_a_page(stream, reference):
    counts = np.concatenate([stream.counts(40, reference.tables), stream.counts(40, _moved(reference, 0.8))])
    sums = false_alarms.summed(np.zeros((1, FEATURES, CELLS), np.int32), counts)
    watch = false_alarms._Watch(reference, Decider())
    watch.chunk(sums, 0, 0, [(MINUTE, Screen.of(reference, Budget(), MINUTE, 100.0))])
    assert watch.week.pages == 1
    assert watch.week.false_looks > 30


def test_every_row_has_one_cell_in_every_column(stream, reference):
    counts = stream.counts(50, reference.tables)
    rows = counts.sum(axis=-1)
    assert (rows == rows[:, :1]).all()
    assert counts[:, 0, MISSING].sum() > 0
    assert counts[:, 1, MISSING].sum() == 0


def test_rows_and_panes_lean_on_each_other_as_told(reference):
    peak = reference.dispersion.inflation(4).peak
    kinds = np.array([kind_of(feature) for feature in range(FEATURES)])
    assert np.median(peak[kinds == "event AR"]) == pytest.approx((1 + RHO) / (1 - RHO), rel=0.2)
    assert np.median(peak[kinds == "iid"]) < 2.5
    assert 3 < np.median(peak[kinds == "pane AR"]) < 9


def test_a_run_goes_on_where_it_was(tmp_path):
    file = tmp_path / "weeks.jsonl"
    first = list(false_alarms.simulated(0.002, 3, 60, 10.0, file))
    assert [line["seed"] for line in first] == [3]
    assert list(false_alarms.simulated(0.002, 3, 60, 10.0, file)) == []
    assert json.loads(file.read_text())["pages"] == 0


def test_the_limit_is_poissons():
    assert false_alarms.at_most(0, 50) == pytest.approx(2.9957 / 50, rel=1e-4)
    assert false_alarms.at_most(3, 1) == pytest.approx(7.7537, rel=1e-4)
