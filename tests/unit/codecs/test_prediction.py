"""Predictions as JSON, byte for byte."""

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
from streamserve.ports import TensorSpec
from tests.records import batch

MODEL = ModelIdentity(name="flight-delay", version="3")


def predictions(outputs, ids=None, model=MODEL, row=None, **columns):
    count = len(next(iter(outputs.values())))
    row = row if row is not None else list(range(count))
    origin = batch([b"{}"] * (max(row, default=-1) + 1), **columns)
    events = EventBatch(
        origin=origin,
        row=row,
        id=ids or [f"e{i}" for i in range(count)],
        entity=[None] * count,
        event_time_ms=[1372941000000 + i for i in range(count)],
        fields={},
    )
    return PredictionBatch(events=events, outputs=outputs, model=model)


def spec(name, dtype="float32", *axes):
    return TensorSpec(name=name, dtype=dtype, shape=(-1, *axes))


def encode(made, specs, /, ids=None, model=MODEL, row=None, columns=None, **output):
    encoder = JsonPredictionEncoder(OutputSettings.model_validate({"topic": "out", **output}), specs)
    return encoder.encode(predictions(made, ids, model, row, **(columns or {})))


def test_the_document_of_the_contract():
    out, rejects = encode(
        {"p": np.array([[0.83]], np.float32)},
        [spec("p", "float32", 1)],
        ["AA11-2013-07-04"],
        outputs={"probability": "p"},
        threshold={"probability": {"at": 0.5, "as": "delayed"}},
        columns={"key": [b"k"]},
    )
    assert not rejects
    assert out.value == [
        (
            b'{"id":"AA11-2013-07-04","model":"flight-delay","version":"3",'
            b'"outputs":{"probability":0.83,"delayed":true},'
            b'"event_time":1372941000000,"source":{"topic":"events","partition":2,"offset":0}}'
        )
    ]
    assert (out.topic, out.key, out.partition, out.row, out.headers) == ("out", [b"k"], [2], [0], [])
    assert JsonPredictionEncoder.documents(out) == out.value


def test_the_partition_count_of_the_input_topic_stands_in_the_source_when_it_is_asked_for():
    made = predictions({"p": np.array([1.5, 2.5], np.float32)})
    for topics, counts in ((["a", "a"], [3, 3]), (["a", "b"], [3, 12])):
        made.events.origin.topic[:] = topics
        encoder = JsonPredictionEncoder(
            OutputSettings(topic="out"), [spec("p")], partition_count={"a": 3, "b": 12}.__getitem__
        )
        out, _ = encoder.encode(made)
        assert [json.loads(value)["source"]["partitions"] for value in out.value] == counts
    assert out.value[1].endswith(b',"offset":1,"partitions":12}}')
    out, _ = JsonPredictionEncoder(OutputSettings(topic="out"), [spec("p")]).encode(made)
    assert b"partitions" not in b"".join(out.value)


IDS = ['a",', 'b","c', "\\", '\\",\n  "', "é\u2028", "", "\x00\n", "😀", "[", "x" * 10_000]


def test_every_id_survives_its_escaping():
    out, _ = encode({"p": np.zeros(len(IDS), np.float32)}, [spec("p")], IDS)
    assert [json.loads(value)["id"] for value in out.value] == IDS


def test_outputs_of_every_kind():
    outputs = {
        "single": np.array([1, 2], np.int64),
        "vector": np.array([[0.1, 0.2], [1, 3e38]], np.float32),
        "cube": np.arange(8, dtype=np.float64).reshape(2, 2, 2),
        "one_of_any": np.array([[5], [6]], np.int32),
        "flag": np.array([[True], [False]]),
        "label": np.array(["a,b", 'c"],["'], object),
        "labels": np.array([["x", "y"], ["z", "]"]], object),
    }
    specs = [
        spec("single", "int64"),
        spec("vector", "float32", 2),
        spec("cube", "float64", 2, 2),
        spec("one_of_any", "int32", -1),
        spec("flag", "bool", 1),
        spec("label", "str"),
        spec("labels", "str", 2),
    ]
    out, rejects = encode(outputs, specs)
    assert not rejects
    assert [json.loads(value)["outputs"] for value in out.value] == [
        {
            "single": 1,
            "vector": [0.1, 0.2],
            "cube": [[0, 1], [2, 3]],
            "one_of_any": [5],
            "flag": True,
            "label": "a,b",
            "labels": ["x", "y"],
        },
        {
            "single": 2,
            "vector": [1, 3e38],
            "cube": [[4, 5], [6, 7]],
            "one_of_any": [6],
            "flag": False,
            "label": 'c"],["',
            "labels": ["z", "]"],
        },
    ]


def test_a_threshold_is_met_at_its_value_in_the_precision_of_the_output():
    out, _ = encode({"p": np.array([0.1, 0.0999], np.float32)}, [spec("p")], threshold={"p": 0.1})
    assert [json.loads(value)["outputs"]["p_decision"] for value in out.value] == [True, False]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_output_that_is_not_finite_is_rejected_alone(bad):
    values = np.array([[1, 2], [3, bad], [5, 6]], np.float32)
    out, (reject,) = encode(
        {"v": values, "w": np.zeros(3)}, [spec("v", "float32", 2), spec("w", "float64")], row=[0, 4, 7]
    )
    assert (reject.row, reject.stage, reject.reason) == (4, "infer", "non_finite")
    assert reject.detail == f"the model's output v[1] = {bad} is not finite"
    assert out.row == [0, 7]
    assert [json.loads(value)["source"]["offset"] for value in out.value] == [0, 7]


def test_a_text_that_utf8_cannot_hold_is_rejected_alone():
    out, rejects = encode(
        {"p": np.array([0, 1, np.nan], np.float32), "s": np.array(["a", "b", "c"], object)},
        [spec("p"), spec("s", "str")],
        ["\ud800", "ok", "nan"],
    )
    assert [(r.row, r.stage, r.reason) for r in rejects] == [(0, "encode", "encode"), (2, "infer", "non_finite")]
    assert [json.loads(value)["id"] for value in out.value] == ["ok"]


def test_tracing_headers_are_carried_and_no_others():
    headers = [
        [("traceparent", b"old"), ("other", b"x"), ("traceparent", b"new"), ("baggage", b"b" * 9000)],
        None,
        [("correlationid", b"\xff"), ("tracestate", None)],
    ]
    out, _ = encode({"p": np.zeros(3)}, [spec("p", "float64")], columns={"headers": headers})
    assert out.headers == [[("traceparent", b"new")], None, [("correlationid", b"\xff")]]


def test_no_header_column_when_nothing_is_carried():
    out, _ = encode({"p": np.zeros(1)}, [spec("p", "float64")], columns={"headers": [[("other", b"x")]]})
    assert out.headers == []


def test_the_role_is_told_when_it_is_not_stable():
    canary = ModelIdentity(name="m", version="4", role="canary")
    out, _ = encode({"p": np.zeros(1)}, [spec("p", "float64")], model=canary)
    assert json.loads(out.value[0])["role"] == "canary"


def test_an_empty_batch_gives_no_records():
    out, rejects = encode(
        {"p": np.zeros((0, 1), np.float32), "v": np.zeros((0, 3))}, [spec("p", "float32", 1), spec("v", "float64", 3)]
    )
    assert (out.value, rejects) == ([], [])


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ({"outputs": {"a": "nope"}}, "names the model output nope"),
        ({"threshold": {"nope": 1}}, "no output of the prediction"),
        ({"threshold": {"v": 1}}, "needs a single number"),
        ({"threshold": {"p": {"at": 1, "as": "v"}}}, "two outputs are named v"),
    ],
)
def test_output_settings_that_do_not_fit_are_refused(output, words):
    with pytest.raises(ContractError, match=words):
        encode({"p": np.zeros(1), "v": np.zeros((1, 2))}, [spec("p"), spec("v", "float32", 2)], **output)


@given(
    rows=st.integers(0, 3),
    axes=st.lists(st.integers(0, 3), max_size=4),
    dtype=st.sampled_from(["float32", "float64", "float16", "int8", "uint64", "int64", "bool", "str"]),
    data=st.data(),
)
@examples(deadline=None)
def test_outputs_of_any_rank_and_dtype_are_written_as_they_are(rows, axes, dtype, data):
    shape = (rows, *axes)
    if dtype == "str":
        values = arrays.arrays(object, shape, elements=st.text(max_size=4).filter(str.isprintable))
    elif dtype.startswith("float"):
        values = arrays.arrays(dtype, shape, elements={"allow_nan": False, "allow_infinity": False})
    else:
        values = arrays.arrays(dtype, shape)
    made = data.draw(values)
    out, rejects = encode({"y": made}, [spec("y", dtype, *axes)])
    assert not rejects
    single = all(axis == 1 for axis in axes)
    written = [json.loads(value)["outputs"]["y"] for value in out.value]
    expected = made.reshape(rows).tolist() if single else made.tolist()
    kind = np.float32 if dtype == "float16" else made.dtype
    assert np.array(written, kind).tolist() == np.array(expected, kind).tolist()
