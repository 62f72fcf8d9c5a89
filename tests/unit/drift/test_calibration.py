"""Isotonic calibration against scikit-learn's."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from streamserve.drift.calibration import Calibration, IsotonicMap

points = st.lists(st.tuples(st.integers(-5, 25), st.integers(0, 1), st.integers(1, 9)), min_size=1, max_size=60)


@given(points, st.lists(st.floats(-1, 2), max_size=20))
@settings(deadline=None)
def test_the_map_is_scikit_learns(rows, asked):
    scores, labels, weights = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    scores /= 20
    asked = np.array([*asked, *scores])
    oracle = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(scores, labels, sample_weight=weights)
    fitted = IsotonicMap.fit(scores, labels, weights)
    np.testing.assert_allclose(fitted.apply(asked), oracle.predict(asked), atol=1e-9)


def test_many_rows_become_few_knots_and_probabilities():
    rng = np.random.default_rng(0)
    scores = rng.random(50_000)
    labels = (rng.random(50_000) < scores**2).astype(float)
    fitted = IsotonicMap.fit(scores, labels)
    oracle = IsotonicRegression(out_of_bounds="clip").fit(scores, labels)
    np.testing.assert_allclose(fitted.apply(scores), oracle.predict(scores), atol=1e-9)
    assert len(fitted.x) < 500
    asked = np.array([0.3, 0.5, 0.7, 0.9])
    np.testing.assert_allclose(fitted.apply(asked), asked**2, atol=0.04)


def test_scores_that_are_not_finite_are_left_out_of_the_fit_and_stay_unknown():
    fitted = IsotonicMap.fit(np.array([0.1, np.nan, np.inf, 0.9]), np.array([0.0, 1.0, 0.0, 1.0]))
    np.testing.assert_array_equal(fitted.x, [0.1, 0.9])
    np.testing.assert_array_equal(fitted.apply(np.array([np.nan, 5.0, -5.0])), [np.nan, 1.0, 0.0])
    with pytest.raises(ValueError, match="no finite score"):
        IsotonicMap.fit(np.array([np.nan]), np.array([1.0]))


def test_classes_are_calibrated_each_and_sum_to_one():
    rng = np.random.default_rng(1)
    truth = rng.dirichlet([1, 2, 3], 20_000)
    labels = np.array([rng.choice(3, p=row) for row in truth], dtype=float)
    sharp = truth**3 / (truth**3).sum(axis=1, keepdims=True)
    calibrated = Calibration.fit(sharp, labels).apply(sharp)
    np.testing.assert_allclose(calibrated.sum(axis=1), 1)
    assert np.abs(calibrated - truth).mean() < np.abs(sharp - truth).mean() / 2


def test_a_row_that_no_class_claims_is_spread_evenly():
    never = IsotonicMap(x=np.array([0.0]), y=np.array([0.0]))
    np.testing.assert_array_equal(Calibration(maps=(never, never)).apply(np.zeros((1, 2))), [[0.5, 0.5]])


def test_scores_of_another_number_of_classes_are_refused():
    one = Calibration.fit(np.array([0.1, 0.9]), np.array([0.0, 1.0]))
    with pytest.raises(ValueError, match="a calibration of 1 classes"):
        one.apply(np.zeros((2, 3)))


@pytest.mark.parametrize("shape", [(200,), (200, 3)])
def test_a_document_gives_the_same_map(shape):
    rng = np.random.default_rng(2)
    scores, labels = rng.random(shape), rng.integers(0, len(shape) + 1, 200).astype(float)
    fitted = Calibration.fit(scores, labels)
    again = Calibration.from_document(json.loads(json.dumps(fitted.to_document())))
    np.testing.assert_array_equal(again.apply(scores), fitted.apply(scores))


@pytest.mark.parametrize(
    "maps",
    [
        [],
        [{"x": [], "y": []}],
        [{"x": [0.0], "y": [0.0, 1.0]}],
        [{"x": [0.0, 0.0], "y": [0.0, 1.0]}],
        [{"x": [0.0, 1.0], "y": [1.0, 0.0]}],
        [{"x": [0.0, 1.0], "y": [0.0, 1.5]}],
        [{"x": [0.0, float("nan")], "y": [0.0, 1.0]}],
        "x",
    ],
)
def test_a_document_of_something_else_is_refused(maps):
    with pytest.raises(ValueError, match=r"."):
        Calibration.from_document({"kind": "isotonic", "maps": maps})
