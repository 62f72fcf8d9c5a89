"""The whole loop on the memory twins: what is lost, doubled or late after each kind of trouble."""

from __future__ import annotations

import threading

import pytest

from streamserve.batch import TopicPartition
from streamserve.errors import BrokerUnavailable, EngineError, Fenced, SinkError, SourceError, StreamServeError
from streamserve.testing import MemoryBroker, MemoryTransaction
from streamserve.worker import loop
from tests.memory import Gate, doubled, exactly_once, fill, seen, topics, until, worker

P0, P1 = TopicPartition("events", 0), TopicPartition("events", 1)
RETRYABLE = SinkError("again", retryable=True)


@pytest.fixture
def broker():
    return topics(MemoryBroker(), 2)


def counted(metric, *labels):
    return (metric[labels] if labels else metric)._value.get()


def test_everything_is_predicted_once_in_order_and_committed(broker):
    fill(broker, 2000, partitions=2)
    with worker(broker, engine={"max_batch_size": 64}) as running:
        broker.wait_records("predictions", 2000)
    assert running.failure is None
    exactly_once(broker, 2000)
    assert broker.offsets == {P0: 1000, P1: 1000}


def test_the_metrics_keep_the_law(broker):
    fill(broker, 20)
    broker.produce("events", b"bad")
    with worker(broker) as running:
        broker.wait_records("predictions", 20)
        broker.wait_records("dead", 1)
        until(lambda: running.worker._rotation.held == 0)
    metrics = running.metrics
    rejected = counted(metrics.records_rejected, "decode", "decode")
    assert counted(metrics.records_consumed) == 21 == counted(metrics.predictions) + rejected


@pytest.mark.parametrize("operation", ["begin", "add", "flush", "commit"])
@pytest.mark.parametrize("at", [1, 2, 5])
def test_a_retryable_failure_costs_nothing(broker, operation, at):
    running = worker(broker, engine={"max_batch_size": 8}, delivery={"commit_interval_ms": 1})
    running.sink.faults.fail(operation, RETRYABLE, at=at)
    fill(broker, 400, partitions=2)
    with running:
        broker.wait_records("predictions", 400)
    assert running.failure is None
    assert running.sink.faults.pending == 0
    assert running.sink.recoveries == 1
    exactly_once(broker, 400)


@pytest.mark.parametrize("producers", [1, 2])
def test_a_writer_that_waits_for_a_producer_does_not_hold_up_starting_over(broker, producers, monkeypatch):
    monkeypatch.setattr(loop, "CALL_TIMEOUT_S", 5.0)
    running = worker(broker, engine={"max_batch_size": 4}, delivery={"commit_interval_ms": 1, "producers": producers})
    entered, goes_on = threading.Event(), threading.Event()
    running.sink.faults.fail("commit", RETRYABLE, at=2)
    commit = MemoryTransaction.commit

    def slow(transaction, positions, metadata):
        if running.sink.faults.reached["commit"] == 1:
            entered.set()
            assert goes_on.wait(20)
        commit(transaction, positions, metadata)

    monkeypatch.setattr(MemoryTransaction, "commit", slow)
    fill(broker, 200, partitions=2)
    with running:
        assert entered.wait(20)
        until(lambda: running.sink.faults.reached["begin"] > 1 + producers)  # the writer waits for a free one
        goes_on.set()
        broker.wait_records("predictions", 200)
    assert running.failure is None
    exactly_once(broker, 200)


@pytest.mark.parametrize("at", [1, 2, 5])
def test_a_commit_whose_answer_is_lost_is_not_done_again(broker, at):
    running = worker(broker, engine={"max_batch_size": 8}, delivery={"commit_interval_ms": 1})
    running.sink.faults.fail("commit", RETRYABLE, at=at, afterwards=True)
    fill(broker, 400, partitions=2)
    with running:
        broker.wait_records("predictions", 400)
    assert running.failure is None
    exactly_once(broker, 400)


@pytest.mark.parametrize("operation", ["begin", "add", "flush", "commit"])
@pytest.mark.parametrize("error", [SinkError("broken"), Fenced("taken")])
def test_any_other_failure_ends_the_worker_and_the_next_life_goes_on(broker, operation, error):
    running = worker(broker, engine={"max_batch_size": 8}, delivery={"commit_interval_ms": 1})
    running.sink.faults.fail(operation, error, at=3)
    fill(broker, 400, partitions=2)
    with running:
        running.join()
    assert running.failure is error
    with worker(broker) as second:
        broker.wait_records("predictions", 400)
    assert second.failure is None
    exactly_once(broker, 400)


def test_an_error_nobody_foresaw_ends_the_worker(broker):
    running = worker(broker)
    failure = ZeroDivisionError()
    running.sink.faults.fail("commit", failure)
    fill(broker, 5)
    with running:
        running.join()
    assert running.failure is failure
    assert seen(broker) == {}


def test_a_failing_poll_ends_the_worker(broker):
    running = worker(broker)
    error = SourceError("unreadable")
    running.source.faults.fail("poll", error, at=3)
    with running:
        running.join()
    assert running.failure is error


def test_a_device_that_fails_ends_the_worker_with_nothing_committed(broker):
    error = EngineError("device lost", retryable=True)

    def broken(_inputs):
        raise error

    fill(broker, 5)
    with worker(broker, broken) as running:
        running.join()
    assert running.failure is error
    assert broker.commits == []


def test_recovery_is_repeated_while_the_brokers_are_away(broker, monkeypatch):
    monkeypatch.setattr(loop.time, "sleep", lambda _s: None)
    running = worker(broker)
    running.sink.faults.fail("flush", RETRYABLE)
    for at in (1, 2, 3):
        running.sink.faults.fail("recover", BrokerUnavailable("away", retryable=True), at=at)
    running.source.faults.fail("rewind", BrokerUnavailable("away", retryable=True))
    fill(broker, 50)
    with running:
        broker.wait_records("predictions", 50)
    assert running.failure is None
    assert running.sink.recoveries == 5
    exactly_once(broker, 50)


def test_a_recovery_that_cannot_succeed_ends_the_worker(broker):
    running = worker(broker)
    running.sink.faults.fail("flush", RETRYABLE)
    running.sink.faults.fail("recover", SinkError("no such id"))
    fill(broker, 5)
    with running:
        running.join()
    assert str(running.failure) == "no such id"


def test_aborts_in_a_row_are_capped(broker, monkeypatch):
    monkeypatch.setattr(loop, "ABORT_PAUSES_S", (0.0,))
    running = worker(broker)
    for at in range(1, loop.MAX_ABORTS + 2):
        running.sink.faults.fail("commit", RETRYABLE, at=at)
    fill(broker, 5)
    with running:
        running.join()
    assert f"{loop.MAX_ABORTS} aborts in a row" in str(running.failure)
    assert running.sink.recoveries == loop.MAX_ABORTS
    assert seen(broker) == {}


def test_a_commit_between_them_starts_the_count_of_aborts_anew(broker, monkeypatch):
    monkeypatch.setattr(loop, "MAX_ABORTS", 10)
    monkeypatch.setattr(loop, "ABORT_PAUSES_S", (0.0,))
    running = worker(broker, delivery={"commit_interval_ms": 1})
    for at in [*range(1, 9), *range(10, 18)]:
        running.sink.faults.fail("commit", RETRYABLE, at=at)
    fill(broker, 5)
    with running:
        broker.wait_records("predictions", 5)
        fill(broker, 5, start=5)
        broker.wait_records("predictions", 10)
    assert running.failure is None
    assert running.sink.recoveries == 16
    exactly_once(broker, 10)


def test_a_revoke_lets_what_is_in_flight_commit(broker):
    gate = Gate()
    running = worker(broker, gate, everything=False)
    fill(broker, 20, partitions=2)
    running.source.assign(P0, P1)
    told, on_revoked = threading.Event(), running.worker.on_revoked
    running.worker.on_revoked = lambda partitions: (told.set(), on_revoked(partitions))
    with running:
        assert gate.entered.wait(20)
        running.source.revoke(P1)
        assert told.wait(20)
        gate.open.set()
        until(lambda: not running.source.rebalancing)
        assert broker.offsets[P1] == 10
        broker.wait_records("predictions", 20)
    exactly_once(broker, 20)


def test_a_revoke_that_takes_too_long_drops_what_is_in_flight(broker, monkeypatch):
    monkeypatch.setattr(loop, "REVOKE_TIMEOUT_S", 0.1)
    gate = Gate()
    running = worker(broker, gate, everything=False)
    fill(broker, 20, partitions=2)
    running.source.assign(P0, P1)
    with running:
        assert gate.entered.wait(20)
        running.source.revoke(P1)
        until(lambda: not running.source.rebalancing)
        gate.open.set()
        broker.wait_records("predictions", 10)
        until(lambda: P0 in broker.offsets)
        assert P1 not in broker.offsets
        running.source.assign(P1)
        broker.wait_records("predictions", 20)
    assert "revoked_in_flight" in running.log.getvalue()
    exactly_once(broker, 20)


def test_what_is_lost_is_dropped_and_the_next_owner_does_it(broker):
    gate = Gate()
    running = worker(broker, gate, everything=False)
    fill(broker, 20, partitions=2)
    running.source.assign(P0, P1)
    with running:
        assert gate.entered.wait(20)
        running.source.lose(P1)
        until(lambda: not running.source.rebalancing)
        gate.open.set()
        until(lambda: P0 in broker.offsets)
        assert P1 not in broker.offsets
        with worker(broker, slot="memory-1", everything=False) as other:
            other.source.assign(P1)
            broker.wait_records("predictions", 20)
        assert other.failure is None
    assert running.failure is None
    exactly_once(broker, 20)


def test_rows_of_a_partition_that_left_and_came_back_while_they_were_written_are_not_committed(broker, monkeypatch):
    """The group's generation is fresh again, so the broker would take them: only the epoch tells."""
    written, go_on, flush = threading.Event(), threading.Event(), MemoryTransaction.flush

    def slow_flush(transaction):
        flush(transaction)
        written.set()
        assert go_on.wait(20)

    monkeypatch.setattr(MemoryTransaction, "flush", slow_flush)
    running = worker(broker, everything=False)
    fill(broker, 10)
    running.source.assign(P0)
    with running:
        assert written.wait(20)
        running.source.lose(P0)
        running.source.assign(P0)
        until(lambda: not running.source.rebalancing and running.source.metadata == broker.generation)
        go_on.set()
        broker.wait_records("predictions", 10)
        until(lambda: broker.offsets.get(P0) == 10)
    assert running.sink.recoveries == 1
    exactly_once(broker, 10)


def test_dropped_batches_are_no_longer_in_flight(broker):
    gate = Gate()
    running = worker(broker, gate, everything=False)
    fill(broker, 20, partitions=2)
    running.source.assign(P0, P1)
    with running:
        assert gate.entered.wait(20)
        running.source.lose(P0, P1)
        until(lambda: not running.source.rebalancing)
        gate.open.set()
        fill(broker, 1, start=20)
        running.source.assign(P0, P1)
        broker.wait_records("predictions", 21)
        until(lambda: running.worker._rotation.held == 0)


def test_two_workers_of_one_slot_name_fence_each_other(broker):
    with worker(broker, everything=False) as first:
        first.source.assign(P0)
        fill(broker, 10)
        broker.wait_records("predictions", 10)
        with worker(broker, everything=False) as second:
            until(lambda: second.sink._free)
            fill(broker, 10, start=10)
            first.join()
            assert isinstance(first.failure, Fenced)
            second.source.assign(P0)
            broker.wait_records("predictions", 20)
    exactly_once(broker, 20)


def polled(running):
    return sum(running.source._positions.values())


def test_a_drain_commits_all_that_was_polled(broker):
    gate = Gate()
    fill(broker, 600, partitions=2)
    with worker(broker, gate, engine={"max_batch_size": 100}) as running:
        assert gate.entered.wait(20)
        until(lambda: polled(running) >= 300)
        running.worker.stop()
        gate.open.set()
        running.join()
    assert running.failure is None
    consumed = int(counted(running.metrics.records_consumed))
    assert sum(broker.offsets.values()) == consumed == sum(seen(broker).values())


def test_a_drain_that_takes_too_long_fails_and_loses_nothing(broker):
    gate = Gate()
    fill(broker, 10)
    with worker(broker, gate, delivery={"drain_timeout_s": 0.1}) as running:
        assert gate.entered.wait(20)
        running.worker.stop()
        until(lambda: running.worker._failure is not None)
        gate.open.set()
        running.join()
    assert "draining took longer" in str(running.failure)
    assert broker.commits == []
    with worker(broker):
        broker.wait_records("predictions", 10)
    exactly_once(broker, 10)


def test_an_idle_worker_stops(broker):
    with worker(broker) as running:
        until(lambda: running.health.met("group"))
    assert running.failure is None
    assert broker.commits == []


def test_too_many_dead_letters_stop_the_worker_before_their_commit(broker):
    for _ in range(100):
        broker.produce("events", b"bad")
    blocks = {"dead_letter": {"topic": "dead", "max_ratio": 0.5, "ratio_window": 50}}
    with worker(broker, engine={"max_batch_size": 50}, **blocks) as running:
        running.join()
    assert isinstance(running.failure, StreamServeError)
    assert "dead_letter.max_ratio" in str(running.failure)
    assert broker.records("dead") == []
    assert broker.commits == []


def test_a_batch_of_nothing_but_dead_letters_commits_its_offsets(broker):
    for _ in range(10):
        broker.produce("events", b"bad")
    with worker(broker) as running:
        broker.wait_records("dead", 10)
    assert running.failure is None
    assert broker.offsets == {P0: 10}
    assert broker.records("predictions") == []


def test_a_full_mailbox_pauses_the_source_and_an_empty_one_resumes_it(broker):
    gate = Gate()
    fill(broker, 200)
    with worker(broker, gate, engine={"max_batch_size": 4}) as running:
        until(lambda: running.source.paused)
        assert polled(running) <= 24  # four batches wait, one is inside, one poll was under way
        gate.open.set()
        broker.wait_records("predictions", 200)
    exactly_once(broker, 200)


def test_a_source_that_cannot_be_opened_raises_before_any_thread_starts(broker):
    broker.down = True
    running = worker(broker)
    with pytest.raises(BrokerUnavailable):
        running.worker.run()


def test_predictions_are_the_models(broker):
    fill(broker, 3)
    with worker(broker, doubled):
        records = broker.wait_records("predictions", 3)
    assert [b'"y":%d' % (2 * n) in r.value for n, r in enumerate(records)] == [True] * 3
