"""The shadow lane: what it scores, what it drops and when, and that nothing of it reaches the stable path."""

from __future__ import annotations

import io
import threading
import time
import weakref
from types import SimpleNamespace

import numpy as np
import orjson
import pytest
from prometheus_client import CollectorRegistry

from streamserve.batch import ModelIdentity, RecordBatch
from streamserve.codecs import build_decoder
from streamserve.codecs.dead_letter import DeadLetterEncoder
from streamserve.codecs.prediction import JsonPredictionEncoder
from streamserve.enrich.features import FeatureEnricher
from streamserve.errors import EngineError, SinkError
from streamserve.pipeline.agreement import Agreement
from streamserve.pipeline.infer import InferStage
from streamserve.pipeline.poison import BatchBound
from streamserve.pipeline.serving import Deployment, Fixed, LoadedModel, Route
from streamserve.pipeline.stages import Stages
from streamserve.telemetry.logs import Log
from streamserve.telemetry.versions import VersionMetrics
from streamserve.testing import FunctionEngine, MemoryBroker, MemoryShadowSink, memory_settings
from streamserve.worker.shadow import ShadowLane
from tests.memory import DOUBLE, Gate, doubled, until

LONG_S = 5.0


class Notes:
    """A journal that counts."""

    def __init__(self):
        self.entered = 0
        self.standing = False

    def enter(self, records, rows):
        self.entered += 1
        self.standing = True

    def leave(self):
        self.standing = False

    def split(self, records):
        return None


class Scene:
    """Stages with version 1 stable and 2 as a shadow, as a worker has them."""

    def __init__(self, function=doubled, *, max_rows=64, crashed=False):
        self.settings = memory_settings([{"name": "x"}], output={"topic": "predictions", "threshold": {"y": 10}})
        self.broker = MemoryBroker()
        self.broker.create_topic("memory.shadow", 2)
        self.sink = MemoryShadowSink(self.broker)
        self.metrics = VersionMetrics(CollectorRegistry(), pipeline="p", model="m")
        self.notes, self.stable_notes, self.behind = Notes(), Notes(), False
        self.lane = ShadowLane(
            sink=self.sink,
            topic="memory.shadow",
            agreement=Agreement.of(self.settings.output),
            journal=self.notes,
            quarantine=self.notes,
            max_rows=max_rows,
            behind=lambda: self.behind,
            log=Log.open(stream=io.StringIO(), format="json"),
            crashed=crashed,
        )
        stable = Route(self.model("1", doubled, self.stable_notes), ModelIdentity(name="m", version="1"))
        self.shadow = Route(
            self.model("2", function, self.stable_notes), ModelIdentity(name="m", version="2", role="shadow")
        )
        self.metrics.stable("1")
        self.stages = Stages(
            decoder=build_decoder(self.settings),
            deployments=Fixed(Deployment(routes=(stable,), shadow=self.shadow)),
            reject_encoders=lambda model: DeadLetterEncoder("dead", "memory", 1 << 20, model),
            max_output_bytes=1 << 20,
            shadow=self.lane,
        )
        self.offset = 0

    def model(self, version, function, notes):
        engine = FunctionEngine(function, DOUBLE)
        return LoadedModel(
            name="m",
            version=version,
            enricher=FeatureEnricher(self.settings.features, DOUBLE),
            infer=InferStage(engine, notes, notes, BatchBound()),
            encoder=JsonPredictionEncoder(self.settings.output, DOUBLE.outputs),
            metrics=self.metrics.of(version),
        )

    def score(self, *values):
        n = len(values)
        offsets = list(range(self.offset, self.offset + n))
        self.offset += n
        return self.stages.score(
            RecordBatch(
                topic=["events"] * n,
                partition=[offset % 3 for offset in offsets],
                offset=offsets,
                timestamp_ms=[1] * n,
                key=[b"k%d" % offset for offset in offsets],
                value=[b'{"x": %d}' % v if isinstance(v, int) else v for v in values],
            )
        )

    def written(self):
        return self.broker.records("memory.shadow")

    def count(self, name, **labels):
        metrics = vars(self.metrics.of("2"))[name]
        if labels:
            metrics = metrics[tuple(labels.values())]
        return metrics._value.get()

    def dropped(self, reason):
        return self.count("shadow_dropped", reason=reason)


@pytest.fixture
def scene(request):
    made = Scene(**getattr(request, "param", {}))
    with made.lane:
        made.lane.only("2", LONG_S)
        yield made


def test_every_row_is_scored_again_and_stands_at_its_partition_under_its_key(scene):
    for first in range(0, 60, 20):
        batch = scene.score(*range(first, first + 20))
        assert batch.predicted == 20
        assert [leg.model.version for leg in batch.legs] == ["1"]
    until(lambda: len(scene.written()) == 60)
    found = {}
    for record in scene.written():
        value = orjson.loads(record.value)
        offset = value["source"]["offset"]
        assert (value["version"], value["role"]) == ("2", "shadow")
        assert value["outputs"]["y"] == 2 * offset
        assert value["source"]["partition"] == offset % 3
        assert (record.key, record.partition) == (b"k%d" % offset, offset % 3 % 2)
        found[offset] = value
    assert found.keys() == set(range(60))
    assert scene.count("shadow_rows") == 60


def other(inputs):
    return {"y": inputs["in"] * 2 + 1}


@pytest.mark.parametrize("scene", [{"function": other}], indirect=True)
def test_how_far_it_agrees_is_told_row_by_row_whatever_the_batches_are(scene):
    for value in range(12):
        scene.score(value, b"broken")
    metrics = scene.metrics.of("2")
    until(lambda: metrics.shadow_compared._totals == {"y": 12})
    assert metrics.shadow_difference._totals == {"y": 12}
    assert metrics.shadow_disagreements._totals == {"y": 0}
    scene.score(4)  # 8 and 9 lie under the threshold of 10, and so on
    until(lambda: metrics.shadow_compared._totals == {"y": 13})
    assert metrics.shadow_disagreements._totals == {"y": 0}


def across(inputs):
    return {"y": np.where(inputs["in"] < 5, 11, 0).astype(np.float32)}


@pytest.mark.parametrize("scene", [{"function": across}], indirect=True)
def test_decisions_that_differ_are_counted(scene):
    scene.score(*range(10))
    until(lambda: scene.metrics.of("2").shadow_disagreements._totals == {"y": 10})


def test_under_overload_the_shadow_is_dropped_and_every_record_is_predicted():
    gate = Gate()
    scene = Scene(gate, max_rows=16)
    with scene.lane:
        scene.lane.only("2", LONG_S)
        assert scene.score(*range(16)).predicted == 16
        assert gate.entered.wait(LONG_S)
        predicted = sum(scene.score(*range(16)).predicted for _ in range(50))
        assert predicted == 50 * 16
        assert scene.dropped("queue") == 48 * 16, "two full batches wait, the others are dropped"
        gate.open.set()
        until(lambda: len(scene.written()) == 3 * 16)
        scene.behind = True
        assert scene.score(*range(16)).predicted == 16
        assert scene.dropped("behind") == 16
        scene.behind = False
        scene.score(*range(16))
        until(lambda: len(scene.written()) == 4 * 16)


def test_rows_that_the_shadow_fails_on_are_counted_and_no_dead_letter_is_written():
    def picky(inputs):
        if (inputs["in"] == 3).any():
            raise EngineError("no threes")
        return doubled(inputs)

    scene = Scene(picky)
    with scene.lane:
        scene.lane.only("2", LONG_S)
        batch = scene.score(*range(6))
        assert (batch.predicted, batch.rejects) == (6, [])
        until(lambda: len(scene.written()) == 5)
    assert scene.count("shadow_errors", stage="infer") == 1
    assert scene.metrics.of("1").records_rejected["infer", "infer"]._value.get() == 0


def test_a_device_that_fails_turns_the_version_off_until_another_one_is_named():
    def broken(inputs):
        raise EngineError("the device is gone", retryable=True)

    scene = Scene(broken)
    with scene.lane:
        scene.lane.only("2", LONG_S)
        assert scene.score(1, 2).predicted == 2
        until(lambda: scene.count("shadow_errors", stage="infer") == 2)
        until(lambda: scene.score(1).predicted == 1 and scene.dropped("off") > 0)
        assert not scene.notes.standing
        assert scene.lane.only(None, LONG_S)
        assert scene.lane.only("2", LONG_S)
        before = scene.dropped("off")
        scene.score(1)
        until(lambda: scene.count("shadow_errors", stage="infer") == 3)
        assert scene.dropped("off") == before


def test_brokers_that_are_away_cost_the_shadow_alone(scene):
    scene.broker.down = True
    assert scene.score(1, 2, 3).predicted == 3
    until(lambda: scene.count("shadow_errors", stage="produce") == 3)
    scene.broker.down = False
    assert scene.score(4).predicted == 1
    until(lambda: len(scene.written()) == 1)


def test_a_full_producer_drops_what_it_does_not_take(scene):
    scene.sink._room = 2
    scene.score(*range(5))
    until(lambda: scene.dropped("broker") == 3)
    assert scene.count("shadow_rows") == 2


def test_a_shadow_that_crashed_is_left_alone_in_the_next_life_and_the_next_version_is_not():
    scene = Scene(crashed=True)
    with scene.lane:
        scene.lane.only("2", LONG_S)
        assert scene.score(1).predicted == 1
        assert scene.dropped("off") == 1
        scene.lane.only("3", LONG_S)
        scene.score(1)
        assert scene.dropped("switched") == 1, "version 2 is not the shadow any more"
        scene.lane.only("2", LONG_S)
        scene.score(1)
        until(lambda: len(scene.written()) == 1)


def test_an_engine_is_left_before_the_version_may_serve():
    gate = Gate()
    scene = Scene(gate)
    with scene.lane:
        scene.lane.only("2", LONG_S)
        scene.score(1)
        assert gate.entered.wait(LONG_S)
        scene.score(2)
        assert not scene.lane.only(None, 0.05), "it is inside"
        assert scene.dropped("switched") == 1
        left = threading.Timer(0.1, gate.open.set)
        left.start()
        assert scene.lane.only(None, LONG_S)
        left.join()
        scene.score(3)
        assert scene.dropped("switched") == 2


def test_works_that_cannot_be_joined_turn_the_version_off_and_the_engine_is_left(scene, monkeypatch):
    def broken(_parts):
        raise ValueError("cannot be joined")

    monkeypatch.setattr("streamserve.worker.shadow.EventBatch", SimpleNamespace(concat=broken))
    assert scene.score(1, 2).predicted == 2
    until(lambda: scene.count("shadow_errors", stage="infer") == 2)
    assert scene.lane.only(None, LONG_S), "else no rollout could be followed any more"


@pytest.mark.parametrize("inside", [False, True])
def test_a_stopped_shadow_is_held_by_nobody(inside):
    gate = Gate()
    scene = Scene(gate)
    with scene.lane:
        scene.lane.only("2", LONG_S)
        scene.score(1)
        assert gate.entered.wait(LONG_S)
        if inside:
            assert not scene.lane.only(None, 0.01)
        gate.open.set()
        until(scene.written)
        assert scene.lane.only(None, LONG_S)
        model = weakref.ref(scene.shadow.model)
        scene.shadow = scene.stages = None  # the deployment is another one
        until(lambda: model() is None)


def test_its_inferences_stand_in_its_own_journal(scene):
    scene.score(*range(4))
    until(lambda: len(scene.written()) == 4)
    assert (scene.notes.entered, scene.stable_notes.entered) == (1, 1)
    assert not scene.notes.standing


def test_it_ends_within_a_bound_with_an_engine_that_does_not_answer(monkeypatch):
    monkeypatch.setattr("streamserve.worker.shadow.CLOSE_S", 0.2)
    gate = Gate()
    scene = Scene(gate)
    scene.lane.__enter__()
    scene.lane.only("2", LONG_S)
    scene.score(1)
    assert gate.entered.wait(LONG_S)
    began_s = time.monotonic()
    scene.lane.close()
    assert time.monotonic() - began_s < LONG_S
    gate.open.set()


def test_topics_that_are_missing_are_errors_of_the_shadow(scene):
    scene.sink.faults.fail("produce", SinkError("topic memory.shadow does not exist"))
    assert scene.score(1).predicted == 1
    until(lambda: scene.count("shadow_errors", stage="produce") == 1)
