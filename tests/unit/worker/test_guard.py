"""A worker in memory with a canary that fails, is slow or drifts: the guard rolls it back and says why."""

from __future__ import annotations

import threading
import time
from hashlib import blake2b

import numpy as np
import orjson
import pytest

from streamserve.config.rollout_settings import GuardSettings
from streamserve.drift.events import Alert, RetrainRequest
from streamserve.errors import BrokerUnavailable, EngineError
from streamserve.rollout.log import RolloutLog
from streamserve.rollout.records import Arm, Canary, Experiment, Promote, Rollback, Shadow, Stop, new_id
from streamserve.rollout.split import SALT_BYTES, Split
from streamserve.testing import FunctionEngine, MemoryBroker, MemoryRolloutWriter, MemoryWorker, memory_settings
from tests.memory import DOUBLE, doubled, exactly_once, topics, until

CONTROL = "memory.rollout"
GUARD = {"min_rows": 50, "window_s": 2.0}


class Feed:
    """Writes events until it is told to stop, and waits until all are done; every one has a key of its own."""

    def __init__(self, broker):
        self._broker = broker
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.count = 0

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, kind, *_):
        self._stop.set()
        self._thread.join()
        if kind is None:
            until(lambda: sum(self._broker.offsets.values()) >= self.count)  # a drain leaves what was not polled yet

    def _run(self):
        while not self._stop.wait(0.002):
            for _ in range(10):
                self._broker.produce("events", b'{"x": %d}' % self.count, key=b"k%d" % self.count)
                self.count += 1


class Fails:
    """An engine's function that fails on one event in five, and on none of those that a version is tried on."""

    def __call__(self, inputs):
        if (inputs["in"] % 5 == 3).any():
            raise EngineError("it leaves three")
        return doubled(inputs)


def slow(inputs):
    time.sleep(0.004)
    return doubled(inputs)


FUNCTIONS = {"1": doubled, "2": doubled, "3": Fails(), "4": slow}


@pytest.fixture
def broker():
    broker = topics(MemoryBroker())
    for name in (CONTROL, "memory.shadow", "memory.samples", "memory.drift.reports", "memory.drift.alerts"):
        broker.create_topic(name)
    return broker


def guarded(broker, *, slot="w-0", everything=True, **guard):
    settings = memory_settings(
        [{"name": "x"}],
        rollout={"guard": {**GUARD, **guard}},
        drift={},
        engine={"max_batch_size": 32},
        dead_letter={"topic": "dead", "max_ratio": 1.0},
    )
    return MemoryWorker(
        settings,
        lambda version: FunctionEngine(FUNCTIONS[version], DOUBLE),
        broker,
        slot=slot,
        everything=everything,
    )


def give(broker, kind, **fields):
    with MemoryRolloutWriter(broker, CONTROL) as writer:
        return writer.publish(kind(id=new_id(), by="test", at_ms=round(time.time() * 1000), **fields))


def log_of(broker):
    log = RolloutLog()
    for record in broker.records(CONTROL):
        log.add(record.offset, record.key, record.value)
    return log


def serving(broker, revision, slot="w-0"):
    """Wait until the slot serves this revision."""
    until(lambda: (found := log_of(broker).acknowledgements.get(slot)) is not None and found.serving == revision)


def begun(broker, kind, **fields):
    until(lambda: log_of(broker).state.stable is not None)
    revision = give(broker, kind, **fields)
    serving(broker, revision)
    return revision


def rolled_back(broker):
    """The guard's command, once it is there."""

    def found():
        return [g for g in log_of(broker).history if isinstance(g.command, Rollback) and not g.refused]

    until(found)
    (given,) = found()
    return given


@pytest.mark.parametrize(("version", "rule"), [("3", "errors"), ("4", "latency")])
def test_a_canary_that_fails_or_is_slow_is_rolled_back_and_the_reason_has_the_figures(broker, version, rule):
    with guarded(broker) as worker, Feed(broker) as feed:
        revision = begun(broker, Canary, version=version, weight=0.3)
        given = rolled_back(broker)
        assert (given.command.by, given.command.expects) == ("guard", revision)
        assert given.command.why.startswith(f"version {version} ")
        serving(broker, given.offset)
        metrics = worker.versions.of(version)
        assert metrics.guard_rollbacks[rule,]._value.get() == 1
    assert log_of(broker).state.sides == ("1",)
    assert worker.failure is None
    if rule == "latency":
        exactly_once(broker, feed.count)


def test_a_canary_that_is_as_good_stays(broker):
    with guarded(broker) as worker, Feed(broker) as feed:
        begun(broker, Canary, version="2", weight=0.3)
        until(lambda: feed.count > 8000)
        assert log_of(broker).state.canary == "2"
    assert worker.failure is None
    versions = {orjson.loads(record.value)["version"] for record in broker.records("predictions")}
    assert versions == {"1", "2"}


def test_a_hot_key_that_is_rejected_does_not_roll_back_the_canary_that_has_it(broker):
    """A tenth of the canary's rows are of one key, and the stable version has no row of it to be compared by."""
    split = Split(blake2b(b"canary/3", digest_size=SALT_BYTES).digest(), (0.7,))
    hot = next(key for i in range(1000) if split.sides([key := b"hot%d" % i]) == [1])
    with guarded(broker, latency_ratio=None) as worker:
        begun(broker, Canary, version="3", weight=0.3)
        for number in range(3000):
            at_fault = number % 30 == 0
            broker.produce("events", b'{"x": 3}' if at_fault else b'{"x": 5}', key=hot if at_fault else b"%d" % number)
        until(lambda: len(broker.records("predictions")) + len(broker.records("dead")) == 3000)
        time.sleep(0.3)
        assert log_of(broker).state.canary == "3"
        assert len(broker.records("dead")) == 100
    assert worker.failure is None


def test_an_arm_that_fails_ends_the_experiment(broker):
    arms = (Arm(name="a", version="1", weight=0.4), Arm(name="b", version="2", weight=0.3))
    with guarded(broker), Feed(broker):
        begun(broker, Experiment, name="e", arms=(*arms, Arm(name="c", version="3", weight=0.3)))
        given = rolled_back(broker)
        serving(broker, given.offset)
    assert log_of(broker).state.experiment is None


def alert(version, kind="opened", model="model"):
    return Alert(
        pipeline="memory",
        model=model,
        version=version,
        incident="0123",
        sequence=0,
        alert=kind,
        at_ms=0,
        opened_ms=0,
        severity="critical",
        title=f"model {version}: more errors than usual",
        reasons=[],
        span={},
    ).json()


def test_an_incident_that_opens_for_the_canary_rolls_it_back(broker):
    others = [alert("1"), alert("2", "worsened"), alert("2", "cleared"), alert("2", model="other"), b"{", None]
    request = RetrainRequest(pipeline="memory", model="model", version="2", reason="", at_ms=0, evidence={})
    with guarded(broker), Feed(broker):
        begun(broker, Canary, version="2", weight=0.3)
        for value in (*others, request.json()):
            broker.produce("memory.drift.alerts", value)
        time.sleep(0.3)
        assert log_of(broker).state.canary == "2"
        broker.produce("memory.drift.alerts", alert("2"))
        given = rolled_back(broker)
    assert given.command.why == "the drift monitor opened incident 0123: model 2: more errors than usual"


def test_of_two_workers_one_is_heard_and_the_next_canary_is_not_touched(broker):
    with guarded(broker) as first, guarded(broker, slot="w-1", everything=False) as second:
        serving(broker, 0)
        serving(broker, 0, "w-1")
        revision = give(broker, Canary, version="2", weight=0.3)
        serving(broker, revision)
        serving(broker, revision, "w-1")
        broker.produce("memory.drift.alerts", alert("2"))
        given = rolled_back(broker)
        serving(broker, given.offset)
        serving(broker, given.offset, "w-1")
        for worker in (first, second):
            worker.worker.stop()
    commands = [g for g in log_of(broker).history if isinstance(g.command, Rollback)]
    assert len(commands) - sum(bool(g.refused) for g in commands) == 1
    assert all(g.command.expects == revision for g in commands)


def test_while_the_brokers_are_away_the_guard_goes_on_asking(broker, monkeypatch):
    calls = []

    class Deaf(MemoryRolloutWriter):
        def publish(self, record):
            if isinstance(record, Rollback) and len(calls) < 2:
                calls.append(record)
                raise BrokerUnavailable("away", retryable=True)
            return super().publish(record)

    monkeypatch.setattr("streamserve.testing.worker.MemoryRolloutWriter", Deaf)
    monkeypatch.setattr("streamserve.worker.guard.RETRY_S", 0.01)
    with guarded(broker), Feed(broker):
        begun(broker, Canary, version="3", weight=0.3)
        rolled_back(broker)
    assert len(calls) == 2


def test_without_a_guard_nothing_is_rolled_back(broker):
    settings = memory_settings(
        [{"name": "x"}], rollout={"guard": None}, dead_letter={"topic": "dead", "max_ratio": 1.0}
    )
    worker = MemoryWorker(settings, lambda version: FunctionEngine(FUNCTIONS[version], DOUBLE), broker, slot="w-0")
    with worker, Feed(broker) as feed:
        begun(broker, Canary, version="3", weight=0.5)
        until(lambda: feed.count > 3000)
        assert log_of(broker).state.canary == "3"
    assert GuardSettings().error_rate == 0.01


def test_a_shadow_scores_all_that_is_predicted_until_it_is_stopped(broker):
    with guarded(broker) as worker:
        with Feed(broker):
            begun(broker, Shadow, version="2")
            until(lambda: len(broker.records("memory.shadow")) > 500)
            stopped = give(broker, Stop, what="shadow")
            serving(broker, stopped)
        count = len(broker.records("memory.shadow"))
        broker.produce("events", b'{"x": 1}', key=b"k")
        time.sleep(0.3)
        assert len(broker.records("memory.shadow")) == count
    assert worker.failure is None
    metrics = worker.versions.of("2")
    assert metrics.shadow_rows._value.get() == count
    assert metrics.shadow_compared._totals == {"y": count}
    assert metrics.shadow_difference._totals == {"y": 0}
    predictions = {orjson.loads(r.value)["id"]: orjson.loads(r.value)["outputs"] for r in broker.records("predictions")}
    for record in broker.records("memory.shadow"):
        value = orjson.loads(record.value)
        assert (value["version"], value["role"]) == ("2", "shadow")
        assert value["outputs"] == predictions[value["id"]]


def test_a_shadow_that_is_promoted_leaves_its_engine_to_the_line(broker):
    inside = threading.Lock()

    def alone(inputs):
        assert inside.acquire(blocking=False), "two threads are in one engine"
        time.sleep(0.001)
        inside.release()
        return {"y": np.asarray(inputs["in"]) * 2}

    settings = memory_settings([{"name": "x"}], rollout={}, engine={"max_batch_size": 32})
    worker = MemoryWorker(
        settings, lambda version: FunctionEngine({"1": doubled, "2": alone}[version], DOUBLE), broker, slot="w-0"
    )
    with worker, Feed(broker) as feed:
        for _ in range(5):
            begun(broker, Shadow, version="2")
            seen = len(broker.records("memory.shadow"))
            until(lambda seen=seen: len(broker.records("memory.shadow")) > seen + 50)
            begun(broker, Promote, version="2")
            begun(broker, Promote, version="1")
    assert worker.failure is None
    exactly_once(broker, feed.count)
