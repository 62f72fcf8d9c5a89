"""Softmax, argmax and top k of outputs of any rank, and what happens to rows that have no answer."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from streamserve.batch import EventBatch, ModelIdentity, PredictionBatch
from streamserve.codecs.prediction import JsonPredictionEncoder
from streamserve.config.settings import OutputSettings
from streamserve.errors import ContractError
from streamserve.pipeline.post import PostProcessing, softmax, top_positions
from streamserve.ports import TensorSpec
from tests.records import batch


def spec(name, dtype="float32", *axes):
    return TensorSpec(name=name, dtype=dtype, shape=(-1, *axes))


def output(post, **more):
    return OutputSettings.model_validate({"topic": "out", "post": post, **more})


def predictions(outputs):
    count = len(next(iter(outputs.values())))
    events = EventBatch(
        origin=batch([b"{}"] * (count + 1)),
        row=list(range(1, count + 1)),  # row 0 of the records was a reject
        id=[f"e{i}" for i in range(count)],
        entity=[None] * count,
        event_time_ms=[0] * count,
        fields={},
    )
    return PredictionBatch(events=events, outputs=outputs, model=ModelIdentity(name="m", version="1"))


def run(post, outputs, specs):
    processing = PostProcessing(output(post).post, specs)
    return processing(predictions(outputs))


SCORES = np.array([[1, 3, 2], [5, 5, 0]], np.float32)
LABELS = ["cat", "dog", "bird"]


def test_steps_run_in_order_and_build_on_each_other():
    post = {
        "probability": {"kind": "softmax", "of": "scores"},
        "class": {"kind": "argmax", "of": "probability", "labels": LABELS},
        "best": {"kind": "top_k", "of": "probability", "k": 2, "labels": LABELS, "values": "best_probability"},
        "position": {"kind": "argmax", "of": "scores"},
    }
    made, rejects = run(post, {"scores": SCORES}, [spec("scores", "float32", 3)])
    assert not rejects
    assert made.outputs["class"].tolist() == ["dog", "cat"]
    assert made.outputs["best"].tolist() == [["dog", "bird"], ["cat", "dog"]]
    assert made.outputs["position"].tolist() == [1, 0]
    assert made.outputs["position"].dtype == np.int64
    np.testing.assert_allclose(made.outputs["probability"].sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(made.outputs["best_probability"][:, 0], made.outputs["probability"].max(axis=1))


def test_what_the_steps_give_is_known_before_the_first_batch():
    post = {
        "p": {"kind": "softmax", "of": "x"},
        "i": {"kind": "argmax", "of": "p"},
        "l": {"kind": "argmax", "of": "p", "labels": LABELS},
        "t": {"kind": "top_k", "of": "p", "k": 2, "values": "v"},
    }
    specs = [spec("x", "float64", 4, 3)]
    processing = PostProcessing(output(post).post, specs)
    assert processing.outputs == (
        *specs,
        spec("p", "float64", 4, 3),
        spec("i", "int64", 4),
        spec("l", "str", 4),
        spec("t", "int64", 4, 2),
        spec("v", "float64", 4, 2),
    )
    made, _ = processing(predictions({"x": np.random.default_rng(0).normal(size=(5, 4, 3))}))
    for given_spec in processing.outputs:
        values = made.outputs[given_spec.name]
        assert values.shape == (5, *given_spec.shape[1:])
        assert values.dtype == ("object" if given_spec.dtype == "str" else given_spec.dtype)


@given(
    arrays.arrays(
        np.float32,
        arrays.array_shapes(min_dims=2, max_dims=4, min_side=1, max_side=6),
        elements=st.floats(-300, 300, width=32),
    )
)
@examples(deadline=None)
def test_softmax_is_the_definition_and_stays_finite(scores):
    exact = np.exp(scores.astype(np.float64) - scores.max(axis=-1, keepdims=True))
    exact /= exact.sum(axis=-1, keepdims=True)
    found = softmax(scores)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-7)


@given(
    st.one_of(
        arrays.arrays(np.int64, (3, 7), elements=st.sampled_from([-(2**63), -1, 0, 1, 2**63 - 1])),
        arrays.arrays(np.float32, (3, 7), elements=st.sampled_from([-1.5, 0.0, 0.5, 3e38])),
        arrays.arrays(np.uint8, (3, 7)),
    ),
    st.integers(1, 7),
)
@examples(deadline=None)
def test_the_top_k_are_a_stable_sorts_first_k(scores, k):
    expected = [
        sorted(range(7), key=lambda i, row=row: -int(row[i]) if row.dtype.kind in "iu" else -row[i])[:k]
        for row in scores
    ]
    assert top_positions(scores, k).tolist() == expected


def test_an_empty_batch_and_an_empty_axis():
    post = {"p": {"kind": "softmax", "of": "x"}, "t": {"kind": "top_k", "of": "p", "k": 2, "labels": LABELS}}
    made, rejects = run(post, {"x": np.empty((0, 3), np.float32)}, [spec("x", "float32", 3)])
    assert (made.outputs["p"].shape, made.outputs["t"].shape, rejects) == ((0, 3), (0, 2), [])
    made, rejects = run(
        {"c": {"kind": "argmax", "of": "x"}}, {"x": np.empty((2, 0), np.float32)}, [spec("x", "float32", -1)]
    )
    assert len(made) == 0
    assert [(r.row, r.reason, r.detail) for r in rejects] == [
        (i, "transform", "output.post.c needs at least 1 values of x, the model gave 0") for i in (1, 2)
    ]


def test_a_free_axis_that_does_not_have_the_labels_is_told_in_the_rejects():
    post = {"c": {"kind": "argmax", "of": "x", "labels": LABELS}}
    made, rejects = run(post, {"x": np.zeros((1, 4), np.float32)}, [spec("x", "float32", -1)])
    assert (len(made), rejects[0].detail) == (0, "output.post.c has 3 labels, the model gave 4 values of x")
    assert made.outputs["c"].shape == (0,)  # the encoder looks for it


@pytest.mark.parametrize("scores", [np.empty((0, 0), np.float32), np.full((2, 3), np.nan, np.float32)])
def test_without_a_row_every_step_still_gives_its_outputs_and_no_axis_is_checked(scores):
    post = {
        "p": {"kind": "softmax", "of": "x"},
        "c": {"kind": "argmax", "of": "p", "labels": LABELS},
        "t": {"kind": "top_k", "of": "x", "k": 2, "values": "v"},
    }
    made, rejects = run(post, {"x": scores}, [spec("x", "float32", -1)])
    assert (len(made), [reject.reason for reject in rejects]) == (0, ["non_finite"] * len(scores))
    assert {name: values.shape for name, values in made.outputs.items() if name != "x"} == {
        "p": (0, 0),
        "c": (0,),
        "t": (0, 2),
        "v": (0, 2),
    }


def test_a_row_of_nan_is_a_reject_even_when_its_scores_are_not_written():
    settings = output({"class": {"kind": "argmax", "of": "scores"}}, outputs={"class": "class"})
    processing = PostProcessing(settings.post, [spec("scores", "float32", 3)])
    scores = np.array([[0, 1, 2], [0, np.nan, 1], [9, 1, np.inf], [2, 1, 0]], np.float32)
    made, rejects = processing(predictions({"scores": scores}))
    assert [(r.row, r.stage, r.reason, r.detail) for r in rejects] == [
        (2, "infer", "non_finite", "the model's output scores[1] = nan is not finite"),
        (3, "infer", "non_finite", "the model's output scores[2] = inf is not finite"),
    ]
    out, more = JsonPredictionEncoder(settings, processing.outputs).encode(made)
    assert not more
    assert out.row == [1, 4]
    assert [json.loads(value)["outputs"] for value in out.value] == [{"class": 2}, {"class": 0}]


def test_thresholds_and_names_take_what_post_made():
    settings = output(
        {
            "p": {"kind": "softmax", "of": "x"},
            "best": {"kind": "top_k", "of": "p", "k": 1, "labels": ["a", "b"], "values": "sure"},
        },
        outputs={"label": "best", "certainty": "sure"},
        threshold={"certainty": {"at": 0.9, "as": "certain"}},
    )
    processing = PostProcessing(settings.post, [spec("x", "float32", 2)])
    made, _ = processing(predictions({"x": np.array([[0, 9], [0, 0]], np.float32)}))
    out, _ = JsonPredictionEncoder(settings, processing.outputs).encode(made)
    first, second = (json.loads(value)["outputs"] for value in out.value)
    assert first == {"label": "b", "certainty": pytest.approx(0.9998766), "certain": True}
    assert second == {"label": "a", "certainty": 0.5, "certain": False}


@pytest.mark.parametrize(
    ("post", "problem"),
    [
        ({"c": {"kind": "argmax", "of": "y"}}, "output.post.c is made of y, but at that point there are x, i, s, one"),
        ({"a": {"kind": "argmax", "of": "b"}, "b": {"kind": "softmax", "of": "x"}}, "output.post.a is made of b"),
        ({"x": {"kind": "softmax", "of": "x"}}, "names its output x, which there is already"),
        ({"t": {"kind": "top_k", "of": "x", "k": 1, "values": "t"}}, "gives its values its own name"),
        ({"p": {"kind": "softmax", "of": "i"}}, "i, int64[batch, 3], holds no floats"),
        ({"c": {"kind": "argmax", "of": "s"}}, "s, str[batch, 3], holds no numbers"),
        ({"c": {"kind": "argmax", "of": "one"}}, "one, float32[batch], has no axis of scores"),
        ({"c": {"kind": "argmax", "of": "x", "labels": ["a"]}}, "has 1 labels, but x, float32[batch, 3], has 3 values"),
        ({"t": {"kind": "top_k", "of": "x", "k": 4}}, "k is 4, but x, float32[batch, 3], has 3 values"),
    ],
)
def test_steps_that_do_not_fit_the_model_are_told(post, problem):
    specs = [spec("x", "float32", 3), spec("i", "int64", 3), spec("s", "str", 3), spec("one")]
    with pytest.raises(ContractError) as caught:
        PostProcessing(output(post).post, specs)
    assert problem in str(caught.value)


def test_all_problems_are_told_at_once():
    post = {"c": {"kind": "argmax", "of": "y"}, "t": {"kind": "top_k", "of": "x", "k": 9}}
    with pytest.raises(ContractError, match=r"(?s)output\.post\.c.*output\.post\.t"):
        PostProcessing(output(post).post, [spec("x", "float32", 3)])
