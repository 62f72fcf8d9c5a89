"""The contract of the rollout topic's reader and writer: in memory and on a real broker."""

from __future__ import annotations

import contextlib
import threading
import time

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from streamserve.batch import OutboundBatch
from streamserve.errors import BrokerUnavailable, ContractError, SourceError
from streamserve.kafka import rollout_topic
from streamserve.kafka.rollout_topic import RolloutReader, RolloutWriter
from streamserve.rollout.log import RolloutLog
from streamserve.rollout.records import (
    Acknowledgement,
    Canary,
    Promote,
    RecordError,
    SwitchPoint,
    acknowledgement_key,
    encode,
    new_id,
)
from streamserve.testing import MemoryBroker, memory_settings
from streamserve.testing.rollout import MemoryRolloutReader, MemoryRolloutWriter
from tests.services import create_topic, settled, unique

COMPACTED = {"cleanup.policy": "compact"}
POINT = SwitchPoint(topic="events", partition=0, offset=7, revision=0)


class InMemory:
    def __init__(self):
        self.broker = MemoryBroker()
        self.topic = "control"
        self.broker.create_topic("control")

    def reader(self, topic=None):
        return MemoryRolloutReader(self.broker, topic or self.topic)

    def writer(self, topic=None, timeout_s=30):
        return MemoryRolloutWriter(self.broker, topic or self.topic)

    def create(self, partitions=1):
        self.broker.create_topic("other", partitions)
        return "other"

    @contextlib.contextmanager
    def outage(self):
        self.broker.down = True
        yield
        self.broker.down = False

    @contextlib.contextmanager
    def transaction(self, record, *, commit):
        """A record in a transaction that is open during the block."""
        key, value = encode(record)
        epoch = self.broker.initialise("t")
        yield
        if commit:
            batch = OutboundBatch(topic=self.topic, row=[0], partition=[0], key=[key], value=[value])
            self.broker.commit_transaction("t", epoch, [batch], {}, self.broker.generation)


class OnKafka:
    def __init__(self, kafka):
        self.kafka = kafka
        self.pipeline = unique("p")
        self.topic = create_topic(kafka.bootstrap, f"{self.pipeline}.rollout", 1, COMPACTED)

    def settings(self, topic=None):
        properties = {"bootstrap.servers": self.kafka.bootstrap}
        return memory_settings([{"name": "x"}], pipeline=self.pipeline, kafka=properties, rollout={"topic": topic})

    def reader(self, topic=None):
        return RolloutReader(self.settings(topic))

    def writer(self, topic=None, timeout_s=30):
        return RolloutWriter(self.settings(topic), timeout_s=timeout_s)

    def create(self, partitions=1):
        return create_topic(self.kafka.bootstrap, unique("other"), partitions, COMPACTED)

    @contextlib.contextmanager
    def outage(self):
        if self.kafka.local is None:
            pytest.skip("the broker is not ours to pause")
        broker = self.kafka.local.brokers[0]
        broker.pause()
        try:
            yield
        finally:
            broker.resume()

    @contextlib.contextmanager
    def transaction(self, record, *, commit):
        key, value = encode(record)
        producer = Producer({"bootstrap.servers": self.kafka.bootstrap, "transactional.id": unique("t")})
        producer.init_transactions(30)
        producer.begin_transaction()
        producer.produce(self.topic, value, key, partition=0)
        producer.flush(30)
        yield
        (producer.commit_transaction if commit else producer.abort_transaction)(30)
        settled(self.kafka.bootstrap, self.topic)


@pytest.fixture(params=["memory", "kafka"])
def at(request):
    return InMemory() if request.param == "memory" else OnKafka(request.getfixturevalue("kafka"))


def promote(version="1", **more):
    return Promote(id=new_id(), version=version, **more)


def folded(entries):
    log = RolloutLog()
    for entry in entries:
        log.add(*entry)
    return log


def polled(reader, count, timeout_s=20):
    """What comes until there are so many, and nothing after that."""
    found, deadline = [], time.monotonic() + timeout_s
    while len(found) < count and time.monotonic() < deadline:
        found += reader.poll(0.2)
    return found + reader.poll(0.2)


def test_what_was_written_is_read_in_order_with_the_offsets_that_the_writer_was_told(at):
    with at.writer() as writer, at.reader() as reader:
        records = [promote(str(version)) for version in range(1, 6)]
        offsets = [writer.publish(record) for record in records]
        entries = reader.read_to_end(20)
    assert offsets == sorted(set(offsets))
    assert [entry.offset for entry in entries] == offsets
    assert [(entry.key, entry.value) for entry in entries] == [encode(record) for record in records]


def test_an_empty_topic_is_read_to_its_end_at_once(at):
    with at.reader() as reader:
        assert reader.read_to_end(20) == []
        assert reader.poll(0) == []


def test_reading_goes_on_where_it_was(at):
    with at.writer() as writer, at.reader() as reader:
        first = writer.publish(promote("1"))
        assert [entry.offset for entry in reader.read_to_end(20)] == [first]
        second = writer.publish(promote("2"))
        assert [entry.offset for entry in polled(reader, 1)] == [second]
        third = writer.publish(promote("3"))
        assert [entry.offset for entry in reader.read_to_end(20)] == [third]
        assert reader.read_to_end(20) == []


def test_a_reader_that_waits_gets_what_is_written_meanwhile(at):
    with at.reader() as reader, at.writer() as writer:
        reader.read_to_end(20)
        thread = threading.Timer(0.3, writer.publish, [promote("1")])
        thread.start()
        found = polled(reader, 1)
        thread.join()
    assert folded(found).state.stable == "1"


def test_every_reader_reads_everything(at):
    with at.writer() as writer, at.reader() as one, at.reader() as other:
        writer.publish(promote("1"))
        assert one.read_to_end(20) == other.read_to_end(20) != []


def test_a_tombstone_takes_the_acknowledgement_of_a_slot_away(at):
    with at.writer() as writer, at.reader() as reader:
        writer.publish(Acknowledgement(slot="host-0", revision=0, serving=0))
        writer.publish(Acknowledgement(slot="host-1", revision=0, serving=0))
        offset = writer.tombstone("host-0")
        entries = reader.read_to_end(20)
    assert entries[-1] == (offset, acknowledgement_key("host-0"), None)
    assert list(folded(entries).acknowledgements) == ["host-1"]


def test_a_record_of_an_open_transaction_is_not_read_and_nothing_behind_it_is_missed(at):
    with at.writer() as writer, at.reader() as reader:
        writer.publish(promote("1"))
        with at.transaction(POINT, commit=True):
            assert folded(reader.read_to_end(20)).switches == {}
        found = polled(reader, 1)
        assert folded(found).revision_at("events", 0, 7) == 0
        later = writer.publish(promote("2"))
        assert [entry.offset for entry in reader.read_to_end(20)] == [later]


def test_a_record_of_an_aborted_transaction_is_never_read(at):
    with at.writer() as writer, at.reader() as reader:
        with at.transaction(POINT, commit=False):
            pass
        assert reader.read_to_end(20) == []  # though on Kafka there are offsets before the end
        offset = writer.publish(promote("2"))
        assert [entry.offset for entry in reader.read_to_end(20)] == [offset]


def test_while_the_brokers_are_away_a_poll_finds_nothing_and_later_everything(at):
    with at.writer() as writer, at.writer(timeout_s=1) as hasty, at.reader() as reader:
        writer.publish(promote("1"))
        assert len(reader.read_to_end(20)) == 1
        with at.outage():
            assert reader.poll(0.5) == []
            with pytest.raises(BrokerUnavailable):
                reader.read_to_end(1)
            with pytest.raises(BrokerUnavailable):
                hasty.publish(promote("2"))
        third = writer.publish(promote("3"))
        # The second may have been written all the same: its request waited in the broker's socket.
        assert third in [entry.offset for entry in reader.read_to_end(30)]


def test_a_writer_goes_on_after_an_outage(at):
    with at.writer(timeout_s=1) as writer, at.reader() as reader:
        with at.outage(), pytest.raises(BrokerUnavailable):
            writer.publish(promote("2"))
        for _attempt in range(20):  # the first ones may find the broker still busy with coming back
            with contextlib.suppress(BrokerUnavailable):
                last = writer.publish(promote("3"))
                break
        assert last in [entry.offset for entry in reader.read_to_end(20)]


def test_a_topic_that_is_missing_is_named(at):
    for client in (at.reader("missing"), at.writer("missing")):
        with pytest.raises(ContractError, match="missing"), client:
            pass


def test_a_topic_with_two_partitions_has_no_order_and_is_refused(at):
    with pytest.raises(ContractError, match="has 2 partitions"), at.reader(at.create(2)):
        pass


def test_a_record_that_no_reader_would_take_is_not_written(at):
    with at.writer() as writer, at.reader() as reader:
        with pytest.raises(RecordError, match="weight"):
            writer.publish(Canary(id=new_id(), version="2", weight=7.0))
        assert reader.read_to_end(20) == []


@pytest.mark.parametrize("policy", ["delete", "compact,delete"])
def test_a_topic_that_would_forget_its_commands_is_refused(kafka, policy):
    topic = create_topic(kafka.bootstrap, unique("control"), 1, {"cleanup.policy": policy})
    with pytest.raises(ContractError, match=r"cleanup\.policy=.*streamserve topics apply"):
        OnKafka(kafka).reader(topic).open()


def test_where_no_broker_answers_both_say_so(monkeypatch):
    monkeypatch.setattr(rollout_topic, "ANSWER_TIMEOUT_S", 0.5)
    settings = memory_settings([{"name": "x"}], kafka={"bootstrap.servers": "127.0.0.1:1"}, rollout={})
    for client in (RolloutReader(settings), RolloutWriter(settings)):
        with pytest.raises(BrokerUnavailable, match=r"kafka\.bootstrap\.servers"):
            client.open()


def test_a_topic_that_was_made_again_is_not_taken_for_the_old_one(kafka):
    at = OnKafka(kafka)
    with at.writer() as writer, at.reader() as reader:
        for version in ("1", "2", "3"):
            writer.publish(promote(version))
        assert len(reader.read_to_end(20)) == 3
        admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
        admin.delete_topics([at.topic])[at.topic].result(30)
        _created_again(kafka.bootstrap, at.topic)
        with at.writer() as again:
            again.publish(promote("9"))
        found, deadline = "", time.monotonic() + 60
        while "made again" not in found and time.monotonic() < deadline:
            try:
                assert reader.poll(0.2) == []
            except SourceError as error:  # meanwhile the brokers may also say that there is no such topic
                found = str(error)
        assert "restart the workers" in found
        with at.writer() as again:
            for version in range(10, 16):  # it is longer now than the old one was
                again.publish(promote(str(version)))
        for _ in range(10):
            with pytest.raises(SourceError, match="made again"):
                reader.poll(0.2)
        with pytest.raises(SourceError, match="made again"):
            reader.read_to_end(20)
        with at.reader() as fresh:
            assert len(fresh.read_to_end(20)) == 7


def _created_again(bootstrap, topic):
    """The name of a deleted topic is free a moment later."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return create_topic(bootstrap, topic, 1, COMPACTED)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def test_what_compaction_leaves_gives_the_same_state(kafka):
    """On the real log cleaner: old acknowledgements go, commands stay with their offsets."""
    config = {**COMPACTED, "segment.ms": "100", "min.cleanable.dirty.ratio": "0.001", "max.compaction.lag.ms": "200"}
    topic = create_topic(kafka.bootstrap, unique("control"), 1, config)
    at = OnKafka(kafka)
    with at.writer(topic) as writer:
        for version in ("1", "2", "3"):
            revision = writer.publish(promote(version))
            for _ in range(40):
                writer.publish(Acknowledgement(slot="host-0", revision=revision, serving=revision))
            time.sleep(0.2)  # the segment is old enough to be closed
        writer.publish(promote("4"))
    before, deadline = _folded(at, topic), time.monotonic() + 60
    while (after := _folded(at, topic))[0] == before[0] and time.monotonic() < deadline:
        time.sleep(0.5)
    assert after[0] < 40  # of 124
    assert after[1:] == before[1:]


def _folded(at, topic):
    """How many records there are, and what they come to."""
    with at.reader(topic) as reader:
        entries = reader.read_to_end(20)
    log = folded(entries)
    return len(entries), log.state, log.history
