"""The contracts of `Encoder` and `RejectEncoder`."""

from __future__ import annotations

import numpy as np
import pytest

from streamserve.batch import EventBatch, ModelIdentity, PredictionBatch, Reject
from streamserve.codecs.dead_letter import DeadLetterEncoder
from streamserve.codecs.prediction import JsonPredictionEncoder
from streamserve.config.settings import OutputSettings
from streamserve.ports import TensorSpec
from tests.records import batch

OUTPUT = TensorSpec(name="p", dtype="float64", shape=(-1,))
ENCODERS = {"json": lambda: JsonPredictionEncoder(OutputSettings(topic="out"), [OUTPUT])}


@pytest.fixture(params=ENCODERS)
def encoder(request):
    return ENCODERS[request.param]()


def predictions(values, rows, ids=None):
    events = EventBatch(
        origin=batch([b""] * 10, key=[b"%d" % i for i in range(10)]),
        row=rows,
        id=ids or [str(row) for row in rows],
        entity=[None] * len(rows),
        event_time_ms=[1] * len(rows),
        fields={},
    )
    return PredictionBatch(
        events=events, outputs={"p": np.array(values, float)}, model=ModelIdentity(name="m", version="1")
    )


def test_every_row_is_a_record_or_exactly_one_reject(encoder):
    out, rejects = encoder.encode(predictions([1, np.nan, 2, 3], [1, 3, 5, 7], ["a", "b", "\ud800", "d"]))
    assert out.row == [1, 7]
    assert [(reject.row, reject.stage, reject.reason) for reject in rejects] == [
        (3, "infer", "non_finite"),
        (5, "encode", "encode"),
    ]


def test_columns_are_of_equal_length_and_follow_the_input_record(encoder):
    out, _ = encoder.encode(predictions([1, 2], [4, 9]))
    assert out.topic == "out"
    assert out.key == [b"4", b"9"]
    assert out.partition == [2, 2]
    assert len(out.value) == 2
    assert all(isinstance(value, bytes) for value in out.value)


def test_encoding_is_deterministic(encoder):
    made = predictions([0.1, 0.2], [0, 1])
    assert encoder.encode(made)[0].value == encoder.encode(made)[0].value


def test_a_reject_encoder_writes_one_record_a_reject_whatever_they_hold():
    encoder = DeadLetterEncoder("dlq", "g", 1000, None)
    records = batch([None, b"", bytes(5000)], key=[None, bytes(5000), b"k"], headers=[None, [("\ud800", None)], []])
    rejects = [Reject(row=i, stage="decode", reason="decode", detail="\ud800\x00" * 5000) for i in (2, 0, 1)]
    out = encoder.encode(records, rejects)
    assert (out.topic, out.row, len(out)) == ("dlq", [2, 0, 1], 3)
    assert [len(column) for column in (out.key, out.partition, out.headers, out.timestamp_ms)] == [3] * 4
    for key, value, headers in zip(out.key, out.value, out.headers, strict=True):
        assert len(key or b"") + len(value or b"") <= 1000
        assert all(content is None or isinstance(content, bytes) for _, content in headers)
