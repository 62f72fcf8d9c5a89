"""Performance before labels: right while the calibration holds, and the gap when it does not."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, roc_auc_score

from streamserve.drift.calibration import Calibration
from streamserve.drift.expected import estimate, expect, gap, scores_of
from streamserve.drift.metrics import by_class, metrics
from streamserve.drift.performance import Performance
from streamserve.drift.task import Task

TASK = Task()


def rows(n: int, seed: int, a: float = 1.0, b: float = 3.0, flip: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Overconfident scores [n, 1], and labels; `flip` of the labels are turned: another concept."""
    rng = np.random.default_rng(seed)
    chance = rng.beta(a, b, n)
    labels = (rng.random(n) < chance).astype(float)
    labels = np.where(rng.random(n) < flip, 1 - labels, labels)
    return (chance**2 / (chance**2 + (1 - chance) ** 2))[:, None], labels


def reference() -> Calibration:
    outputs, labels = rows(60_000, seed=0)
    return Calibration.fit(outputs[:, 0], labels)


@pytest.mark.parametrize(("a", "b"), [(1, 3), (3, 1), (2, 2)])
def test_it_expects_what_labels_then_show_under_drift_of_the_inputs(a, b):
    outputs, labels = rows(40_000, seed=1, a=a, b=b)
    expected = metrics(expect(TASK, outputs, np.ones(len(outputs)), reference()))
    realised = metrics(Performance.of(TASK, outputs, labels, np.ones(len(outputs))))
    for name in ("accuracy", "precision", "recall", "auc", "brier"):
        assert expected[name].value == pytest.approx(realised[name].value, abs=0.02), name
    assert expected["accuracy"].value == pytest.approx(accuracy_score(labels, outputs[:, 0] >= 0.5), abs=0.01)
    assert expected["auc"].value == pytest.approx(roc_auc_score(labels, outputs[:, 0]), abs=0.02)


def test_it_expects_classes_too():
    rng = np.random.default_rng(2)
    task = Task(kind="multiclass", classes=3)
    chances = rng.dirichlet([1, 2, 1], 40_000)
    labels = (chances.cumsum(axis=1) < rng.random((40_000, 1))).sum(axis=1).astype(float)
    sharp = chances**2 / (chances**2).sum(axis=1, keepdims=True)
    calibration = Calibration.fit(sharp[:20_000], labels[:20_000])
    weight = np.ones(20_000)
    expected = expect(task, sharp[20_000:], weight, calibration)
    realised = Performance.of(task, sharp[20_000:], labels[20_000:], weight)
    for name in ("accuracy", "log_loss"):
        assert metrics(expected)[name].value == pytest.approx(metrics(realised)[name].value, abs=0.02)
    for mine, theirs in zip(by_class(expected), by_class(realised), strict=True):
        assert mine["recall"].value == pytest.approx(theirs["recall"].value, abs=0.02)
    assert gap(realised, expected).p > 0.001


def test_labels_replace_what_was_expected():
    outputs, labels = rows(4000, seed=3)
    calibration, weight = reference(), np.ones(4000)
    expected = expect(TASK, outputs, weight, calibration)
    half = slice(0, 2000)
    part = expect(TASK, outputs[half], weight[half], calibration)
    realised = Performance.of(TASK, outputs[half], labels[half], weight[half])
    mixed = estimate(expected, part, realised)
    assert mixed.sums["rows"] == 4000
    rest = expect(TASK, outputs[2000:], weight[2000:], calibration)
    assert mixed.sums["tp"] == pytest.approx(realised.sums["tp"] + rest.sums["tp"])
    everything = Performance.of(TASK, outputs, labels, weight)
    replaced = estimate(expected, expected, everything)
    assert replaced.sums == pytest.approx(everything.sums)
    assert metrics(replaced)["auc"].value == pytest.approx(metrics(everything)["auc"].value)
    assert all(total >= 0 for total in mixed.sums.values())


def test_the_gap_is_small_by_chance_and_large_when_the_concept_changes():
    calibration, weight = reference(), np.ones(5000)
    held = []
    for seed in range(60):
        outputs, labels = rows(5000, seed=10 + seed, a=2, b=2)
        held.append(gap(Performance.of(TASK, outputs, labels, weight), expect(TASK, outputs, weight, calibration)))
    assert sum(each.p < 0.05 for each in held) <= 8
    assert sum(each.low <= 0 <= each.high for each in held) >= 52
    outputs, labels = rows(5000, seed=100, flip=0.1)
    found = gap(Performance.of(TASK, outputs, labels, weight), expect(TASK, outputs, weight, calibration))
    assert found.p < 1e-6
    assert found.value == pytest.approx(-0.06, abs=0.025)
    assert found.high < 0
    assert found.rows == 5000


def test_without_rows_or_doubt_there_is_no_gap():
    empty = Performance.empty(TASK)
    assert gap(empty, empty) is None
    certain = Calibration.fit(np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    outputs, labels = np.array([[0.0], [1.0]]), np.array([0.0, 1.0])
    sure = expect(TASK, outputs, np.ones(2), certain)
    assert gap(Performance.of(TASK, outputs, labels, np.ones(2)), sure) is None


def test_outputs_that_are_no_scores_are_refused():
    for task, outputs in (
        (Task(kind="regression"), np.zeros((2, 1))),
        (Task(kind="multiclass", classes=3), np.zeros((2, 1))),
    ):
        assert scores_of(task, outputs) is None
        with pytest.raises(ValueError, match="are no scores"):
            expect(task, outputs, np.ones(2), reference())
