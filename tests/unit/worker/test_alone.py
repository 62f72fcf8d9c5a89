"""A quick engine's worker polls, scores and writes on one thread: what is kept when that thread is disturbed."""

from __future__ import annotations

import gc
import threading
import time

import pytest

from streamserve.batch import RecordBatch, TopicPartition
from streamserve.errors import EngineError, SinkError
from streamserve.testing import MemoryBroker, MemoryTransaction
from streamserve.worker import loop, pace
from streamserve.worker.calls import PollCalls
from tests.memory import Gate, doubled, exactly_once, fill, seen, topics, until, worker

P0, P1 = TopicPartition("events", 0), TopicPartition("events", 1)
RETRYABLE = SinkError("again", retryable=True)
FIRST = 200
"""Events that make a worker with batches of 4 work alone."""


@pytest.fixture
def broker():
    return topics(MemoryBroker(), 2)


@pytest.fixture(params=["exactly_once", "at_least_once"])
def delivery(request):
    return {"guarantee": request.param, "commit_interval_ms": 2, "commit_min_interval_ms": 0}


@pytest.fixture(autouse=True)
def quick_within(monkeypatch):
    """Sets within how many seconds a batch counts as quick; a minute to begin with, however busy the machine is."""

    def within(seconds):
        monkeypatch.setattr(pace, "QUICK_INFER_S", seconds)
        monkeypatch.setattr(pace, "QUICK_S", seconds)

    within(60.0)
    return within


class Hanging:
    """Commits that wait while `hang` is set."""

    def __init__(self, monkeypatch):
        self.hang, self.entered, self._goes_on = threading.Event(), threading.Event(), threading.Event()
        commit = MemoryTransaction.commit

        def slow(transaction, positions, metadata):
            if self.hang.is_set():
                self.entered.set()
                assert self._goes_on.wait(20)
            commit(transaction, positions, metadata)

        monkeypatch.setattr(MemoryTransaction, "commit", slow)

    def go_on(self):
        self.hang.clear()
        self._goes_on.set()


class Scorers:
    """An engine's function that notes which threads call it."""

    def __init__(self, function=doubled):
        self.function, self.names = function, []

    def __call__(self, inputs):
        self.names.append(threading.current_thread().name)
        return self.function(inputs)


def alone(broker, function=doubled, **more):
    """A worker that has come to work alone, as a context manager; `FIRST` events are predicted."""
    running = worker(broker, function, **{"engine": {"max_batch_size": 4}, **more})
    fill(broker, FIRST, partitions=2)
    return running


def has_begun(running, broker):
    broker.wait_records("predictions", FIRST)
    until(lambda: running.worker._alone)


def test_after_some_quick_batches_the_poll_thread_scores(broker, delivery, monkeypatch):
    monkeypatch.setattr(loop, "FULL_WAIT_S", 20.0)  # a commit that a busy machine holds up is waited for
    scorers = Scorers()
    with alone(broker, scorers, delivery=delivery) as running:
        has_begun(running, broker)
        fill(broker, 400, partitions=2, start=FIRST)
        broker.wait_records("predictions", FIRST + 400)
    assert running.failure is None
    assert scorers.names[0] == "compute"
    assert scorers.names[-1] == "poll"
    exactly_once(broker, FIRST + 400)


def test_a_slow_engine_is_given_back_to_its_own_thread(broker, delivery, quick_within, monkeypatch):
    monkeypatch.setattr(loop, "FULL_WAIT_S", 20.0)
    scorers = Scorers()
    with alone(broker, scorers, delivery=delivery) as running:
        has_begun(running, broker)
        quick_within(0.0)
        fill(broker, 200, partitions=2, start=FIRST)
        broker.wait_records("predictions", FIRST + 200)
        assert not running.worker._alone
        assert scorers.names[-1] == "compute"
        quick_within(60.0)
        fill(broker, 200, partitions=2, start=FIRST + 200)
        until(lambda: running.worker._alone)
        fill(broker, 8, partitions=2, start=FIRST + 400)
        broker.wait_records("predictions", FIRST + 408)
    assert scorers.names[-1] == "poll"
    assert running.failure is None


@pytest.mark.parametrize("operation", ["begin", "add", "flush", "commit"])
def test_a_retryable_failure_costs_nothing(broker, operation):
    delivery = {"commit_interval_ms": 2, "commit_min_interval_ms": 0}
    with alone(broker, delivery=delivery) as running:
        has_begun(running, broker)
        running.sink.faults.fail(operation, RETRYABLE)
        fill(broker, 400, partitions=2, start=FIRST)
        broker.wait_records("predictions", FIRST + 400)
    assert running.failure is None
    assert running.sink.recoveries == 1
    exactly_once(broker, FIRST + 400)


def test_a_revoke_lets_what_is_in_flight_commit(broker, delivery):
    gate, asked = Gate(), threading.Event()
    gate.open.set()
    with alone(broker, gate, delivery=delivery) as running:
        has_begun(running, broker)
        gate.entered.clear()
        gate.open.clear()
        fill(broker, 20, partitions=2, start=FIRST)
        assert gate.entered.wait(20)
        threading.Thread(target=lambda: (running.source.revoke(P1), asked.set()), daemon=True).start()
        gate.open.set()
        assert asked.wait(20)
        until(lambda: not running.source.rebalancing)
        position = broker.offsets[P1]
        done = sum(value % 2 for value in seen(broker).elements())
        assert done == position  # of what left, all that was predicted is committed
        running.source.assign(P1)
        broker.wait_records("predictions", FIRST + 20)
        until(lambda: running.worker._rotation.held == 0)
    assert running.failure is None
    exactly_once(broker, FIRST + 20)


def test_what_is_lost_is_dropped_and_read_again(broker):
    gate = Gate()
    gate.open.set()
    with alone(broker, gate) as running:
        has_begun(running, broker)
        gate.entered.clear()
        gate.open.clear()
        fill(broker, 8, partitions=2, start=FIRST)
        assert gate.entered.wait(20)
        running.source.lose(P1)
        gate.open.set()
        until(lambda: not running.source.rebalancing)
        running.source.assign(P1)
        broker.wait_records("predictions", FIRST + 8)
    assert running.failure is None
    exactly_once(broker, FIRST + 8)


def test_a_drain_commits_what_was_polled(broker, delivery):
    with alone(broker, delivery=delivery) as running:
        has_begun(running, broker)
        fill(broker, 400, partitions=2, start=FIRST)
    assert running.failure is None
    counts = seen(broker)
    assert set(counts.values()) == {1}
    assert sum(broker.offsets.values()) == len(counts)


def test_an_engine_that_fails_ends_the_worker(broker, delivery):
    error = EngineError("device lost", retryable=True)

    def function(inputs):
        if inputs["in"].max() >= FIRST:
            raise error
        return doubled(inputs)

    with alone(broker, function, delivery=delivery) as running:
        has_begun(running, broker)
        fill(broker, 4, start=FIRST)
        running.join()
    assert running.failure is error
    assert set(seen(broker)) == set(range(FIRST))


def test_an_engine_that_fails_while_a_rewind_is_asked_for_ends_the_worker_at_once(broker, monkeypatch):
    """Else the commit thread waits a minute for a poll thread that is gone, and the slot's end for the commit thread."""
    error, lost = EngineError("device lost", retryable=True), FIRST + 100
    refuses, committing, entered, asked = (threading.Event() for _ in range(4))
    askers, run, commit = [], PollCalls.run, MemoryTransaction.commit

    def refused(transaction, positions, metadata):
        if refuses.is_set():
            committing.set()
            assert entered.wait(20)
            raise RETRYABLE
        commit(transaction, positions, metadata)

    def function(inputs):
        if inputs["in"].max() >= lost:
            entered.set()
            assert asked.wait(20)
            raise error
        return doubled(inputs)

    def late(calls, call, **options):
        askers.append(threading.current_thread())
        asked.set()
        until(running.worker._finished.is_set)
        return run(calls, call, **options)

    with alone(broker, function, delivery={"commit_interval_ms": 2, "commit_min_interval_ms": 0}) as running:
        has_begun(running, broker)
        monkeypatch.setattr(PollCalls, "run", late)
        monkeypatch.setattr(MemoryTransaction, "commit", refused)
        refuses.set()
        fill(broker, 4, start=FIRST)
        assert committing.wait(20)
        fill(broker, 1, start=lost)
        running.join()
    assert running.failure is error
    (asker,) = askers
    assert not asker.is_alive()


def test_a_commit_that_hangs_leads_to_a_paused_source_and_not_to_a_thread_that_hangs(broker, monkeypatch):
    commits = Hanging(monkeypatch)
    with alone(broker, delivery={"commit_interval_ms": 2, "commit_min_interval_ms": 0}) as running:
        has_begun(running, broker)
        commits.hang.set()
        fill(broker, 4000, partitions=2, start=FIRST)
        assert commits.entered.wait(20)
        until(lambda: running.source.paused)
        assert not running.worker._alone
        commits.go_on()
        broker.wait_records("predictions", FIRST + 4000)
        until(lambda: running.worker._alone and not running.source.paused)
    assert running.failure is None
    exactly_once(broker, FIRST + 4000)


@pytest.mark.parametrize("producers", [1, 3])
def test_a_commit_that_hangs_at_low_load_keeps_nobody_from_the_group(broker, monkeypatch, producers):
    monkeypatch.setattr(loop, "REVOKE_TIMEOUT_S", 0.1)
    commits = Hanging(monkeypatch)
    delivery = {"commit_interval_ms": 2, "commit_min_interval_ms": 0, "producers": producers}
    with alone(broker, delivery=delivery) as running:
        has_begun(running, broker)
        commits.hang.set()
        for n in range(10):
            fill(broker, 1, partitions=2, start=FIRST + n)
            time.sleep(0.05)
        assert commits.entered.wait(20)
        running.source.revoke(P1)
        until(lambda: not running.source.rebalancing)
        assert commits.hang.is_set()
        running.source.assign(P1)
        commits.go_on()
        broker.wait_records("predictions", FIRST + 10)
        until(lambda: running.worker._rotation.held == 0)
    assert running.failure is None
    exactly_once(broker, FIRST + 10)


@pytest.mark.parametrize("max_delay_ms", [0, 200])
def test_records_that_wait_for_company_do_not_keep_it_from_working_alone(broker, max_delay_ms):
    fill(broker, 3, partitions=2)
    with worker(broker, engine={"max_batch_size": 4, "max_delay_ms": max_delay_ms}) as running:
        until(lambda: running.assignment.epochs)
        fill(broker, 401, partitions=2, start=3)
        until(lambda: running.worker._alone)
        broker.wait_records("predictions", 404)
    exactly_once(broker, 404)


def test_the_first_record_waits_for_company_when_it_is_told_to(broker):
    sizes = []

    def function(inputs):
        sizes.append(len(inputs["in"]))
        return doubled(inputs)

    with alone(broker, function, engine={"max_batch_size": 4, "max_delay_ms": 40}) as running:
        has_begun(running, broker)
        sizes.clear()
        for n in range(3):
            fill(broker, 1, start=FIRST + n)
        broker.wait_records("predictions", FIRST + 3)
    assert sizes == [3]


def test_with_a_latency_goal_or_batches_in_flight_every_thread_keeps_its_work(broker):
    for engine in ({"slo_ms": 2000}, {"in_flight": 2}):
        with worker(topics(MemoryBroker()), engine={"max_batch_size": 4, **engine}) as running:
            fill(running.source._broker, 400)
            running.source._broker.wait_records("predictions", 400)
            assert not running.worker._alone


@pytest.mark.parametrize("together", [False, True], ids=["alone", "together"])
def test_a_worker_at_rest_keeps_no_batch_alive(broker, delivery, quick_within, together):
    """A thread that waits with the last transaction in hand kept up to a tenth of a second's records."""

    def batches():
        gc.collect()
        return {id(thing) for thing in gc.get_objects() if type(thing) is RecordBatch}

    if together:
        quick_within(0.0)
    before = batches()
    with alone(broker, delivery=delivery) as running:
        broker.wait_records("predictions", FIRST)
        until(lambda: running.worker._alone is not together)
        until(lambda: not batches() - before)
