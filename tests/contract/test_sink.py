"""The contract of the sink port: in memory, transactional and at least once on a real broker."""

from __future__ import annotations

import io
import os
import time
from types import SimpleNamespace

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException
from confluent_kafka import TopicPartition as ClientPartition

from streamserve.batch import OutboundBatch, TopicPartition
from streamserve.clock import SystemClock
from streamserve.errors import BrokerUnavailable, Fenced, SinkError
from streamserve.kafka import at_least_once, transactional
from streamserve.kafka.at_least_once import AtLeastOnceSink
from streamserve.kafka.clients import producer_properties
from streamserve.kafka.source import KafkaSource
from streamserve.kafka.transactional import TransactionalSink
from streamserve.pipeline.assignment import Assignment
from streamserve.telemetry.logs import Log
from streamserve.testing import ManualClock, MemoryBroker, MemorySink, memory_settings
from tests.services import create_topic, produce, read_all, settled, unique

COORDINATOR_LOADS = {
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
}
LISTENER = SimpleNamespace(on_assigned=lambda _: None, on_revoked=lambda _: None, on_lost=lambda _: None)


def batch(topic, *values, partition=0, key=None, headers=None, timestamp_ms=None):
    n = len(values)
    return OutboundBatch(
        topic=topic,
        row=list(range(n)),
        partition=[partition] * n,
        key=[key] * n,
        value=list(values),
        headers=[headers] * n if headers else [],
        timestamp_ms=[timestamp_ms] * n if timestamp_ms else [],
    )


class InMemory:
    def __init__(self):
        self.broker = MemoryBroker()
        self.input, self.output = "in", "out"
        self.broker.create_topic("in")
        self.broker.create_topic("out", 3)
        self.broker.rebalanced()

    def sink(self, ids=("a.0", "a.1"), *, reachable=True):
        self.broker.down = not reachable
        return MemorySink(self.broker, ids)

    def metadata(self):
        return self.broker.generation

    def rebalance(self):
        self.broker.rebalanced()

    def committed(self):
        return self.broker.offsets.get(TopicPartition("in", 0))

    def visible(self, topic=None):
        return [r.value for r in self.broker.records(topic or "out")]

    def records(self):
        return [(r.partition, r.key, r.value, r.headers, r.timestamp_ms) for r in self.broker.records("out")]

    def close(self):
        """Nothing to release."""


class OnKafka:
    def __init__(self, bootstrap, kind):
        self.bootstrap, self.kind = bootstrap, kind
        self.input = create_topic(bootstrap, unique("in"))
        self.output = create_topic(bootstrap, unique("out"), 3)
        produce(bootstrap, self.input, [b"v"] * 9)
        self.group = unique("group")
        self.clock = ManualClock() if kind == "aging" else SystemClock()
        self.recycled = []
        self.sinks, self.sources = [], []

    def settings(self, bootstrap=None):
        properties = {
            "bootstrap.servers": bootstrap or self.bootstrap,
            "consumer.session.timeout.ms": 6000,
            "consumer.heartbeat.interval.ms": 200,
        }
        return memory_settings([{"name": "x"}], pipeline=self.group, kafka=properties, input={"topics": [self.input]})

    def member(self):
        assignment, log = Assignment(SystemClock()), Log.open(stream=io.StringIO())
        source = KafkaSource(self.settings(), assignment, SystemClock(), log)
        source.open(LISTENER)
        self.sources.append((source, assignment))
        return source, assignment

    def joined(self):
        if not self.sources:
            source, assignment = self.member()
            deadline = time.monotonic() + 30
            while not assignment.in_flight():
                assert time.monotonic() < deadline
                source.poll(100, 0.1)
        return self.sources[0][0]

    def sink(self, ids=("a.0", "a.1"), *, reachable=True):
        log = Log.open(stream=io.StringIO())
        settings = self.settings(None if reachable else "127.0.0.1:1")
        if self.kind == "at_least_once":
            sink = AtLeastOnceSink(producer_properties(settings), lambda at: self.joined().commit(at), log)
        else:
            sink = TransactionalSink(
                lambda name: producer_properties(settings, transactional_id=name),
                [f"{self.group}.{name}" for name in ids],
                self.clock,
                log,
                on_recycle=self.recycled.append,
            )
        self.sinks.append(sink)
        return sink

    def metadata(self):
        return self.joined().metadata

    def rebalance(self):
        """A second member joins: the generation moves on."""
        first, (second, _) = self.joined(), self.member()
        before, deadline = generation(first), time.monotonic() + 30
        while generation(first) == before or generation(first) != generation(second):
            assert time.monotonic() < deadline
            first.poll(1, 0.1)
            second.poll(1, 0.1)
            second._publish()

    def committed(self):
        reader = Consumer({"bootstrap.servers": self.bootstrap, "group.id": self.group})
        deadline = time.monotonic() + 30
        try:
            while True:
                try:
                    (found,) = reader.committed([ClientPartition(self.input, 0)], timeout=30)
                    return found.offset if found.offset >= 0 else None
                except KafkaException as error:  # a broker that just made its offsets topic is still loading it
                    if error.args[0].code() not in COORDINATOR_LOADS or time.monotonic() > deadline:
                        raise
                    time.sleep(0.1)
        finally:
            reader.close()

    def visible(self, topic=None):
        topic = topic or self.output
        settled(self.bootstrap, topic)
        return [message.value() for message in read_all(self.bootstrap, topic)]

    def records(self):
        settled(self.bootstrap, self.output)
        return [
            (m.partition(), m.key(), m.value(), m.headers(), m.timestamp()[1])
            for m in sorted(read_all(self.bootstrap, self.output), key=lambda m: m.partition())
        ]

    def close(self):
        for sink in self.sinks:
            sink.close()
        for source, _ in self.sources:
            source.close()


def generation(source):
    """The generation inside of the client's opaque metadata."""
    return (source.metadata or b"")[7:11]


def built(request, kind):
    return InMemory() if kind == "memory" else OnKafka(request.getfixturevalue("kafka").bootstrap, kind)


@pytest.fixture(params=["memory", "transactional", "at_least_once"])
def rig(request):
    rig = built(request, request.param)
    yield rig
    rig.close()


@pytest.fixture(params=["memory", "transactional"])
def txn(request):
    rig = built(request, request.param)
    yield rig
    rig.close()


@pytest.fixture(params=["at_least_once", "transactional"])
def real(request):
    rig = built(request, request.param)
    yield rig
    rig.close()


@pytest.fixture
def sink(rig):
    sink = rig.sink()
    sink.open()
    return sink


def written(sink, rig, *values, **fields):
    transaction = sink.begin(5)
    transaction.add(batch(rig.output, *values, **fields))
    transaction.flush()
    return transaction


def at(rig, position):
    return {TopicPartition(rig.input, 0): position}


def test_what_is_committed_is_there_and_so_are_the_positions(rig, sink):
    transaction = written(sink, rig, b"1", b"2", b"3")
    assert rig.committed() is None
    transaction.commit(at(rig, 7), rig.metadata())
    assert rig.visible() == [b"1", b"2", b"3"]
    assert rig.committed() == 7


def test_opening_it_again_does_nothing(rig, sink):
    transaction = written(sink, rig, b"1")
    sink.open()
    transaction.commit(at(rig, 1), rig.metadata())
    assert rig.visible() == [b"1"]
    assert rig.committed() == 1


def test_keys_headers_timestamps_and_null_values_are_kept(rig, sink):
    headers = [("a", b"1"), ("b", None)]
    written(sink, rig, b"v", None, key=b"k", headers=headers, timestamp_ms=1_600_000_000_000, partition=1).commit(
        {}, None
    )
    assert rig.records() == [(1, b"k", value, headers, 1_600_000_000_000) for value in (b"v", None)]


def test_a_record_goes_to_its_inputs_partition_modulo_the_outputs_count(rig, sink):
    transaction = sink.begin(5)
    for partition in (0, 1, 2, 3, 7):
        transaction.add(batch(rig.output, b"%d" % partition, partition=partition))
    transaction.flush()
    transaction.commit({}, None)
    assert {(p, value) for p, _, value, _, _ in rig.records()} == {
        (0, b"0"),
        (1, b"1"),
        (2, b"2"),
        (0, b"3"),
        (1, b"7"),
    }


def test_the_order_of_adding_is_the_order_in_the_partition(rig, sink):
    for start in (0, 100):
        transaction = sink.begin(5)
        for n in range(start, start + 100, 10):
            transaction.add(batch(rig.output, *(b"%d" % i for i in range(n, n + 10))))
        transaction.flush()
        transaction.commit({}, None)
    assert rig.visible() == [b"%d" % n for n in range(200)]


def test_a_transaction_without_records_commits_positions(rig, sink):
    transaction = sink.begin(5)
    transaction.flush()
    transaction.commit(at(rig, 4), rig.metadata())
    assert rig.committed() == 4


def test_nothing_is_visible_before_the_commit(txn):
    sink = txn.sink()
    sink.open()
    transaction = written(sink, txn, b"1")
    assert txn.visible() == []
    transaction.commit({}, None)
    assert txn.visible() == [b"1"]


def test_what_is_aborted_never_shows_and_its_positions_neither(txn):
    sink = txn.sink()
    sink.open()
    written(sink, txn, b"aborted")
    sink.recover()
    written(sink, txn, b"good").commit(at(txn, 2), txn.metadata())
    assert txn.visible() == [b"good"]
    assert txn.committed() == 2


def test_at_least_once_shows_what_was_flushed_at_once(request):
    rig = built(request, "at_least_once")
    sink = rig.sink()
    sink.open()
    written(sink, rig, b"1")
    assert rig.visible() == [b"1"]
    rig.close()


def test_as_many_transactions_are_open_as_there_are_ids_and_then_none(txn):
    sink = txn.sink()
    sink.open()
    first, second = sink.begin(5), sink.begin(5)
    assert sink.begin(0.05) is None
    for transaction in (first, second):
        transaction.flush()
        transaction.commit({}, None)
    assert sink.begin(5) is not None


def test_a_second_open_with_the_same_ids_fences_the_first(txn):
    first, second = txn.sink(), txn.sink()
    first.open()
    transaction = written(first, txn, b"zombie")
    second.open()
    with pytest.raises(Fenced) as caught:
        transaction.commit(at(txn, 5), txn.metadata())
    assert not caught.value.retryable
    written(second, txn, b"heir").commit({}, None)
    assert txn.visible() == [b"heir"]
    assert txn.committed() is None


def test_opening_ends_what_an_earlier_life_left_open(txn):
    first = txn.sink()
    first.open()
    written(first, txn, b"dangling")
    second = txn.sink()
    second.open()
    written(second, txn, b"good").commit({}, None)
    assert txn.visible() == [b"good"]


def test_positions_of_an_older_generation_are_refused_and_starting_over_mends_it(txn):
    sink = txn.sink()
    sink.open()
    stale = txn.metadata()
    transaction = written(sink, txn, b"stale")
    txn.rebalance()
    with pytest.raises(SinkError) as caught:
        transaction.commit(at(txn, 9), stale)
    assert caught.value.retryable
    sink.recover()
    written(sink, txn, b"good").commit(at(txn, 3), txn.metadata())
    assert txn.visible() == [b"good"]
    assert txn.committed() == 3


def test_after_a_plain_refusal_it_is_certain_that_nothing_took_effect(request):
    rig = built(request, "transactional")
    sink = rig.sink()
    sink.open()
    stale = rig.metadata()
    refused = written(sink, rig, b"refused")
    rig.rebalance()
    younger = written(sink, rig, b"younger")
    with pytest.raises(SinkError):
        refused.commit(at(rig, 9), stale)
    assert sink.recover()
    for _ in range(4):  # each producer again
        written(sink, rig, b"good").commit(at(rig, 3), rig.metadata())
    assert rig.visible() == [b"good"] * 4
    assert rig.committed() == 3
    del younger
    rig.close()


def test_after_trouble_with_the_connection_it_is_not_certain(request):
    rig = built(request, "transactional")
    sink = rig.sink()
    sink.open()
    transaction = written(sink, rig, b"1")
    rig.sink().open()  # somebody takes the ids over: the commit fails, and says nothing of what became of it
    with pytest.raises(SinkError):
        transaction.commit(at(rig, 5), rig.metadata())
    assert not sink.recover()
    rig.close()


def test_after_recover_what_was_handed_out_is_void(txn):
    sink = txn.sink()
    sink.open()
    written(sink, txn, b"void")
    written(sink, txn, b"void too")
    sink.recover()
    for value in (b"1", b"2", b"3"):
        written(sink, txn, value).commit({}, None)
    assert txn.visible() == [b"1", b"2", b"3"]


def test_a_record_larger_than_the_client_takes_is_refused_for_good(rig, sink):
    transaction = sink.begin(5)
    with pytest.raises(SinkError) as caught:
        transaction.add(batch(rig.output, b"x" * 17_000_000))
    assert not caught.value.retryable


def test_a_missing_topic_is_an_error_for_good(rig, sink):
    transaction = sink.begin(5)
    with pytest.raises(SinkError) as caught:
        transaction.add(batch("nowhere.to-be-found", b"x"))
    assert not caught.value.retryable
    assert caught.value.topic == "nowhere.to-be-found"


def test_a_delivery_that_the_brokers_refuse_fails_and_the_next_one_works(real):
    sink = real.sink()
    sink.open()
    small = create_topic(real.bootstrap, unique("small"), 1, {"max.message.bytes": "2000"})
    transaction = sink.begin(5)
    with pytest.raises(SinkError) as caught:  # noqa: PT012
        transaction.add(batch(small, os.urandom(5000)))
        transaction.flush()
        transaction.commit(at(real, 9), real.metadata())
    assert caught.value.retryable
    assert real.committed() is None
    sink.recover()
    transaction = sink.begin(5)
    transaction.add(batch(small, b"fits"))
    transaction.flush()
    transaction.commit({}, None)
    assert real.visible(small) == [b"fits"]


def test_opening_without_a_broker_says_so(rig, monkeypatch):
    monkeypatch.setattr(transactional, "INIT_TIMEOUT_S", 1)
    monkeypatch.setattr(transactional, "CALL_TIMEOUT_S", 0.5)
    monkeypatch.setattr(at_least_once, "METADATA_TIMEOUT_S", 0.5)
    with pytest.raises(BrokerUnavailable):
        rig.sink(reachable=False).open()


def test_closing_may_be_repeated(rig, sink):
    sink.close()
    sink.close()


def test_a_tainted_producer_is_replaced_before_its_next_transaction(request):
    rig = built(request, "transactional")
    sink = rig.sink(ids=("a.0",))
    sink.open()
    before = sink._slots[0].producer
    sink._slots[0].taint = "trouble"
    written(sink, rig, b"1").commit({}, None)
    assert rig.recycled == ["trouble"]
    assert sink._slots[0].producer is not before
    written(sink, rig, b"2").commit({}, None)
    assert rig.recycled == ["trouble"]
    assert rig.visible() == [b"1", b"2"]
    rig.close()


def test_who_gives_no_time_gets_no_transaction_that_takes_a_new_client(request):
    rig = built(request, "transactional")
    sink = rig.sink(ids=("a.0", "a.1"))
    sink.open()
    sink._slots[0].taint = "trouble"
    assert sink.begin(0) is None
    assert rig.recycled == []
    written(sink, rig, b"1").commit({}, None)  # the same producer is next, with time enough
    assert rig.recycled == ["trouble"]
    assert sink.begin(0) is not None
    rig.close()


def test_a_producer_is_replaced_once_a_day(request):
    rig = built(request, "aging")
    sink = rig.sink(ids=("a.0",))
    sink.open()
    rig.clock.advance(transactional.MAX_AGE_S + 1)
    written(sink, rig, b"1").commit({}, None)
    assert rig.recycled == ["age"]
    rig.close()
