"""Performance against scikit-learn's metrics, its intervals against scipy's, published ones and their coverage."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn import metrics as sklearn
from sklearn.calibration import calibration_curve

from streamserve.drift.fairness import fairness
from streamserve.drift.intervals import newcombe, wilson
from streamserve.drift.metrics import by_class, metrics, reliability
from streamserve.drift.performance import SCORE_EDGES, Performance
from streamserve.drift.task import Task

BINARY = Task(threshold=0.4)
CLASSES = Task(kind="multiclass", classes=4)
NUMBER = Task(kind="regression")


def scored(n: int = 4000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores [n, 1] and labels that they say something about."""
    rng = np.random.default_rng(seed)
    scores = rng.beta(1, 4, n)
    return scores[:, None], (rng.random(n) < scores**0.8).astype(float)


def classified(n: int = 4000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    chances = rng.dirichlet([1, 1, 2, 0.5], n)
    return chances, np.array([rng.choice(4, p=row) for row in chances], dtype=float)


def whole(task: Task, outputs, truth, weight=None, **more) -> Performance:
    return Performance.of(task, outputs, truth, np.ones(len(outputs)) if weight is None else weight, **more)


@pytest.mark.parametrize("weighted", [False, True])
def test_binary_figures_are_scikit_learns(weighted):
    outputs, labels = scored()
    weight = 2.0 ** np.random.default_rng(1).integers(0, 3, len(labels)) if weighted else np.ones(len(labels))
    found = {name: metric.value for name, metric in metrics(whole(BINARY, outputs, labels, weight)).items()}
    scores, chosen = outputs[:, 0], outputs[:, 0] >= 0.4
    cells = np.searchsorted(SCORE_EDGES, scores, side="right")
    expected = {
        "accuracy": sklearn.accuracy_score(labels, chosen, sample_weight=weight),
        "precision": sklearn.precision_score(labels, chosen, sample_weight=weight),
        "recall": sklearn.recall_score(labels, chosen, sample_weight=weight),
        "false_positive_rate": 1 - sklearn.recall_score(labels, chosen, pos_label=0, sample_weight=weight),
        "selection_rate": np.average(chosen, weights=weight),
        "base_rate": np.average(labels, weights=weight),
        "log_loss": sklearn.log_loss(labels, scores, sample_weight=weight),
        "brier": sklearn.brier_score_loss(labels, scores, sample_weight=weight),
        "auc": sklearn.roc_auc_score(labels, cells, sample_weight=weight),
    }
    assert found.pop("ece") > 0
    assert found == pytest.approx(expected, rel=1e-9)
    assert found["auc"] == pytest.approx(sklearn.roc_auc_score(labels, scores, sample_weight=weight), abs=5e-4)


def test_the_auc_of_rare_events_survives_the_grid():
    rng = np.random.default_rng(0)
    scores = rng.beta(0.2, 40, 200_000)
    labels = (rng.random(200_000) < scores).astype(float)
    auc = metrics(whole(Task(), scores[:, None], labels))["auc"].value
    assert auc == pytest.approx(sklearn.roc_auc_score(labels, scores), abs=2e-3)


def test_reliability_is_scikit_learns_calibration_curve():
    outputs, labels = scored()
    share, score = calibration_curve(labels, outputs[:, 0], n_bins=16)
    found = whole(BINARY, outputs, labels)
    assert [each.share for each in reliability(found)] == pytest.approx(share)
    assert [each.mean_score for each in reliability(found)] == pytest.approx(score)
    weight = np.array([each.weight for each in reliability(found)])
    assert metrics(found)["ece"].value == pytest.approx(np.average(np.abs(share - score), weights=weight))


def test_multiclass_figures_are_scikit_learns():
    outputs, labels = classified()
    performance = whole(CLASSES, outputs, labels)
    found = metrics(performance)
    predicted = outputs.argmax(axis=1)
    assert found["accuracy"].value == pytest.approx(sklearn.accuracy_score(labels, predicted))
    assert found["log_loss"].value == pytest.approx(sklearn.log_loss(labels, outputs))
    precision, recall, _, support = sklearn.precision_recall_fscore_support(labels, predicted)
    of_classes = by_class(performance)
    assert [each["precision"].value for each in of_classes] == pytest.approx(precision)
    assert [each["recall"].value for each in of_classes] == pytest.approx(recall)
    assert [each["base_rate"].value for each in of_classes] == pytest.approx(support / len(labels))
    assert found["ece"].value < 0.05


def test_classes_without_probabilities_have_an_accuracy_only():
    performance = whole(CLASSES, np.array([[0.0], [3.0], [2.0]]), np.array([0.0, 3.0, 1.0]))
    assert {name: metric.value for name, metric in metrics(performance).items()} == {"accuracy": 2 / 3}
    assert [sorted(each) for each in by_class(performance)] == [
        ["base_rate", "precision", "recall"],
        ["base_rate", "recall"],
        ["base_rate", "precision"],
        ["base_rate", "precision", "recall"],
    ]


def test_regression_figures_are_scikit_learns():
    rng = np.random.default_rng(0)
    labels = rng.normal(50, 10, 3000)
    outputs = labels + rng.normal(1, 3, 3000)
    found = metrics(whole(NUMBER, outputs[:, None], labels))
    assert found["mae"].value == pytest.approx(sklearn.mean_absolute_error(labels, outputs))
    assert found["rmse"].value == pytest.approx(sklearn.root_mean_squared_error(labels, outputs))
    assert found["bias"].value == pytest.approx(np.mean(outputs - labels))
    assert found["bias"].low < 1 < found["bias"].high
    assert found["rmse"].low < 10**0.5 < found["rmse"].high


def test_business_figures():
    outputs, labels = scored(5)
    performance = whole(
        BINARY,
        outputs,
        labels,
        np.array([1.0, 1, 2, 1, 1]),
        value=np.array([10.0, np.nan, 40, np.nan, 10]),
        clicked=np.array([1.0, 0, np.nan, np.nan, 1]),
    )
    found = metrics(performance)
    assert found["value"].value == 25
    assert found["click_rate"].value == pytest.approx(2 / 3)


def test_rows_that_cannot_be_used_are_counted():
    nan = float("nan")
    binary = whole(BINARY, np.array([[nan], [0.5], [0.5]]), np.array([1.0, nan, 1.0]))
    classes = whole(CLASSES, np.array([[4.0], [-1.0], [1.5], [1.0], [1.0]]), np.array([1.0, 1.0, 1.0, 9.0, 1.0]))
    number = whole(NUMBER, np.array([[np.inf], [1.0]]), np.array([1.0, 1.0]))
    got = [(each.sums["rows"], each.sums["unusable"]) for each in (binary, classes, number)]
    assert got == [(1, 2), (1, 4), (1, 1)]


def test_huge_errors_do_not_overflow():
    found = metrics(whole(NUMBER, np.array([[1e308], [1.0]]), np.array([-1e308, 1.0])))
    assert np.isfinite([found["mae"].value, found["rmse"].value, found["rmse"].high]).all()


@pytest.mark.parametrize("task", [BINARY, CLASSES, NUMBER])
def test_nothing_has_no_figures(task):
    assert metrics(Performance.empty(task)) == {}
    assert reliability(Performance.empty(task)) == []


def test_labels_of_one_kind_leave_undefined_figures_out():
    found = metrics(whole(BINARY, np.array([[0.1], [0.2]]), np.zeros(2)))
    assert {"precision", "recall", "auc"}.isdisjoint(found)
    assert found["accuracy"].value == 1


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (3, 10), (81, 263), (10, 10), (1, 100_000)])
def test_the_interval_of_a_proportion_is_scipys_wilson(hits, n):
    oracle = binomtest(hits, n).proportion_ci(method="wilson")
    assert wilson(hits / n, n) == pytest.approx((oracle.low, oracle.high), abs=1e-12)


@pytest.mark.parametrize(
    ("counts", "interval"),
    [
        ((56, 70, 48, 80), (0.0524, 0.3339)),
        ((9, 10, 3, 10), (0.1705, 0.8090)),
        ((6, 7, 2, 7), (0.0582, 0.8062)),
        ((5, 56, 0, 29), (-0.0381, 0.1926)),
        ((0, 10, 0, 20), (-0.1611, 0.2775)),
        ((0, 10, 0, 10), (-0.2775, 0.2775)),
        ((10, 10, 0, 20), (0.6791, 1.0)),
        ((10, 10, 0, 10), (0.6075, 1.0)),
    ],
)
def test_the_interval_of_a_difference_is_the_published_one(counts, interval):
    """Newcombe 1998, table II, method 10."""
    a, m, b, n = counts
    assert newcombe(a / m, m, b / n, n) == pytest.approx(interval, abs=5e-5)


def test_intervals_cover_the_truth_as_often_as_they_say():
    """400 windows of 500 rows of weights 1 and 4, against 400,000 rows; 95 % intervals."""
    outputs, labels = scored(400_000, seed=1)
    truth = metrics(whole(BINARY, outputs, labels))
    covered = dict.fromkeys(("accuracy", "precision", "recall", "log_loss", "brier", "auc"), 0)
    rng = np.random.default_rng(2)
    for window in range(400):
        part, level = slice(500 * window, 500 * window + 500), rng.choice([1.0, 4.0], 500)
        found = metrics(whole(BINARY, outputs[part], labels[part], level))
        for name in covered:
            covered[name] += found[name].low <= truth[name].value <= found[name].high
    assert all(0.92 <= hits / 400 <= 0.985 for hits in covered.values()), covered


def test_fairness_finds_the_group_that_is_treated_otherwise():
    rng = np.random.default_rng(3)
    groups = {}
    for name, n, lift in (("sex=a", 6000, 0.0), ("sex=b", 3000, 0.0), ("sex=c", 3000, 0.15)):
        labels = (rng.random(n) < 0.3).astype(float)
        scores = np.clip(0.25 + 0.35 * labels + lift + rng.normal(0, 0.15, n), 0, 1)
        groups[name] = whole(Task(), scores[:, None], labels)
    found = fairness(groups)
    assert len(found) == 6
    assert {each.other for each in found} == {"sex=a"}
    apart = {(each.segment, each.rate) for each in found if each.low > 0 or each.high < 0}
    assert apart == {("sex=c", rate) for rate in ("selection_rate", "true_positive_rate", "false_positive_rate")}
    assert abs(found[0].difference) == max(abs(each.difference) for each in found)
    assert found[0].difference == found[0].value - found[0].other_value


def test_fairness_of_too_little():
    assert fairness({}) == []
    assert fairness({"a": Performance.empty(Task())}) == []
    assert fairness({"a": whole(Task(), np.array([[0.7]]), np.ones(1))}) == []
    with pytest.raises(ValueError, match="binary"):
        fairness({"a": Performance.empty(NUMBER)})


@pytest.mark.parametrize("task", [BINARY, CLASSES, NUMBER])
def test_a_document_is_json(task):
    outputs, labels = classified(100) if task is CLASSES else scored(100)
    performance = whole(task, outputs, labels, value=np.ones(100))
    again = Performance.from_document(json.loads(json.dumps(performance.to_document())), task)
    assert metrics(again) == metrics(performance)
    assert again.sums == performance.sums


def test_a_copy_is_added_to_on_its_own():
    outputs, labels = scored(50)
    performance = whole(BINARY, outputs, labels)
    double = performance.copy()
    double.add(performance)
    assert double.sums["rows"] == 2 * performance.sums["rows"] == 100
    np.testing.assert_array_equal(double.table, 2 * performance.table)
    np.testing.assert_array_equal(double.bins, 2 * performance.bins)


def test_the_grid_costs_the_auc_less_than_it_says():
    """Over 60 pairs of score distributions, narrow and wide, near 0, near 1 and between."""
    rng = np.random.default_rng(0)
    for _ in range(60):
        scores = rng.beta(*rng.choice([0.1, 0.3, 1, 3, 10, 40], 2), 5000)
        labels = (rng.random(5000) < scores ** rng.choice([0.5, 1, 2])).astype(float)
        if 0 < labels.sum() < 5000:
            auc = metrics(whole(BINARY, scores[:, None], labels))["auc"].value
            assert auc == pytest.approx(sklearn.roc_auc_score(labels, scores), abs=0.01)


def test_performance_of_another_task_is_refused():
    document = Performance.empty(BINARY).to_document()
    for wrong in (
        (document, NUMBER),
        (Performance.empty(CLASSES).to_document(), Task(kind="multiclass", classes=3)),
        ({**document, "sums": {}}, BINARY),
        ({}, BINARY),
    ):
        with pytest.raises(ValueError, match=r"."):
            Performance.from_document(*wrong)
    with pytest.raises(ValueError, match="of a binary and a regression task"):
        Performance.empty(BINARY).add(Performance.empty(NUMBER))
