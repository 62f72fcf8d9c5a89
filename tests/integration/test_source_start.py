"""How partitions start and leave on a real broker: what the port's contract leaves to Kafka."""

from __future__ import annotations

import threading
import time

import pytest
from confluent_kafka import Producer
from confluent_kafka import TopicPartition as ClientPartition

from streamserve.batch import OutboundBatch, TopicPartition
from streamserve.clock import SystemClock
from streamserve.errors import SourceError
from streamserve.kafka.clients import producer_properties
from streamserve.kafka.transactional import TransactionalSink
from streamserve.telemetry.logs import Log
from streamserve.testing import memory_settings
from tests.contract.test_source import OnKafka
from tests.services import create_topic, read_all, unique


@pytest.fixture(params=["classic", "consumer"])
def rig(request, kafka):
    built = OnKafka(kafka.bootstrap, request.param)
    yield built
    built.close()


def settled_at_the_end(rig):
    member = rig.member(start="end").open()
    member.poll_until(lambda: len(member.events("partition_start")) == 1)
    return member


def test_a_restart_before_the_first_record_does_not_look_for_the_end_again(rig):
    rig.create(1)
    rig.produce({}, {})
    settled_at_the_end(rig).source.close()
    rig.members.clear()
    rig.produce({}, {})
    assert rig.member(start="end").open().poll(2) == [(0, 2), (0, 3)]


def test_a_partition_that_joins_later_is_read_from_its_beginning_whatever_the_start(rig):
    rig.create(1)
    rig.produce({})
    member = settled_at_the_end(rig)
    rig.add_partitions(2)
    rig.produce({"partition": 1}, {"partition": 1})
    assert member.poll(2) == [(1, 0), (1, 1)]


def test_a_committed_offset_beyond_the_end_stops_the_worker(rig):
    rig.create(1)
    rig.produce({}, {}, {})
    member = rig.member().open()
    member.poll(3)
    tp = next(iter(member.assignment.epochs))
    member.source.commit({tp: 50})
    member.source.close()
    rig.members.clear()
    with pytest.raises(SourceError, match=r"committed offset 50 lies beyond the end 3.*reset-offsets") as caught:
        rig.member().open().poll(1)
    assert not caught.value.retryable


def test_a_partition_that_left_while_paused_is_read_when_it_comes_back(rig):
    rig.create(2)
    rig.produce(*({"partition": n % 2} for n in range(20)))
    first = rig.member().open()
    first.poll(20)
    first.source.pause()
    second = rig.member().open()
    rig.share(first, second)
    second.source.close()
    rig.members.remove(second)
    first.poll_until(lambda: len(first.assignment.epochs) == 2)
    first.source.resume()
    first.early.clear()
    rig.produce(*({"partition": n % 2} for n in range(20)))
    fresh = set()
    first.poll_until(lambda: fresh.update(p for p, offset in first.early if offset >= 10) or fresh == {0, 1})


@pytest.mark.parametrize("polls", [0, 1], ids=["unheard", "begun"])
def test_a_member_that_closes_in_the_middle_of_a_rebalance_gives_everything_back(rig, polls):
    """A client that is closed there may wait for ever for an answer from a thread of its own that has ended."""
    rig.create(2)
    rig.produce(*({"partition": n % 2} for n in range(20)))
    first = rig.member().open()
    first.poll(20)
    owned = set(first.assignment.epochs)
    second = rig.member().open()
    second.source.poll(1, 1.5)  # the first one's next heartbeat says that there is a rebalance
    for _ in range(polls):
        first.source.poll(1, 0.1)
    first.source.close()
    assert first.listener.of("revoked") == owned
    assert first.listener.threads == {threading.current_thread()}
    second.poll_until(lambda: set(second.assignment.epochs) == owned)


def test_batches_stay_below_the_smallest_limit_of_the_output_topics(kafka):
    topic = unique("small")
    create_topic(kafka.bootstrap, topic, 1, {"max.message.bytes": "20000"})
    settings = memory_settings([{"name": "x"}], kafka={"bootstrap.servers": kafka.bootstrap})
    sink = TransactionalSink(
        lambda name: producer_properties(settings, transactional_id=name, max_batch_bytes=20000 - 512),
        [unique("small-batches")],
        SystemClock(),
        Log.open(),
    )
    sink.open()
    transaction = sink.begin(5)
    n = 500
    transaction.add(
        OutboundBatch(
            topic=topic,
            row=list(range(n)),
            partition=[0] * n,
            key=[None] * n,
            value=[bytes(1000)] * n,
        )
    )
    transaction.flush()
    transaction.commit({}, None)
    sink.close()
    assert len(read_all(kafka.bootstrap, topic)) == n


def test_positions_that_wait_for_a_dead_workers_transaction_are_not_lost_in_a_rebalance(rig):
    rig.create(4)
    rig.produce(*({"partition": n % 4} for n in range(80)))
    dead = rig.member().open()
    dead.poll(80)
    dead.source.commit({TopicPartition(rig.topic, p): 10 for p in range(4)})
    left_open = Producer(
        {"bootstrap.servers": rig.bootstrap, "transactional.id": unique("dead"), "transaction.timeout.ms": 8000}
    )
    left_open.init_transactions(10)
    left_open.begin_transaction()
    left_open.send_offsets_to_transaction([ClientPartition(rig.topic, p, 15) for p in range(4)], dead.source.metadata)
    dead.source.close()
    rig.members.remove(dead)
    stays = rig.member().open()
    found = set()

    def seen(*members):
        for member in members:
            batch = member.source.poll(500, 0.05)
            if batch is not None:
                found.update(zip(batch.partition, batch.offset, strict=True))

    stays.poll_until(lambda: len(stays.assignment.epochs) == 4)
    for _ in range(2):  # positions are asked for, and wait; meanwhile partitions go and come back
        comes = rig.member().open()
        deadline = time.monotonic() + 20
        while len(comes.assignment.epochs) < 2:
            assert time.monotonic() < deadline
            seen(stays, comes)
        comes.source.close()
        rig.members.remove(comes)
        while len(stays.assignment.epochs) < 4:
            seen(stays)
    deadline = time.monotonic() + 60
    while len({place for place in found if place[1] >= 10}) < 40:
        assert time.monotonic() < deadline, sorted(found)
        seen(stays)
    assert min(offset for _, offset in found) == 10
