"""Outputs held side by side."""

import numpy as np
import pytest

from streamserve.errors import ContractError
from streamserve.recorded.compare import compare


def one(a, b, **more):
    return compare({"y": np.array(a)}, {"y": np.array(b)}, **more).outputs[0]


def test_figures_of_the_absolute_difference():
    found = one([0.0, 0.0, 0.0, 4.0], [0.0, 0.1, -0.2, 4.3])
    assert (found.rows, found.missing, found.agreement) == (4, 0, None)
    np.testing.assert_allclose([found.max, found.mean, found.p50], [0.3, 0.15, 0.15])
    np.testing.assert_allclose(found.p99, np.quantile([0, 0.1, 0.2, 0.3], 0.99))
    np.testing.assert_allclose(found.relative, 0.15)


def test_a_vector_agrees_where_its_largest_element_is_the_same_one():
    found = one([[0.1, 0.9], [0.6, 0.4]], [[0.4, 0.6], [0.4, 0.6]])
    assert found.agreement == 0.5
    assert found.rows == 2


def test_a_number_agrees_on_the_same_side_of_its_threshold():
    assert one([0.4, 0.5, 0.9], [0.51, 0.5, 0.6], thresholds={"y": 0.5}).agreement == pytest.approx(2 / 3)


def test_booleans_and_texts_agree_when_they_are_equal():
    assert one([True, False, True], [True, True, True]).agreement == pytest.approx(2 / 3)
    texts = compare({"y": np.array(["a", "b", None], object)}, {"y": np.array(["a", "c", "d"], object)}).outputs[0]
    assert (texts.rows, texts.missing, texts.agreement) == (2, 1, 0.5)


def test_rows_without_a_finite_number_are_left_out_and_counted():
    found = one([1.0, np.nan, 3.0, 4.0], [1.0, 2.0, 3.5, np.nan])
    assert (found.rows, found.missing, found.lost, found.max) == (2, 1, 1, 0.5)


def test_a_value_that_only_the_second_model_lacks_is_no_small_difference():
    assert compare({"y": np.array([1.0, 2.0])}, {"y": np.array([1.0, np.inf])}).difference("mean") == float("inf")
    assert compare({"y": np.array([1.0, np.nan])}, {"y": np.array([1.0, 2.0])}).difference("mean") == 0


def test_nothing_to_compare_is_no_equality():
    nothing = compare({"y": np.array([np.nan])}, {"y": np.array([1.0])})
    assert nothing.difference("max") == float("inf")
    assert one([], [], thresholds={"y": 0.5}).agreement == 0.0


def test_all_outputs_in_common_count_and_the_worst_of_them_decides():
    a = {"p": np.array([0.2, 0.8]), "c": np.array([True, False]), "mine": np.array([1, 2])}
    b = {"c": np.array([True, True]), "p": np.array([0.2, 0.9])}
    both = compare(a, b)
    assert [output.name for output in both.outputs] == ["p", "c"]
    assert both.agreement == 0.5
    assert both.difference("max") == 1.0
    header, rows = both.table()
    assert [len(row) for row in rows] == [len(header)] * 2
    assert rows[1][-1] == "50.00%"


def test_other_shapes_and_other_names_are_refused():
    with pytest.raises(ContractError, match="no output in common: y and z"):
        compare({"y": np.zeros(1)}, {"z": np.zeros(1)})
    with pytest.raises(ContractError, match="output y has the shape"):
        one([[1.0, 2.0]], [[1.0], [2.0]])
    assert one([[1.0], [2.0]], [1.0, 2.0]).max == 0  # recorded outputs of one number have no second axis
