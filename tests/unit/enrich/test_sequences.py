"""Sequences to rows of the model's dtype: lengths, values, categories, masks that fit."""

from __future__ import annotations

import json
import math

import msgspec
import numpy as np
import pytest

from streamserve.codecs import build_decoder
from streamserve.enrich import FeatureEnricher, check_features
from streamserve.errors import ContractError
from streamserve.ports import Signature, TensorSpec
from tests.records import batch, settings


def signature(*inputs):
    return Signature(inputs=tuple(TensorSpec(name=n, dtype=d, shape=s) for n, d, s in inputs), outputs=())


IDS = ("ids", "int64", (-1, -1))


def feature(name="ids", dtype="int64", *, more=None, **sequence):
    return {"name": name, "dtype": dtype, "sequence": {"max_length": 4, **sequence}, **(more or {})}


def enrich(features, model, events, format="json"):
    encode = msgspec.msgpack.encode if format == "msgpack" else lambda event: json.dumps(event).encode()
    config = settings(features, format=format)
    decoded, rejects = build_decoder(config).decode(batch([encode(event) for event in events]))
    assert rejects == []
    return FeatureEnricher(config.features, model).enrich(decoded)


def rows(features, name="ids"):
    return [row.tolist() for row in features.inputs[name]]


def told(rejects):
    return [(reject.row, reject.reason, reject.detail) for reject in rejects]


def test_rows_stay_ragged_in_the_models_dtype():
    out, rejects = enrich([feature()], signature(("x", "float32", (-1, -1))), [{"ids": [1, 2]}, {"ids": []}])
    assert not rejects
    assert out.inputs["x"].shape == (2,)
    assert {row.dtype for row in out.inputs["x"]} == {np.dtype("float32")}
    assert rows(out, "x") == [[1, 2], []]


def test_rows_can_be_taken_and_sliced():
    out, _ = enrich([feature()], signature(IDS), [{"ids": [1]}, {"ids": [2, 3]}, {"ids": [4]}])
    assert rows(out.take([0, 2])) == [[1], [4]]
    assert out.inputs["ids"][1:][0].tolist() == [2, 3]


def test_each_bad_row_is_one_reject_and_its_neighbours_are_as_without_it():
    events = [{"ids": [1]}, {"ids": [1, 99, 98]}, {"ids": []}, {"ids": [2, 3]}, {"ids": [-1]}]
    out, rejects = enrich([feature(more={"min": 0, "max": 9})], signature(IDS), events)
    assert told(rejects) == [
        (1, "out_of_range", "ids[1] = 99 is above its maximum 9"),
        (4, "out_of_range", "ids[0] = -1 is below its minimum 0"),
    ]
    assert rows(out) == [[1], [], [2, 3]]
    assert {(reject.stage, reject.feature) for reject in rejects} == {("enrich", "ids")}


@pytest.mark.parametrize(
    ("too_long", "row"), [("keep_first", [1, 2, 3, 4]), ("keep_last", [3, 4, 5, 6]), ("reject", None)]
)
def test_a_row_that_is_too_long(too_long, row):
    out, rejects = enrich([feature(too_long=too_long)], signature(IDS), [{"ids": [1, 2, 3, 4, 5, 6]}])
    if row is None:
        assert told(rejects) == [(0, "out_of_range", "ids has 6 values, at most 4 are taken")]
    else:
        assert rows(out) == [row]


def test_a_missing_row_is_a_reject_or_empty_and_a_short_one_may_be_refused():
    _, rejects = enrich([feature()], signature(IDS), [{}])
    assert told(rejects) == [(0, "missing_feature", "ids is missing")]
    out, rejects = enrich([feature(missing="empty")], signature(IDS), [{}, {"ids": [1]}])
    assert (rows(out), rejects) == ([[], [1]], [])
    out, rejects = enrich([feature(min_length=1)], signature(IDS), [{"ids": []}, {"ids": [1]}])
    assert told(rejects) == [(0, "out_of_range", "ids has 0 values, at least 1 are needed")]
    assert rows(out) == [[1]]


def test_values_that_are_not_finite_or_too_large_for_the_input():
    events = [{"x": [0.5, math.nan]}, {"x": [math.inf]}, {"x": [1e39]}, {"x": [1.0]}]
    out, rejects = enrich([feature("x", "float32")], signature(("x", "float32", (-1, -1))), events, "msgpack")
    assert told(rejects) == [
        (0, "non_finite", "x[1] = nan is not finite"),
        (1, "non_finite", "x[0] = inf is not finite"),
        (2, "out_of_range", "x[0] = 1e+39 is beyond float32"),
    ]
    assert rows(out, "x") == [[1.0]]


def test_integers_beyond_the_input():
    _, rejects = enrich([feature("i", "int32")], signature(("i", "int32", (-1, -1))), [{"i": [0, 2**40]}])
    assert told(rejects) == [(0, "out_of_range", f"i[1] = {2**40} is beyond int32")]


def test_categories_become_positions_or_are_checked_as_text():
    words = feature("w", "string", more={"categories": ["a", "b"]})
    events = [{"w": ["b", "a"]}, {"w": ["a", "zz"]}]
    out, rejects = enrich([words], signature(("w", "int32", (-1, -1))), events)
    assert rows(out, "w") == [[1, 0]]
    assert told(rejects) == [(1, "schema", "w[1] = 'zz' is none of its 2 categories (a, b)")]
    out, rejects = enrich([words], signature(("w", "str", (-1, -1))), events)
    assert (rows(out, "w"), len(rejects)) == ([["b", "a"]], 1)
    other = feature("w", "string", more={"categories": ["a", "b"], "unknown": "other"})
    assert rows(enrich([other], signature(("w", "int64", (-1, -1))), events)[0], "w") == [[1, 0], [0, 2]]
    assert rows(enrich([other], signature(("w", "str", (-1, -1))), events)[0], "w") == [["b", "a"], ["a", "other"]]


def test_texts_and_bools_go_through_as_they_are():
    model = signature(("w", "str", (-1, -1)), ("f", "bool", (-1, -1)))
    features = [feature("w", "string"), feature("f", "bool")]
    out, rejects = enrich(features, model, [{"w": ["x", "x"], "f": [True, False]}, {"w": [], "f": []}])
    assert not rejects
    assert rows(out, "w") == [["x", "x"], []]
    assert rows(out, "f") == [[True, False], []]
    assert out.inputs["f"][0].dtype == np.bool_


def test_scalars_stand_beside_sequences_and_the_first_feature_at_fault_is_told():
    model = signature(("dense", "float32", (-1, 2)), IDS)
    features = [{"name": "a", "input": "dense"}, feature(), {"name": "b", "input": "dense", "max": 1}]
    out, rejects = enrich(features, model, [{"a": 1, "ids": [5], "b": 0}, {"a": 1, "b": 7}])
    assert out.inputs["dense"].tolist() == [[1, 0]]
    assert told(rejects) == [(1, "missing_feature", "ids is missing")]


def test_an_empty_batch_is_empty():
    out, rejects = enrich([feature()], signature(IDS), [])
    assert (len(out), out.inputs["ids"].shape, rejects) == (0, (0,), [])


def test_the_mask_is_filled_by_no_feature_and_leaves_one_input_to_fill():
    model = signature(IDS, ("attention", "int64", (-1, -1)))
    spec = settings([feature(mask="attention")])
    enricher = FeatureEnricher(spec.features, model)
    (padded,) = enricher.padded
    assert (padded.input.name, padded.mask.name, padded.lengths, padded.pad) == ("ids", "attention", (4,), 0)


@pytest.mark.parametrize(
    ("features", "model", "problem"),
    [
        ([feature()], signature(("x", "int64", (-1, 3))), "input x, int64[batch, 3], takes sequences of 3 values"),
        ([feature()], signature(("x", "int64", (-1,))), "takes an input of two axes, the batch and the length"),
        ([feature()], signature(("x", "int64", (-1, -1, 4))), "takes an input of two axes"),
        ([feature(), feature("b")], signature(("x", "int64", (-1, -1))), "ids, b all fill input x; say `input:`"),
        ([feature(mask="m")], signature(IDS), "names the mask m, but the model's inputs are ids"),
        ([feature(mask="m")], signature(IDS, ("m", "str", (-1, -1))), "m, is str[batch, any]"),
        ([feature(pad="x")], signature(IDS), "has `pad: 'x'`, but its input is int64[batch, any]"),
        ([feature(pad=0.5)], signature(IDS), "has `pad: 0.5`"),
        ([feature("w", "string")], signature(("w", "int64", (-1, -1))), "give it `categories`"),
        ([feature("w", "string", pad=0)], signature(("w", "str", (-1, -1))), "has `pad: 0`"),
        ([feature(more={"default": 0})], signature(IDS), "use `sequence: {missing: empty}`"),
        (
            [feature(mask="m"), feature("b", mask="m")],
            signature(IDS, ("b", "int64", (-1, -1)), ("m", "int64", (-1, -1))),
            "two sequences name the mask m",
        ),
    ],
)
def test_what_does_not_fit_is_told(features, model, problem):
    spec = settings(features)
    assert any(problem in found for found in check_features(spec.features, model)), check_features(spec.features, model)
    with pytest.raises(ContractError):
        FeatureEnricher(spec.features, model)


def test_a_model_of_one_length_is_fed_when_that_is_the_only_bucket():
    spec = settings([feature(buckets=[4])])
    assert check_features(spec.features, signature(("ids", "int64", (-1, 4)))) == []
