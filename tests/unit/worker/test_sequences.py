"""A worker on texts of mixed lengths: buckets, hooks and post-processing around a real model, bad rows among good ones."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.models import save
from streamserve.config.engine_settings import EngineSettings
from streamserve.engines.onnx import OnnxEngine
from streamserve.ports import Signature, TensorSpec
from streamserve.testing import FunctionEngine, MemoryBroker, MemoryWorker, memory_settings
from tests.memory import topics
from tests.texts import LABELS, NAN_TOKEN, NO_TOKEN, VOCABULARY, classifier, hook, probabilities

FEATURE = {"name": "tokens", "dtype": "int64", "min": 0, "sequence": {"max_length": 64, "mask": "mask"}}
OUTPUT = {
    "topic": "predictions",
    "post": {
        "probability": {"kind": "softmax", "of": "scores"},
        "best": {"kind": "top_k", "of": "probability", "k": 1, "labels": LABELS, "values": "certainty"},
    },
    "outputs": {"probability": "probability", "label": "best", "certainty": "certainty"},
    "threshold": {"certainty": {"at": 0.25, "as": "sure"}},
}
REFUSES_FOUR = """
import numpy as np
from streamserve.hooks import RowError

def refuse(inputs):
    bad = {i: "it starts with 4" for i, row in enumerate(inputs["tokens"]) if len(row) and row[0] == 4}
    if bad:
        raise RowError(rows=bad)
    return inputs
"""


@pytest.fixture
def engine(tmp_path):
    return OnnxEngine(save(classifier(), tmp_path), EngineSettings(device="cpu"))


def run(engine, events, *, feature=FEATURE, **blocks):
    broker = topics(MemoryBroker())
    for number, event in enumerate(events):
        broker.produce("events", json.dumps(event).encode(), key=b"%d" % number)
    settings = memory_settings(
        [feature], **{"output": OUTPUT, "dead_letter": {"topic": "dead", "max_ratio": 1}, **blocks}
    )
    with MemoryWorker(settings, engine, broker) as worker:
        broker.wait_records("predictions", sum("good" in event for event in events))
        broker.wait_records("dead", sum("good" not in event for event in events))
    assert worker.failure is None
    made = {int(record.key): json.loads(record.value)["outputs"] for record in broker.records("predictions")}
    dead = {int(record.key): dict(record.headers) for record in broker.records("dead")}
    return made, dead, worker.metrics


def texts(count, seed=0):
    generator = np.random.default_rng(seed)
    lengths = np.minimum(generator.lognormal(2.5, 1, count).astype(int), 64)
    return [{"tokens": generator.integers(NAN_TOKEN + 1, VOCABULARY, length).tolist(), "good": 1} for length in lengths]


def check(made, events):
    for number, outputs in made.items():
        expected = probabilities(events[number]["tokens"])
        np.testing.assert_allclose(outputs["probability"], expected, rtol=1e-4, atol=1e-6)
        best = int(expected.argmax())
        assert outputs["label"] == LABELS[best]
        assert outputs["certainty"] == outputs["probability"][best]
        assert outputs["sure"] is bool(outputs["certainty"] >= 0.25)


def test_texts_of_mixed_lengths_are_answered_as_each_alone_and_padding_is_counted(engine):
    events = texts(300)
    made, dead, metrics = run(engine, events)
    assert (len(made), dead) == (300, {})
    check(made, events)
    elements = metrics.inference_elements["length",]._value.get()
    padding = metrics.inference_padding["length",]._value.get()
    assert elements - padding == sum(len(event["tokens"]) for event in events)
    assert 0 < padding < elements


def test_a_bad_row_of_any_kind_is_dead_lettered_alone(engine, tmp_path):
    events = texts(60)
    bad = {
        3: ({"tokens": "text"}, "decode", "schema"),
        8: ({"tokens": [1, 2.5]}, "decode", "schema"),
        13: ({}, "enrich", "missing_feature"),
        21: ({"tokens": [20] * 65}, "enrich", "out_of_range"),
        22: ({"tokens": [20, -1]}, "enrich", "out_of_range"),
        30: ({"tokens": [4, 20]}, "infer", "transform"),
        31: ({"tokens": [20, NO_TOKEN]}, "infer", "infer"),
        44: ({"tokens": [20, NAN_TOKEN, 21]}, "infer", "non_finite"),
    }
    for number, (event, _, _) in bad.items():
        events[number] = event
    hooks = {"before": hook(tmp_path, "hooks.py", REFUSES_FOUR, "refuse")}
    made, dead, _ = run(engine, events, hooks=hooks)
    assert sorted(made) == [number for number in range(60) if number not in bad]
    check(made, events)
    found = {
        number: (headers["__connect.errors.stage"].decode(), headers["streamserve.reason"].decode())
        for number, headers in dead.items()
    }
    assert found == {number: (stage, reason) for number, (_, stage, reason) in bad.items()}


def test_an_empty_text_is_a_text(engine):
    events = [{"tokens": [], "good": 1}, {"tokens": [20], "good": 1}]
    made, dead, _ = run(engine, events)
    assert not dead
    check(made, events)


def test_words_go_to_a_model_of_strings(tmp_path):
    words = [f"w{i}" for i in range(VOCABULARY)]
    engine = OnnxEngine(save(classifier(words), tmp_path), EngineSettings(device="cpu"))
    numbers = texts(100)
    events = [{"tokens": [words[i] for i in event["tokens"]], "good": 1} for event in numbers]
    feature = {"name": "tokens", "dtype": "string", "sequence": {"max_length": 64, "mask": "mask"}}
    made, dead, _ = run(engine, events, feature=feature)
    assert not dead
    check(made, numbers)


def test_categories_go_to_a_model_of_numbers_as_their_positions(engine):
    words = [f"w{i}" for i in range(VOCABULARY)]
    numbers = texts(40)
    events = [{"tokens": [words[i] for i in event["tokens"]], "good": 1} for event in numbers]
    events.append({"tokens": ["unheard-of"]})
    feature = {"name": "tokens", "dtype": "string", "categories": words, "sequence": FEATURE["sequence"]}
    made, dead, _ = run(engine, events, feature=feature)
    assert list(dead) == [40]
    check(made, numbers)


@pytest.mark.parametrize("bucketed", [True, False])
def test_a_hook_may_make_the_sequences(engine, tmp_path, bucketed):
    code = """
import numpy as np
from streamserve.hooks import rows

def tokenise(inputs):
    return {"tokens": rows([[int(word) for word in text.split()] for text in inputs["text"]], "int64")}

def tokenise_and_pad(inputs):
    tokens = tokenise(inputs)["tokens"]
    lengths = np.array([len(row) for row in tokens])
    padded = np.zeros((len(tokens), max(1, lengths.max())), np.int64)
    for i, row in enumerate(tokens):
        padded[i, : len(row)] = row
    return {"tokens": padded, "mask": (np.arange(padded.shape[1]) < lengths[:, None]).astype(np.int64)}
"""
    more = {"inputs": {"text": {"dtype": "string", "shape": [-1]}}}
    if bucketed:
        more["sequences"] = {"tokens": {"max_length": 64, "mask": "mask"}}
    before = hook(tmp_path, "hooks.py", code, "tokenise" if bucketed else "tokenise_and_pad", **more)
    numbers = texts(50)
    events = [{"text": " ".join(map(str, event["tokens"])), "good": 1} for event in numbers]
    events.insert(20, {"text": "20 not-a-number"})
    numbers.insert(20, {})
    feature = {"name": "text", "dtype": "string"}
    made, dead, metrics = run(engine, events, feature=feature, hooks={"before": before})
    assert list(dead) == [20]
    assert b"ValueError: invalid literal" in dead[20]["__connect.errors.exception.message"]
    check(made, numbers)
    assert (metrics.inference_elements["length",]._value.get() > 0) is bucketed


@pytest.mark.parametrize("labels", [None, ["few", "many"], ["none", "few", "many"]])
def test_no_row_and_no_match_of_labels_on_a_free_axis_ends_the_worker(labels):
    signature = Signature(
        inputs=(TensorSpec(name="x", dtype="float32", shape=(-1, 1)),),
        outputs=(TensorSpec(name="scores", dtype="float32", shape=(-1, -1)),),
    )
    engine = FunctionEngine(lambda inputs: {"scores": inputs["x"] * np.array([[1, 2]], np.float32)}, signature)
    broker = topics(MemoryBroker())
    post = {"best": {"kind": "argmax", "of": "scores", "labels": labels}}
    settings = memory_settings(
        [{"name": "x"}],
        output={"topic": "predictions", "post": post, "outputs": {"best": "best"}},
        dead_letter={"topic": "dead", "max_ratio": 1},
    )
    fits = labels is None or len(labels) == 2
    with MemoryWorker(settings, engine, broker) as worker:
        broker.produce("events", b"no JSON")
        broker.wait_records("dead", 1)  # a batch of its own
        broker.produce("events", b'{"x": 1}')
        broker.wait_records("predictions" if fits else "dead", 1 if fits else 2)
    assert worker.failure is None
    made = [json.loads(record.value)["outputs"]["best"] for record in broker.records("predictions")]
    reasons = [dict(record.headers)["streamserve.reason"] for record in broker.records("dead")]
    assert made == ([1 if labels is None else "many"] if fits else [])
    assert reasons == ([b"decode"] if fits else [b"decode", b"transform"])


def test_a_hooks_row_that_is_no_sequence_is_dead_lettered_alone(engine, tmp_path):
    code = """
def forget(inputs):
    tokens = inputs["tokens"].copy()
    for i, row in enumerate(tokens):
        if len(row) and row[0] == 4:
            tokens[i] = None
    return {"tokens": tokens}
"""
    events = texts(20)
    events[7] = {"tokens": [4, 20]}
    made, dead, _ = run(engine, events, hooks={"before": hook(tmp_path, "hooks.py", code, "forget")})
    assert {number: headers["streamserve.reason"] for number, headers in dead.items()} == {7: b"transform"}
    check(made, events)
