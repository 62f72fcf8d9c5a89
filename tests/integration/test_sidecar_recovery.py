"""Taking a partition over: fencing, memory by checkpoints, and transactions of others that are open."""

from __future__ import annotations

import io
import json
import threading
import time

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from streamserve.clock import SystemClock
from streamserve.config.drift_topics import drift_topics
from streamserve.config.loading import load
from streamserve.errors import Fenced, SourceError
from streamserve.sidecar import recovery as recovery_module
from streamserve.sidecar.publisher import Destination, Publisher
from streamserve.sidecar.recovery import Recovery
from streamserve.sidecar.topics import drift_facts
from streamserve.telemetry.logs import Log
from tests.services import produce, unique
from tests.sidecars import Pipeline, Writer
from tests.unit.sidecar.counting_monitor import Told


class Place:
    """A pipeline, and what works on its partitions."""

    def __init__(self, bootstrap, folder) -> None:
        self.log = io.StringIO()
        self.pipeline = Pipeline(bootstrap, folder, drift={"labels": {"wait_s": 600}})
        self.settings = load(self.pipeline.file).settings
        self.topics = drift_topics(self.settings)

    def publisher(self, partition=0):
        facts = drift_facts(self.settings, self.topics)
        destination = Destination(pipeline=self.pipeline.name, partition=partition, topics=self.topics, facts=facts)
        publisher = Publisher(self.settings, destination, SystemClock(), Log.open(stream=self.log, format="json"))
        publisher.open()
        return publisher

    def recovery(self, partition=0):
        return Recovery(self.settings, self.topics, partition, lambda: False)

    def memory(self, partition=0, *, wall_ms=None):
        return self.recovery(partition).memory(wall_ms or now_ms())


@pytest.fixture
def place(kafka, tmp_path):
    return Place(kafka.bootstrap, tmp_path)


def now_ms():
    return round(time.time() * 1000)


def state(model, number):
    return Told("state", model, version="", number=number)


def learned(model, version):
    return Told("reference", model, version=version)


def numbers(memory):
    return [(each["kind"], each["model"], each.get("number", each.get("version"))) for each in memory.documents]


def test_the_newest_state_of_every_model_and_every_reference_of_this_partition_is_found(place):
    mine, other = place.publisher(0), place.publisher(1)
    mine.publish([learned("a", "1"), state("a", 1)])
    other.publish([state("c", 9)])
    mine.publish([Told("report", "a"), state("b", 2), state("a", 3)])
    mine.publish([learned("a", "2"), learned("a", "1")])
    assert numbers(place.memory(0)) == [
        ("state", "b", 2),
        ("state", "a", 3),
        ("reference", "a", "2"),
        ("reference", "a", "1"),
    ]
    assert numbers(place.memory(1)) == [("state", "c", 9)]


def test_the_second_owner_fences_the_first_whose_words_then_count_for_nothing(place):
    first = place.publisher()
    first.publish([state("a", 1)])
    second = place.publisher()
    with pytest.raises(Fenced):
        first.publish([Told("alert", "a"), state("a", 2)])
    second.publish([state("a", 3)])
    with pytest.raises(Fenced):
        first.publish([state("a", 4)])
    assert numbers(place.memory()) == [("state", "a", 3)]
    assert place.pipeline.told(place.pipeline.alerts, "alert") == []


def test_a_checkpoint_ends_the_search_and_without_one_everything_is_read(place):
    long_ago = now_ms() - 47 * 3600 * 1000
    headers = [("kind", b"state"), ("samples-partition", b"0")]
    old = {"timestamp": long_ago, "headers": headers, "value": b'{"kind":"state","model":"old","number":1}'}
    produce(place.pipeline.bootstrap, place.topics.reports, [old] * 50)
    publisher = place.publisher()
    publisher.publish([state("new", 2)])
    found = place.memory()
    assert numbers(found) == [("state", "old", 1), ("state", "new", 2)]
    assert found.records == 51

    publisher.checkpoint([(state("old", 1), now_ms() - 47 * 3600 * 1000), (state("new", 2), now_ms())])
    publisher.publish([state("new", 3)])
    found = place.memory()
    assert numbers(found) == [("state", "old", 1), ("state", "new", 3)]
    assert found.records == 4


def test_a_model_that_is_not_served_any_more_is_forgotten(place):
    publisher = place.publisher()
    old_ms = now_ms() - 49 * 3600 * 1000
    publisher.checkpoint(
        [
            (learned("retired", "1"), old_ms),
            (state("retired", 1), old_ms),
            (learned("served", "1"), old_ms),
            (state("served", 2), now_ms()),
        ]
    )
    assert numbers(place.memory()) == [("reference", "served", "1"), ("state", "served", 2)]


def test_a_sidecar_that_was_away_for_long_forgets_nothing(place):
    long_ago = now_ms() - 72 * 3600 * 1000
    publisher = place.publisher()
    publisher.checkpoint([(state("a", 1), long_ago), (state("b", 2), long_ago)])
    assert numbers(place.memory()) == [("state", "a", 1), ("state", "b", 2)]


def test_what_stands_behind_another_partitions_open_transaction_is_waited_for(place, monkeypatch):
    open_one = Producer(
        {"bootstrap.servers": place.pipeline.bootstrap, "transactional.id": unique("t"), "log_level": 0}
    )
    open_one.init_transactions(30)
    open_one.begin_transaction()
    open_one.produce(place.topics.reports, b"?")
    open_one.flush(30)
    place.publisher().publish([state("a", 1)])  # committed, and not yet to be seen
    monkeypatch.setattr(recovery_module, "UNSTABLE_S", 0.5)
    with pytest.raises(SourceError, match="stays open"):
        place.memory()
    monkeypatch.setattr(recovery_module, "UNSTABLE_S", 30)
    threading.Timer(1.0, open_one.abort_transaction).start()
    assert numbers(place.memory()) == [("state", "a", 1)]


def test_samples_and_labels_come_by_time_and_leave_their_positions(place):
    bootstrap, now = place.pipeline.bootstrap, now_ms()
    writer = Writer(bootstrap, place.topics.samples)
    writer.write(b"aborted", commit=False)
    timed = [{"value": b"s%d" % i, "partition": 0, "timestamp": now + 2 * i} for i in range(5)]
    produce(bootstrap, place.topics.samples, timed)
    old = {"value": b"old", "timestamp": now - 3_600_000}
    produce(
        bootstrap, place.topics.labels, [old, *({"value": b"l%d" % i, "timestamp": now + 2 * i + 1} for i in range(5))]
    )
    tail = place.recovery().samples(None)
    found = [record.value for record in tail.records(now)]
    assert found == [value for i in range(5) for value in (b"s%d" % i, b"l%d" % i)]
    assert (tail.next_offset, tail.labels) == (7, {0: 6})
    assert [r.value for r in place.recovery().samples(5).records(now) if r.topic == place.topics.samples] == [
        b"s3",
        b"s4",
    ]
    assert [r.value for r in place.recovery().samples(99).records(now) if r.topic == place.topics.samples] == []


def test_what_a_topic_does_not_take_is_left_out_and_told_and_the_rest_is_published(place):
    wide = Told("reference", "a", version="1", document={"columns": ["x" * 100] * 25_000})
    reasons = [{"column": f"c{number}", "why": "x" * 100_000} for number in range(30)]
    alert = Told("alert", "a", title="drift", reasons=reasons)
    publisher = place.publisher()
    assert publisher.publish([wide, alert, state("a", 1)]) == 1
    assert publisher.publish([wide]) == 1
    publisher.checkpoint([(wide, now_ms()), (state("a", 1), now_ms())])
    assert numbers(place.memory()) == [("state", "a", 1)]
    assert place.memory().records == 2  # the checkpoint begins with the state, and its transaction ends
    [told] = place.pipeline.told(place.pipeline.alerts, "alert")
    assert told["title"] == "drift"
    assert told["reasons"] == reasons[:10]
    lines = [json.loads(line) for line in place.log.getvalue().splitlines()]
    found = [line for line in lines if line["event"] == "event_too_large"]
    assert [(line["kind"], line["published"], line["times"]) for line in found] == [
        ("reference", "no", 1),
        ("alert", "without the last of its reasons", 1),
        ("reference", "no", 2),
    ]
    assert found[0]["bytes"] > found[0]["most_bytes"] > 1_000_000
    assert "max.message.bytes" in found[0]["remedy"]
    assert "fewer columns" in found[0]["remedy"]


def test_a_topic_that_takes_more_gets_more(place):
    raised = ConfigEntry("max.message.bytes", str(1 << 25), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, place.topics.reports, incremental_configs=[raised])
    admin = AdminClient({"bootstrap.servers": place.pipeline.bootstrap})
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(30)
    large = Told("reference", "a", version="1", document={"text": "x" * 20_000_000})
    assert place.publisher().publish([large, state("a", 1)]) == 0
    assert numbers(place.memory()) == [("reference", "a", "1"), ("state", "a", 1)]
