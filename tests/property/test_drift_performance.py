"""Laws of performance: parts add up to the whole however they are cut, and what is taken away is gone."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamserve.drift.metrics import metrics
from streamserve.drift.performance import Performance
from streamserve.drift.task import Task

TASKS = {
    "binary": (Task(), 1),
    "multiclass": (Task(kind="multiclass", classes=3), 3),
    "regression": (Task(kind="regression"), 1),
}
numbers = st.floats(-0.5, 1.5) | st.sampled_from([0.0, 0.5, 1.0, float("nan"), float("inf"), 1e308])


@pytest.mark.parametrize("kind", TASKS)
@given(data=st.data(), seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=100)
def test_parts_add_up_in_any_order(kind, data, seed):
    task, width = TASKS[kind]
    n = data.draw(st.integers(0, 30))
    outputs = np.array(data.draw(st.lists(numbers, min_size=n * width, max_size=n * width))).reshape(n, width)
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, task.classes, n).astype(float) if kind != "regression" else rng.normal(size=n)
    weight, value = 2.0 ** rng.integers(0, 3, n), np.where(rng.random(n) < 0.5, np.nan, 1.0)
    clicked = rng.integers(0, 2, n).astype(float)
    whole = Performance.of(task, outputs, truth, weight, value=value, clicked=clicked)
    parts = rng.integers(0, 4, n)
    merged = Performance.empty(task)
    for part in rng.permutation(4):
        mine = parts == part
        merged.add(
            Performance.of(task, outputs[mine], truth[mine], weight[mine], value=value[mine], clicked=clicked[mine])
        )
    assert merged.sums == pytest.approx(whole.sums, rel=1e-9, abs=1e-9)
    np.testing.assert_allclose(merged.table, whole.table)
    np.testing.assert_allclose(merged.bins, whole.bins)
    for name, metric in metrics(whole).items():
        assert np.isfinite(metric.value), name
        if metric.low is not None:
            assert metric.low <= metric.value + 1e-9
            assert metric.value <= metric.high + 1e-9
    again = Performance.from_document(json.loads(json.dumps(whole.to_document())), task)
    assert again.sums == whole.sums


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=40), st.integers(0, 40))
@settings(deadline=None)
def test_what_is_taken_away_is_gone(rows, cut):
    task = Task()
    scores, labels = np.array([[score] for score, _ in rows]).reshape(-1, 1), np.array([float(hit) for _, hit in rows])
    cut = min(cut, len(rows))
    whole = Performance.of(task, scores, labels, np.ones(len(rows)))
    rest = whole.less(Performance.of(task, scores[:cut], labels[:cut], np.ones(cut)))
    expected = Performance.of(task, scores[cut:], labels[cut:], np.ones(len(rows) - cut))
    assert rest.sums == pytest.approx(expected.sums, abs=1e-9)
    np.testing.assert_array_equal(rest.table, expected.table)
