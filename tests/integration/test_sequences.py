"""`streamserve run` on a real broker with a model of texts: every kind of input, hooks, post-processing, samples."""

from __future__ import annotations

import hashlib
import json
import time
import urllib.request

import numpy as np

from benchmarks.models import save
from streamserve.drift.chunk import decode
from tests.pipelines import drained, environment, free_port, run, running, wait_ready
from tests.services import create_topic, produce, read_all, unique
from tests.texts import LABELS, NAN_TOKEN, NO_TOKEN, VOCABULARY, inputs_of_every_kind, probabilities

HOOKS = """
import numpy as np
from streamserve.hooks import RowError

def louder(inputs):
    refused = {i: "no shouting" for i, word in enumerate(inputs["word"][:, 0]) if word.isupper()}
    if refused:
        raise RowError(rows=refused)
    return {**inputs, "dense": inputs["dense"] * 2}

def answer(outputs):
    return {
        "scores": outputs["scores"],
        "echo": np.concatenate([outputs["dense_out"], outputs["count_out"].astype(np.float32)], axis=1),
        "flag": outputs["flag_out"],
        "small": outputs["small_out"],
        "word": outputs["word_out"],
    }
"""
PIPELINE = """
pipeline: {name}
kafka: {{bootstrap.servers: {bootstrap}}}
input: {{topics: [{name}.texts], id: id}}
features:
  - {{name: tokens, dtype: int64, min: 0, sequence: {{max_length: 64, mask: mask}}}}
  - {{name: a, input: dense}}
  - {{name: b, input: dense}}
  - {{name: count, dtype: int64}}
  - {{name: small, dtype: int32}}
  - {{name: flag, dtype: bool}}
  - {{name: word, dtype: string}}
model: {{name: texts}}
hooks:
  before: {{path: hooks.py, sha256: {digest}, function: louder}}
  after:
    path: hooks.py
    sha256: {digest}
    function: answer
    outputs:
      scores: {{shape: [-1, 4]}}
      echo: {{shape: [-1, 3]}}
      flag: {{dtype: bool, shape: [-1, 1]}}
      small: {{dtype: int32, shape: [-1]}}
      word: {{dtype: string, shape: [-1, 1]}}
output:
  topic: {name}.predictions
  post:
    probability: {{kind: softmax, of: scores}}
    label: {{kind: argmax, of: scores, labels: [{labels}]}}
    best: {{kind: top_k, of: probability, k: 2, values: best_probability}}
  outputs:
    {{label: label, best: best, p: best_probability, echo: echo, flag: flag, small: small, word: word, prob: probability}}
dead_letter: {{topic: {name}.dlq}}
drift: {{samples_per_s: all}}
"""
GOOD = 400


def events():
    generator = np.random.default_rng(5)
    for i, length in enumerate(np.minimum(generator.lognormal(2.5, 1, GOOD).astype(int), 64)):
        yield {
            "id": f"e{i}",
            "tokens": generator.integers(NAN_TOKEN + 1, VOCABULARY, length).tolist(),
            "a": i / 2,
            "b": -i,
            "count": i,
            "small": -i,
            "flag": i % 3 == 0,
            "word": f"wört{i}",
        }


def test_texts_go_through_a_worker(kafka, tmp_path):
    name = unique("texts").replace("_", "-")
    topics = {kind: f"{name}.{kind}" for kind in ("texts", "predictions", "dlq", "samples")}
    for topic in topics.values():
        create_topic(kafka.bootstrap, topic, 2)
    (tmp_path / "hooks.py").write_text(HOOKS)
    save(inputs_of_every_kind(), tmp_path / "models" / "texts" / "1")
    config = PIPELINE.format(
        name=name,
        bootstrap=kafka.bootstrap,
        digest=hashlib.sha256(HOOKS.encode()).hexdigest(),
        labels=", ".join(LABELS),
    )
    (tmp_path / "streamserve.yaml").write_text(config)
    good = list(events())
    bad = [{**good[0], "id": f"bad{i}", **wrong} for i, wrong in enumerate(WRONG)]
    mixed = [event for i, event in enumerate(good) for event in ([bad[i // 50], event] if i % 50 == 0 else [event])]
    mixed += bad[GOOD // 50 :]
    produce(kafka.bootstrap, topics["texts"], ((event["id"].encode(), json.dumps(event).encode()) for event in mixed))

    port, log, env = free_port(), tmp_path / "worker.log", environment()
    with running(["streamserve", "run", "--set", f"http.port={port}"], tmp_path, env, log) as worker:
        wait_ready(port, worker, log)
        deadline = time.monotonic() + 40
        while len(read_all(kafka.bootstrap, topics["predictions"])) < GOOD:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            metrics = answer.read().decode()
        drained(worker, log)

    made = {
        m.key().decode(): json.loads(m.value())["outputs"] for m in read_all(kafka.bootstrap, topics["predictions"])
    }
    assert sorted(made) == sorted(event["id"] for event in good)
    for event in good:
        _check(made[event["id"]], event)
    dead = {
        m.key().decode(): dict(m.headers())["streamserve.reason"].decode()
        for m in read_all(kafka.bootstrap, topics["dlq"])
    }
    assert dead == {event["id"]: reason for event, reason in zip(bad, REASONS, strict=True)}
    assert _metric(metrics, "inference_padding_total", 'axis="length"') > 0
    chunks = [decode(m.value()) for m in read_all(kafka.bootstrap, topics["samples"])]
    lengths = [length for chunk in chunks for length in chunk.columns["tokens.length"].tolist()]
    assert sorted(lengths) == sorted(len(event["tokens"]) for event in good)

    (tmp_path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in good))
    run(["streamserve", "drift", "baseline", "--from", "events.jsonl"], tmp_path, env)
    reference = json.loads((tmp_path / "models" / "texts" / "1" / "reference.json").read_text())
    assert "tokens.length" in json.dumps(reference)


def test_a_hook_that_was_changed_ends_the_start(kafka, tmp_path):
    (tmp_path / "hooks.py").write_text(HOOKS)
    save(inputs_of_every_kind(), tmp_path / "models" / "texts" / "1")
    config = PIPELINE.format(name="texts", bootstrap=kafka.bootstrap, digest="ab" * 32, labels=", ".join(LABELS))
    (tmp_path / "streamserve.yaml").write_text(config)
    canary = tmp_path / "canary"
    (tmp_path / "hooks.py").write_text(f"open({str(canary)!r}, 'w').close()\n" + HOOKS)
    log = tmp_path / "log"
    with running(["streamserve", "run"], tmp_path, environment(), log) as worker:
        assert worker.wait(30) == 78
    assert "ab" * 32 in log.read_text()
    assert not canary.exists()


WRONG = [
    {"tokens": [20, NAN_TOKEN]},
    {"tokens": [20, NO_TOKEN]},
    {"tokens": [20, "x"]},
    {"tokens": [20] * 65},
    {"word": "SHOUT"},
    {"flag": 1},
    {"small": 2**40},
    {"count": None},
]
REASONS = ["non_finite", "infer", "schema", "out_of_range", "transform", "schema", "out_of_range", "missing_feature"]


def _check(outputs, event):
    expected = probabilities(event["tokens"])
    order = np.argsort(-expected)
    np.testing.assert_allclose(outputs["prob"], expected, rtol=1e-4, atol=1e-6)
    assert outputs["label"] == LABELS[order[0]]
    assert outputs["best"] == order[:2].tolist()
    assert outputs["p"] == [outputs["prob"][i] for i in order[:2]]
    assert outputs["echo"] == [event["a"] * 2, event["b"] * 2, event["count"]]
    assert (outputs["flag"], outputs["small"], outputs["word"]) == (event["flag"], event["small"], event["word"])


def _metric(text: str, name: str, label: str) -> float:
    (line,) = (line for line in text.splitlines() if line.startswith(f"streamserve_{name}") and label in line)
    return float(line.rpartition(" ")[2])
