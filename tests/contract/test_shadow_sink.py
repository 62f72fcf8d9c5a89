"""The contract of the shadow's sink: in memory and on a real broker."""

from __future__ import annotations

import io
import time

import pytest

from streamserve.batch import OutboundBatch
from streamserve.errors import SinkError
from streamserve.kafka.clients import producer_properties
from streamserve.kafka.shadow_sink import KafkaShadowSink, shadow_properties
from streamserve.telemetry.logs import Log
from streamserve.testing import MemoryBroker, MemoryShadowSink, memory_settings
from tests.services import create_topic, read_all, unique


def batch(topic, count, *, headers=()):
    return OutboundBatch(
        topic=topic,
        row=list(range(count)),
        partition=list(range(count)),
        key=[b"k%d" % i for i in range(count)],
        value=[b"v%d" % i for i in range(count)],
        headers=[list(headers)] * count if headers else [],
    )


class InMemory:
    def __init__(self):
        self.broker, self.topic = MemoryBroker(), "shadow"
        self.broker.create_topic(self.topic, 2)

    def sink(self, *, reachable=True, room=1 << 20):
        self.broker.down = not reachable
        return MemoryShadowSink(self.broker, room=room)

    def records(self):
        return [(r.partition, r.key, r.value, r.headers or []) for r in self.broker.records(self.topic)]


class OnKafka:
    def __init__(self, bootstrap):
        self._bootstrap, self.topic = bootstrap, create_topic(bootstrap, unique("shadow"), 2)

    def sink(self, *, reachable=True, room=1 << 20):
        address = self._bootstrap if reachable else "127.0.0.1:1"
        settings = memory_settings([{"name": "x"}], kafka={"bootstrap.servers": address})
        properties = shadow_properties(producer_properties(settings))
        properties["queue.buffering.max.messages"] = min(room, int(properties["queue.buffering.max.messages"]))
        return KafkaShadowSink(properties, Log.open(stream=io.StringIO(), format="json"))

    def records(self):
        return [(m.partition(), m.key(), m.value(), m.headers() or []) for m in read_all(self._bootstrap, self.topic)]


@pytest.fixture(params=["memory", "kafka"])
def world(request):
    return InMemory() if request.param == "memory" else OnKafka(request.getfixturevalue("kafka").bootstrap)


def test_records_go_to_their_partition_modulo_the_topics_count_with_key_and_headers(world):
    sink = world.sink()
    sink.open()
    assert sink.produce(batch(world.topic, 5, headers=[("a", b"1")])) == 5
    assert sink.produce(batch(world.topic, 3)) == 3
    sink.close(10)
    wanted = [(i % 2, b"k%d" % i, b"v%d" % i, [("a", b"1")]) for i in range(5)]
    wanted += [(i % 2, b"k%d" % i, b"v%d" % i, []) for i in range(3)]
    found = world.records()
    assert sorted(map(repr, found)) == sorted(map(repr, wanted))
    for partition in range(2):  # in order
        assert [r for r in found if r[0] == partition] == [r for r in wanted if r[0] == partition]
    assert sink.lost() == 0


def test_a_topic_that_is_missing_is_an_error_and_another_one_goes_on(world):
    sink = world.sink()
    sink.open()
    with pytest.raises(SinkError, match="does not exist"):
        sink.produce(batch(unique("nowhere"), 1))
    assert sink.produce(batch(world.topic, 1)) == 1
    sink.close(10)
    assert len(world.records()) == 1


def test_with_a_full_queue_the_first_are_taken(world):
    sink = world.sink(room=3)
    sink.open()
    assert sink.produce(batch(world.topic, 10)) == 3
    sink.close(10)
    assert {value for _, _, value, _ in world.records()} == {b"v0", b"v1", b"v2"}


def test_what_is_closed_takes_nothing_and_closes_again(world):
    sink = world.sink()
    sink.open()
    sink.close(1)
    sink.close(1)
    with pytest.raises(SinkError, match="closed"):
        sink.produce(batch(world.topic, 1))


def test_brokers_that_are_away_are_an_error_and_closing_is_bounded(world, monkeypatch):
    monkeypatch.setattr("streamserve.kafka.producing.METADATA_TIMEOUT_S", 0.5)
    sink = world.sink(reachable=False)
    sink.open()
    with pytest.raises(SinkError):
        sink.produce(batch(world.topic, 1))
    began_s = time.monotonic()
    sink.close(0.5)
    assert time.monotonic() - began_s < 10
