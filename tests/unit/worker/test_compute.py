"""One batch in flight or several: nothing lost, nothing reordered, and a batch that could grow waits for the engine."""

from __future__ import annotations

import threading
import time
from collections import Counter
from types import SimpleNamespace

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from streamserve.batch import TopicPartition
from streamserve.clock import SystemClock
from streamserve.errors import EngineError
from streamserve.pipeline.assignment import Assignment
from streamserve.pipeline.batcher import Batcher
from streamserve.pipeline.ratio import RejectRatio
from streamserve.pipeline.slo import EARLIEST_MS, SloPlanner
from streamserve.telemetry.versions import VersionMetrics
from streamserve.testing import MemoryBroker
from streamserve.worker.compute import Compute
from streamserve.worker.mailbox import Mailbox
from streamserve.worker.rotation import Rotation
from tests.chunks import chunk, scored
from tests.memory import Gate, doubled, fill, seen, topics, until, worker

DELIVERY = {"commit_interval_ms": 2, "commit_min_interval_ms": 0}


class SlowStages:
    """Steps that take the times of a plan, over and over; notes how many batches are where."""

    def __init__(self, plan_ms, broken=""):
        self.plan_ms, self.broken = plan_ms, broken
        self.turns = iter(range(1 << 30))
        self.inside, self.most = Counter(), Counter()
        self.started = 0
        self.lock = threading.Lock()
        self.engine_free = threading.Event()
        self.engine_free.set()

    def prepare(self, records):
        self.step("prepare")
        with self.lock:
            self.started += 1
        return SimpleNamespace(records=records)

    def infer(self, job):
        assert self.engine_free.wait(20)
        self.step("infer")

    def finish(self, job):
        self.step("finish")
        return scored(job.records)

    def step(self, name):
        if name == self.broken:
            raise RuntimeError("defect")
        with self.lock:
            self.inside[name] += 1
            self.most[name] = max(self.most[name], self.inside[name])
        time.sleep(self.plan_ms[next(self.turns) % len(self.plan_ms)] / 1000)
        with self.lock:
            self.inside[name] -= 1


class Line:
    """Compute between a mailbox and a writer that only notes what comes."""

    def __init__(self, in_flight, stages, *, max_size=5):
        clock = SystemClock()
        assignment = Assignment(clock)
        assignment.assign([TopicPartition("t", 0)])
        self.epochs = assignment.epochs
        self.box = Mailbox(Batcher(max_size=max_size, max_bytes=1 << 20, max_delay_s=0, capacity=64), clock)
        self.rotation = Rotation(clock, self.write, interval_s=1, min_interval_s=0)
        self.compute = Compute(
            in_flight,
            stages=stages,
            mailbox=self.box,
            rotation=self.rotation,
            assignment=assignment,
            ratio=RejectRatio(0.5, 1000),
            metrics=VersionMetrics(CollectorRegistry(), pipeline="p", model="m", version="1"),
            clock=clock,
            slo=None,
        )
        self.offsets = []
        lanes = [*self.compute.lanes, self.flush]
        self.threads = [threading.Thread(target=lane, daemon=True) for lane in lanes]
        for thread in self.threads:
            thread.start()

    def write(self, _written, batch, _may_wait):
        self.offsets += batch.records.offset
        return True

    def flush(self):
        while self.rotation.take() is not None:
            self.rotation.write_out()

    def put(self, count, start=0):
        self.box.put(chunk(count, start=start, epochs=self.epochs))

    def end(self):
        self.box.close()
        for thread in self.threads:
            thread.join(20)
            assert not thread.is_alive()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.integers(1, 4),
    st.lists(st.integers(0, 3), min_size=1, max_size=11),
    st.lists(st.integers(1, 9), min_size=1, max_size=12),
)
def test_order_and_law_hold_however_long_each_step_takes(in_flight, plan_ms, chunks):
    stages = SlowStages(plan_ms)
    line = Line(in_flight, stages)
    at = 0
    for count in chunks:
        line.put(count, at)
        at += count
    line.end()
    assert line.offsets == list(range(at))
    assert stages.most["infer"] == 1  # journal and memory bound belong to one thread at a time


@pytest.mark.parametrize("in_flight", [2, 3])
def test_full_batches_are_prepared_while_one_is_in_the_engine_as_many_as_may_be_in_flight(in_flight):
    stages = SlowStages([0])
    stages.engine_free.clear()
    line = Line(in_flight, stages)
    line.put(30)
    until(lambda: stages.started == in_flight)
    time.sleep(0.05)
    assert stages.started == in_flight  # and not one more
    stages.engine_free.set()
    line.end()
    assert line.offsets == list(range(30))


def test_a_batch_that_may_grow_is_not_frozen_while_the_engine_is_busy():
    """Ray Serve freezes it: small batches then queue up behind a busy engine."""
    box = Mailbox(Batcher(max_size=4, max_bytes=1 << 20, max_delay_s=0, capacity=16), SystemClock())
    box.before_engine(+1)
    taken = []
    taker = threading.Thread(target=lambda: taken.append(box.take()), daemon=True)
    taker.start()
    box.put(chunk(1))
    box.put(chunk(1, start=1))
    taker.join(0.05)
    assert taken == []
    box.before_engine(-1)
    taker.join(20)
    assert taken[0][0].offset == [0, 1]


def test_a_full_batch_goes_although_the_engine_is_busy():
    box = Mailbox(Batcher(max_size=4, max_bytes=1 << 20, max_delay_s=0, capacity=16), SystemClock())
    box.before_engine(+1)
    box.put(chunk(5))
    assert box.take()[0].offset == [0, 1, 2, 3]


def test_closing_ends_the_wait_for_a_busy_engine():
    box = Mailbox(Batcher(max_size=4, max_bytes=1 << 20, max_delay_s=0, capacity=16), SystemClock())
    box.before_engine(+1)
    box.put(chunk(1))
    box.close()
    assert len(box.take()[0]) == 1
    assert box.take() is None


@pytest.mark.parametrize("in_flight", [1, 2, 3])
def test_an_engine_whose_device_is_gone_ends_the_worker_whatever_is_in_flight(in_flight):
    def gone(inputs):
        if inputs["in"].max() >= 8:
            raise EngineError("the device is gone", retryable=True)
        return doubled(inputs)

    broker = topics(MemoryBroker())
    fill(broker, 40)
    with worker(broker, gone, engine={"max_batch_size": 4, "in_flight": in_flight}, delivery=DELIVERY) as running:
        running.join(20)
    assert "the device is gone" in str(running.failure)
    assert set(seen(broker)) <= set(range(8))
    assert all(offset <= 8 for offset in broker.offsets.values())


@pytest.mark.parametrize("in_flight", [1, 2])
def test_a_function_that_raises_ends_the_worker_instead_of_leaving_it_deaf(in_flight, monkeypatch):
    """Ray Serve #66140: the batch task dies of an exception, the replica stays RUNNING, requests hang."""

    def broken(*_):
        raise RuntimeError("defect")

    monkeypatch.setattr(SloPlanner, "rows", broken)
    broker = topics(MemoryBroker())
    fill(broker, 4)
    with worker(broker, engine=goal(in_flight=in_flight)) as running:
        running.join(20)
    assert "defect" in str(running.failure)


@pytest.mark.parametrize("in_flight", [1, 2])
def test_a_drain_finishes_what_is_in_flight(in_flight):
    gate = Gate()
    broker = topics(MemoryBroker())
    fill(broker, 12)
    with worker(broker, gate, engine={"max_batch_size": 4, "in_flight": in_flight}, delivery=DELIVERY) as running:
        assert gate.entered.wait(20)
        running.worker.stop()
        time.sleep(0.02)
        gate.open.set()
        running.join(20)
    assert running.failure is None
    counts = seen(broker)
    assert set(counts.values()) == {1}
    assert sum(broker.offsets.values()) == len(counts)


# -- latency goal ------------------------------------------------------------------------------------------------


def stamped(broker, count, *, age_s=0.0, start=0):
    now_ms = time.time_ns() // 1_000_000
    for n in range(start, start + count):
        broker.produce("events", b'{"x": %d}' % n, partition=0, timestamp_ms=int(now_ms - age_s * 1000))


def goal(**more):
    return {"max_batch_size": 8, "slo_ms": 2000, "catch_up_lag_s": 30, **more}


def total(running, outcome):
    return int(running.metrics.records_late[outcome,]._value.get())


def documents(broker, topic="predictions"):
    return [orjson.loads(record.value) for record in broker.records(topic)]


@pytest.mark.parametrize("in_flight", [1, 2])
@pytest.mark.parametrize("late", ["process", "dead_letter", "fallback"])
def test_late_records_are_all_accounted_for_and_the_others_are_served(late, in_flight):
    broker = topics(MemoryBroker())
    stamped(broker, 20, age_s=10)
    stamped(broker, 20, start=20)
    engine = goal(late=late, in_flight=in_flight, **({"fallback": {"y": -2}} if late == "fallback" else {}))
    with worker(broker, engine=engine, delivery=DELIVERY) as running:
        until(lambda: sum(broker.offsets.values()) == 40)
    predictions, letters = documents(broker), documents(broker, "dead")
    assert len(predictions) + len(letters) == 40
    told = {outcome: total(running, outcome) for outcome in ("processed", "dead_letter", "fallback")}
    outcome = {"process": "processed"}.get(late, late)
    assert told == {**dict.fromkeys(told, 0), outcome: 20}
    fallbacks = [p for p in predictions if p.get("fallback")]
    if late == "process":
        assert (len(letters), fallbacks) == (0, [])
        assert seen(broker) == Counter(range(40))
    elif late == "dead_letter":
        assert [letter["x"] for letter in letters] == list(range(20))
        assert {dict(r.headers)["streamserve.reason"] for r in broker.records("dead")} == {b"too_late"}
        assert fallbacks == []
    else:
        assert [p["source"]["offset"] for p in fallbacks] == list(range(20))
        assert {p["outputs"]["y"] for p in fallbacks} == {-2}
        assert [p["source"]["offset"] for p in predictions] == list(range(40))  # order is kept
        assert [p["outputs"]["y"] for p in predictions[20:]] == [2 * n for n in range(20, 40)]


def test_dead_letters_for_lateness_do_not_count_as_a_bad_deployment():
    broker = topics(MemoryBroker())
    stamped(broker, 200, age_s=10)
    blocks = {"dead_letter": {"topic": "dead", "max_ratio": 0.1, "ratio_window": 10}}
    with worker(broker, engine=goal(late="dead_letter"), delivery=DELIVERY, **blocks) as running:
        until(lambda: sum(broker.offsets.values()) == 200)
    assert running.failure is None
    assert len(documents(broker, "dead")) == 200


def test_records_without_a_time_of_their_own_are_not_late():
    broker = topics(MemoryBroker())
    for n, stamp in enumerate([-1, 0, EARLIEST_MS - 1]):
        broker.produce("events", b'{"x": %d}' % n, partition=0, timestamp_ms=stamp)
    with worker(broker, engine=goal(late="dead_letter"), delivery=DELIVERY):
        broker.wait_records("predictions", 3, 20)
    assert documents(broker, "dead") == []


def test_a_worker_far_behind_catches_up_and_says_so_and_processes_all():
    broker = topics(MemoryBroker())
    stamped(broker, 100, age_s=60)
    with worker(broker, engine=goal(), delivery=DELIVERY) as running:
        until(lambda: sum(broker.offsets.values()) == 100)
        time.sleep(1.1)
        stamped(broker, 1, start=100)
        broker.wait_records("predictions", 101, 20)
    events = [orjson.loads(line)["event"] for line in running.log.getvalue().splitlines()]
    assert [event for event in events if event in {"catching_up", "caught_up"}] == ["catching_up", "caught_up"]
    assert total(running, "processed") == 100
    assert broker.offsets[TopicPartition("events", 0)] == 101


def test_without_a_goal_nothing_is_late():
    broker = topics(MemoryBroker())
    stamped(broker, 10, age_s=1000)
    with worker(broker, delivery=DELIVERY) as running:
        broker.wait_records("predictions", 10, 20)
    assert total(running, "processed") == 0
