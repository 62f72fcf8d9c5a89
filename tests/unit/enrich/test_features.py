"""Columns to tensors, and the first problem of every bad row."""

from __future__ import annotations

import json

import numpy as np
import pytest

from streamserve.codecs import build_decoder
from streamserve.enrich import FeatureEnricher, check_features
from streamserve.errors import ContractError
from streamserve.ports import Signature, TensorSpec
from tests.records import batch, settings


def signature(*inputs):
    specs = tuple(TensorSpec(name=name, dtype=dtype, shape=shape) for name, dtype, shape in inputs)
    return Signature(inputs=specs, outputs=())


def enrich(features, model, events):
    config = settings(features)
    decoded, rejects = build_decoder(config).decode(batch([json.dumps(event).encode() for event in events]))
    assert rejects == []
    return FeatureEnricher(config.features, model).enrich(decoded)


X2 = signature(("x", "float32", (-1, 2)))


def test_features_stack_in_order():
    features, rejects = enrich([{"name": "b"}, {"name": "a"}], X2, [{"a": 1, "b": 2}, {"a": 3, "b": 4}])
    assert not rejects
    assert features.inputs["x"].dtype == np.float32
    assert features.inputs["x"].flags.c_contiguous
    assert features.inputs["x"].tolist() == [[2, 1], [4, 3]]


def test_several_inputs_are_filled_by_name_and_dtype():
    model = signature(
        ("dense", "float32", (-1, 2)),
        ("carrier", "str", (-1, 1)),
        ("n", "int64", (-1,)),
        ("small", "int32", (-1, 1)),
        ("flag", "bool", (-1, 1)),
        ("code", "int64", (-1, 1)),
    )
    features = [
        {"name": "carrier", "dtype": "string"},
        {"name": "n", "dtype": "int64"},
        {"name": "small", "dtype": "int32"},
        {"name": "flag", "dtype": "bool"},
        {"name": "y", "input": "dense"},
        {"name": "kind", "dtype": "string", "categories": ["p", "q"], "input": "code", "unknown": "other"},
        {"name": "z", "dtype": "bool", "input": "dense"},
    ]
    event = {"carrier": "AA", "n": 2**60, "small": -3, "flag": True, "y": 0.5, "kind": "q", "z": True}
    out, rejects = enrich(features, model, [event, {**event, "kind": "new"}])
    assert not rejects
    got = {name: (tensor.dtype, tensor.tolist()) for name, tensor in out.inputs.items()}
    assert got == {
        "dense": (np.float32, [[0.5, 1], [0.5, 1]]),
        "carrier": (object, [["AA"], ["AA"]]),
        "n": (np.int64, [2**60, 2**60]),
        "small": (np.int32, [[-3], [-3]]),
        "flag": (np.bool_, [[True], [True]]),
        "code": (np.int64, [[1], [2]]),
    }


def test_a_default_stands_in_for_a_missing_value():
    model = signature(("x", "float32", (-1, 1)), ("n", "int64", (-1,)), ("s", "str", (-1,)), ("c", "int64", (-1,)))
    features = [
        {"name": "x", "default": 55.0},
        {"name": "n", "dtype": "int64", "default": 7},
        {"name": "s", "dtype": "string", "default": "none"},
        {"name": "c", "dtype": "string", "categories": ["p", "q"], "default": "q"},
    ]
    out, rejects = enrich(features, model, [{}, {"x": 1, "n": 2**62, "s": "t", "c": "p"}])
    assert not rejects
    assert [tensor.tolist() for tensor in out.inputs.values()] == [[[55], [1]], [7, 2**62], ["none", "t"], [1, 0]]


BAD = [
    ({"name": "v"}, {}, "missing_feature", "v is missing and has no default"),
    ({"name": "v", "max": 6000}, {"v": 9000}, "out_of_range", "v = 9000 is above its maximum 6000"),
    ({"name": "v", "min": -1.5}, {"v": -2.5}, "out_of_range", "v = -2.5 is below its minimum -1.5"),
    ({"name": "v"}, {"v": 1e39}, "out_of_range", "v = 1e+39 is beyond float32"),
    ({"name": "v", "dtype": "int32"}, {"v": 2**31}, "out_of_range", "v = 2147483648 is beyond int32"),
    (
        {"name": "v", "dtype": "string", "categories": ["p"]},
        {"v": "z"},
        "schema",
        "v = 'z' is none of its 1 categories (p)",
    ),
    ({"name": "v", "dtype": "string", "categories": ["p"]}, {}, "missing_feature", "v is missing and has no default"),
]


@pytest.mark.parametrize(("feature", "event", "reason", "detail"), BAD)
def test_a_bad_row_gets_one_reject_and_its_neighbours_none(feature, event, reason, detail):
    good = {"v": "p" if feature.get("dtype") == "string" else 1, "w": 1}
    out, (reject,) = enrich([feature, {"name": "w"}], X2, [good, {"w": 1, **event}, good])
    assert (reject.row, reject.stage, reject.reason, reject.feature) == (1, "enrich", reason, "v")
    assert reject.detail == detail
    assert out.events.row == [0, 2]
    assert out.inputs["x"].shape == (2, 2)


INTEGER = [
    ({"name": "v", "dtype": "int64", "max": 5}, {"v": 6}, "v = 6 is above its maximum 5"),
    ({"name": "v", "dtype": "int64", "min": 0.5}, {"v": 0}, "v = 0 is below its minimum 0.5"),
    ({"name": "v", "dtype": "int64"}, {}, "v is missing and has no default"),
    ({"name": "v", "dtype": "string", "categories": ["p"]}, {"v": "z"}, "v = 'z' is none of its 1 categories (p)"),
    ({"name": "v", "dtype": "string", "categories": ["p"]}, {}, "v is missing and has no default"),
]


@pytest.mark.parametrize(("feature", "event", "detail"), INTEGER)
def test_integer_inputs_are_checked_alike(feature, event, detail):
    good = {"v": "p" if feature["dtype"] == "string" else 1}
    _, (reject,) = enrich([feature], signature(("x", "int64", (-1,))), [good, event])
    assert (reject.row, reject.detail) == (1, detail)


@pytest.mark.parametrize(
    ("feature", "event", "reason"),
    [
        ({"name": "v", "dtype": "string"}, {}, "missing_feature"),
        ({"name": "v", "dtype": "string", "categories": ["p"]}, {"v": "z"}, "schema"),
    ],
)
def test_string_inputs_are_checked_alike(feature, event, reason):
    out, (reject,) = enrich([feature], signature(("x", "str", (-1, 1))), [event, {"v": "p"}])
    assert (reject.row, reject.reason) == (0, reason)
    assert out.inputs["x"].tolist() == [["p"]]


def test_an_unknown_text_becomes_other():
    feature = {"name": "v", "dtype": "string", "categories": ["p"], "unknown": "other"}
    out, rejects = enrich([feature], signature(("x", "str", (-1,))), [{"v": "z"}, {"v": "p"}])
    assert not rejects
    assert out.inputs["x"].tolist() == ["other", "p"]


def test_the_first_feature_at_fault_is_the_one_named_whatever_input_it_fills():
    model = signature(("late", "float32", (-1,)), ("early", "str", (-1,)))
    features = [{"name": "early", "dtype": "string"}, {"name": "late"}]
    _, (reject,) = enrich(features, model, [{}])
    assert reject.feature == "early"


def test_a_vector_takes_the_shape_of_its_input():
    out, rejects = enrich({"field": "v", "size": 6}, signature(("x", "float32", (-1, 1, 2, 3))), [{"v": [1] * 6}])
    assert not rejects
    assert out.inputs["x"].shape == (1, 1, 2, 3)


def test_vector_bounds_name_the_number_at_fault():
    features = {"field": "v", "size": 3, "min": 0, "max": 0.1}
    _, (low, high) = enrich(
        features, signature(("x", "float32", (-1, 3))), [{"v": v} for v in ([0, 0, -1], [0, 0.1, 0], [0, 0.25, 7])]
    )
    assert (low.row, low.detail) == (0, "v[2] = -1 is below the minimum 0")
    assert (high.row, high.detail) == (2, "v[1] = 0.25 is above the maximum 0.1")


MISFITS = [
    ([{"name": "a", "input": "y"}, {"name": "b"}], X2, "names the input y, but the model's inputs are x"),
    (
        [{"name": "a", "input": "y"}, {"name": "b", "input": "y"}, {"name": "c"}],
        X2,
        "2 features (a, b) name the input y, but the model's inputs are x",
    ),
    ([{"name": "a"}], X2, "takes 2 features, but 1 are given: a"),
    ([{"name": "a"}, {"name": "b", "dtype": "float64"}], X2, "declare `dtype: float32`"),
    ([{"name": "a"}, {"name": "b", "dtype": "string"}], X2, "give it `categories`"),
    ([{"name": "x"}], signature(("x", "float32", (-1,)), ("y", "float32", (-1,))), "model input y is filled by no"),
    ([{"name": "a"}], signature(("x", "float32", (-1,)), ("y", "float32", (-1,))), "say which with `input:`"),
    ([{"name": "a"}], signature(("x", "float16", (-1,))), "dtype float16, which no feature can fill"),
    ([{"name": "a"}], signature(("x", "float32", (-1, 1, 1))), "use one vector field"),
    ({"field": "v", "size": 3}, X2, "does not have the size of input x, float32[batch, 2]"),
    ({"field": "v", "size": 2, "dtype": "float64"}, X2, "set `dtype: float32`"),
    ([{"name": "a", "default": "s"}, {"name": "b"}], X2, "which is no float32"),
    ([{"name": "a", "default": 5, "max": 3}, {"name": "b"}], X2, "outside its own"),
    ([{"name": "a", "min": 5, "max": 3}, {"name": "b"}], X2, "above `max`"),
    ([{"name": "a", "dtype": "bool", "min": 0}, {"name": "b"}], X2, "are for numbers"),
    ([{"name": "a", "categories": ["p"]}, {"name": "b"}], X2, "which are for `dtype: string`"),
    ([{"name": "a", "dtype": "string", "categories": ["p", "p"]}, {"name": "b"}], X2, "a category twice"),
    ([{"name": "a", "dtype": "string", "categories": ["p"], "default": "q"}, {"name": "b"}], X2, "none of its"),
]


@pytest.mark.parametrize(("features", "model", "words"), MISFITS, ids=[m[2] for m in MISFITS])
def test_a_misfit_is_told_and_refused(features, model, words):
    spec = settings(features).features
    assert any(words in problem for problem in check_features(spec, model))
    with pytest.raises(ContractError, match="do not fit the model"):
        FeatureEnricher(spec, model)


def test_features_that_fit_have_no_problems():
    assert check_features(settings([{"name": "a"}, {"name": "b"}]).features, X2) == []
    assert check_features(settings({"field": "v", "size": 9}).features, signature(("x", "float32", (-1, -1)))) == []
