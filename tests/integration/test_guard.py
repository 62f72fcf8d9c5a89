"""The guard and the shadow with a real worker, a real sidecar and a real broker: canaries that fail, are slow or drift."""

from __future__ import annotations

import contextlib
import json
import threading
import time

import numpy as np
import pytest
from confluent_kafka import Producer
from onnx import TensorProto, helper, numpy_helper

from streamserve.config.loading import load
from streamserve.drift.baseline import BaselineOptions, build
from streamserve.kafka.rollout_topic import RolloutReader, RolloutWriter
from streamserve.rollout.log import RolloutLog
from streamserve.rollout.records import Canary, Rollback, Shadow, new_id
from tests.pipelines import drained, environment, free_port, running, wait_ready
from tests.services import create_topic, read_all, unique

CONFIG = """pipeline: {name}
kafka: {{bootstrap.servers: "{bootstrap}"}}
input: {{topics: [{name}.events], id: id, event_time: at}}
features: [{{name: x}}]
model: {{name: scale, version: 1}}
output: {{topic: {name}.predictions}}
dead_letter: {{topic: {name}.dead, max_ratio: 1.0}}
delivery: {{commit_interval_ms: 20}}
drift: {{windows_s: [60, 600], samples_per_s: all}}
rollout: {{guard: {{min_rows: 300, window_s: 10}}}}
"""
GOOD, FAILING, SLOW, SHIFTED = 1, 2, 3, 4
WIDTH, LAYERS = 256, 60
SECONDS, PER_S = 900, 50
"""Event time of the stream that drifts, much faster than the clock on the wall."""


def nodes(number):
    """A model of `y = x`, with its own fault."""
    match number:
        case 2:  # not finite for every event over 5
            return [
                helper.make_node("Sub", ["five", "x"], ["left"]),
                helper.make_node("Sqrt", ["left"], ["root"]),
                helper.make_node("Mul", ["root", "zero"], ["nothing"]),
                helper.make_node("Add", ["x", "nothing"], ["y"]),
            ]
        case 3:  # a network whose answer is not used
            layers = [helper.make_node("MatMul", [f"h{i}", "w"], [f"h{i + 1}"]) for i in range(LAYERS)]
            return [
                helper.make_node("MatMul", ["x", "wide"], ["h0"]),
                *layers,
                helper.make_node("MatMul", [f"h{LAYERS}", "narrow"], ["out"]),
                helper.make_node("Mul", ["out", "zero"], ["nothing"]),
                helper.make_node("Add", ["x", "nothing"], ["y"]),
            ]
        case 4:
            return [helper.make_node("Add", ["x", "five"], ["y"])]
    return [helper.make_node("Identity", ["x"], ["y"])]


def save(folder, number):
    constants = {
        "five": np.float32([5]),
        "zero": np.float32([0]),
        "w": np.eye(WIDTH, dtype=np.float32),
        "wide": np.ones((1, WIDTH), np.float32),
        "narrow": np.ones((WIDTH, 1), np.float32) / WIDTH,
    }
    used = {name for node in nodes(number) for name in node.input}
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])
    weights = [numpy_helper.from_array(value, name) for name, value in constants.items() if name in used]
    graph = helper.make_graph(nodes(number), "g", [x], [y], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    target = folder / "models" / "scale" / str(number)
    target.mkdir(parents=True)
    (target / "model.onnx").write_bytes(model.SerializeToString())


def reference(folder, settings):
    """What version 1 sees and says of a stream of the kind that `Events` sends."""
    n = 20_000
    x = np.random.default_rng(1).normal(size=n)
    options = BaselineOptions(model="scale", version="1", pane_s=settings.drift.pane_s, created_ms=0, source="a test")
    made = build({"x": x, "output.y": x.astype(np.float32)}, np.arange(n) * 1000 // PER_S, options)
    (folder / "models" / "scale" / "1" / "reference.json").write_bytes(made.to_json())


class Pipeline:
    def __init__(self, folder, bootstrap):
        self.folder, self.bootstrap, self.name = folder, bootstrap, unique("guarded")
        self.port = free_port()
        self.env = environment(STREAMSERVE_HTTP__PORT=str(self.port))
        (folder / "streamserve.yaml").write_text(CONFIG.format(name=self.name, bootstrap=bootstrap))
        for number in (GOOD, FAILING, SLOW, SHIFTED):
            save(folder, number)
        self.settings = load(folder / "streamserve.yaml", {}, {}).settings
        for topic in ("events", "predictions", "dead", "shadow", "samples", "drift.alerts"):
            create_topic(bootstrap, f"{self.name}.{topic}")
        for topic in ("rollout", "drift.reports"):
            create_topic(bootstrap, f"{self.name}.{topic}", 1, {"cleanup.policy": "compact"})

    def log(self):
        log = RolloutLog()
        with RolloutReader(self.settings) as reader:
            for entry in reader.read_to_end(20):
                log.add(*entry)
        return log

    def give(self, kind, **fields):
        """Give a command and wait until the worker serves by it. Returns: its revision."""
        command = kind(id=new_id(), by="test", at_ms=round(time.time() * 1000), **fields)
        with RolloutWriter(self.settings) as writer:
            revision = writer.publish(command)
        self.until(lambda log: any(ack.serving == revision for ack in log.acknowledgements.values()))
        return revision

    def until(self, condition, timeout_s=60):
        deadline = time.monotonic() + timeout_s
        while not condition(log := self.log()):
            assert time.monotonic() < deadline, list(log.history)
            time.sleep(0.1)
        return log

    @contextlib.contextmanager
    def worker(self):
        path = self.folder / "worker.log"
        with running(["streamserve", "run"], self.folder, self.env, path) as process:
            wait_ready(self.port, process, path)
            yield
            drained(process, path)

    def rolled_back(self):
        log = self.until(lambda log: any(isinstance(given.command, Rollback) for given in log.history))
        (given,) = [given for given in log.history if isinstance(given.command, Rollback) and not given.refused]
        self.until(lambda log: any(ack.serving == given.offset for ack in log.acknowledgements.values()))
        return given

    def work_off(self, events):
        """Wait until every event has become a prediction or a dead letter: a drain leaves what was not polled yet."""
        deadline = time.monotonic() + 60
        while (done := len(self.values("predictions")) + len(self.values("dead"))) < events.count:
            assert time.monotonic() < deadline, (done, events.count)
            time.sleep(0.2)

    def values(self, topic):
        return [json.loads(message.value()) for message in read_all(self.bootstrap, f"{self.name}.{topic}")]


class Events:
    """About 2,000 a second from a thread; `x` is standard normal, every twentieth is 7."""

    def __init__(self, pipeline, *, strange=True, limit=10**9, start_ms=None):
        self._pipeline, self._strange, self._limit, self._start_ms = pipeline, strange, limit, start_ms
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.count = 0

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def wait(self):
        self._thread.join(60)

    def _run(self):
        rng = np.random.default_rng(2)
        producer = Producer({"bootstrap.servers": self._pipeline.bootstrap, "linger.ms": 1})
        while not self._stop.wait(0.005) and self.count < self._limit:
            for drawn in rng.normal(size=10 if self._start_ms is None else 100):
                x = 7 if self._strange and self.count % 20 == 0 else float(drawn)
                at = time.time() * 1000 if self._start_ms is None else self._start_ms + self.count * 1000 / PER_S
                event = {"id": f"e{self.count}", "x": x, "at": round(at)}
                producer.produce(f"{self._pipeline.name}.events", json.dumps(event), f"k{self.count}")
                self.count += 1
            producer.poll(0)
        producer.flush(10)


@pytest.fixture
def pipeline(kafka, tmp_path):
    return Pipeline(tmp_path, kafka.bootstrap)


@pytest.mark.parametrize(("version", "words"), [(FAILING, "rejects"), (SLOW, "times as long")])
def test_a_canary_that_fails_or_is_slow_is_rolled_back(pipeline, version, words):
    with pipeline.worker():
        with Events(pipeline) as events:
            revision = pipeline.give(Canary, version=str(version), weight=0.2)
            given = pipeline.rolled_back()
            assert (given.command.by, given.command.expects) == ("guard", revision)
            assert words in given.command.why
        pipeline.work_off(events)
    predictions = pipeline.values("predictions")
    assert len(predictions) + len(read_all(pipeline.bootstrap, f"{pipeline.name}.dead")) == events.count
    assert {prediction["version"] for prediction in predictions} == {"1", str(version)}
    assert pipeline.log().state.sides == ("1",)


def test_a_canary_that_drifts_from_the_stable_version_is_rolled_back(pipeline, tmp_path):
    """The sidecar compares both, opens an incident for the canary, and the worker reads of it."""
    reference(tmp_path, pipeline.settings)
    start_ms = round(time.time() * 1000) - SECONDS * 1000
    with pipeline.worker(), running(["streamserve", "sidecar"], tmp_path, pipeline.env, tmp_path / "sidecar.log"):
        revision = pipeline.give(Canary, version=str(SHIFTED), weight=0.5)
        with Events(pipeline, strange=False, limit=SECONDS * PER_S, start_ms=start_ms) as events:
            events.wait()
            given = pipeline.rolled_back()
    assert given.command.expects == revision
    assert given.command.why.startswith("the drift monitor opened incident ")
    assert "the canary differs in output.y" in given.command.why


def test_a_shadow_says_what_it_would_have_said_and_the_predictions_are_all_there(pipeline):
    with pipeline.worker():
        with Events(pipeline) as events:
            pipeline.give(Shadow, version=str(SHIFTED))
            time.sleep(2)
        pipeline.work_off(events)
    predictions = {each["id"]: each for each in pipeline.values("predictions")}
    assert len(predictions) == events.count
    shadow = pipeline.values("shadow")
    assert len(shadow) > 1000
    for each in shadow:
        stable = predictions[each["id"]]
        assert (each["version"], each["role"], stable["version"]) == (str(SHIFTED), "shadow", "1")
        assert each["source"] == stable["source"]
        assert each["outputs"]["y"] == pytest.approx(stable["outputs"]["y"] + 5, abs=1e-4)
