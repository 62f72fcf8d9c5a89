"""The contract of the source port, in memory and on a real broker with both group protocols."""

from __future__ import annotations

import io
import threading
import time

import orjson
import pytest
from confluent_kafka import TopicPartition as ClientPartition
from confluent_kafka.admin import AdminClient, NewPartitions

from streamserve.batch import TopicPartition
from streamserve.clock import SystemClock
from streamserve.errors import BrokerUnavailable, ContractError, SourceError
from streamserve.kafka import source as kafka_source
from streamserve.kafka.source import KafkaSource
from streamserve.pipeline.assignment import Assignment
from streamserve.telemetry.logs import Log
from streamserve.testing import MemoryBroker, MemorySource, memory_settings
from tests.pipelines import free_port
from tests.services import create_topic, produce, unique

TIMEOUT_S = 30


class Listener:
    """Remembers what it was told, and by which thread."""

    def __init__(self):
        self.told: list[tuple[str, set[TopicPartition]]] = []
        self.threads = set()
        self.on_revoke = lambda _partitions: None

    def on_assigned(self, partitions):
        self._note("assigned", partitions)

    def on_revoked(self, partitions):
        self.on_revoke(partitions)
        self._note("revoked", partitions)

    def on_lost(self, partitions):
        self._note("lost", partitions)

    def _note(self, what, partitions):
        self.threads.add(threading.current_thread())
        self.told.append((what, set(partitions)))

    def of(self, what):
        return set().union(*(partitions for kind, partitions in self.told if kind == what))


class Member:
    """A source with its assignment, listener and log."""

    def __init__(self, build):
        self.listener = Listener()
        self.assignment = Assignment(SystemClock())
        self.lines = io.StringIO()
        self.early: list[tuple[int, int]] = []
        self.source = build(self.assignment, Log.open(stream=self.lines, format="json"))

    def open(self):
        self.source.open(self.listener)
        return self

    def poll(self, count, max_records=500, timeout_s=TIMEOUT_S):
        """Records until there are `count`, as (partition, offset)."""
        found, deadline = self.early, time.monotonic() + timeout_s
        self.early = []
        while len(found) < count:
            assert time.monotonic() < deadline, f"{len(found)} of {count} records came"
            batch = self.source.poll(max_records, 0.1)
            if batch is not None:
                assert len(batch) <= max_records
                found += zip(batch.partition, batch.offset, strict=True)
        return found

    def poll_until(self, condition):
        deadline = time.monotonic() + TIMEOUT_S
        while not condition():
            assert time.monotonic() < deadline, "the condition never came to be"
            batch = self.source.poll(500, 0.1)
            if batch is not None:
                self.early += zip(batch.partition, batch.offset, strict=True)

    def events(self, name):
        return [line for line in map(orjson.loads, self.lines.getvalue().splitlines()) if line["event"] == name]


class InMemory:
    def __init__(self):
        self.broker = MemoryBroker()
        self.members = []
        self.topic = "events"

    def create(self, partitions):
        self.broker.create_topic(self.topic, partitions)

    add_partitions = create

    def produce(self, *records):
        for record in records:
            self.broker.produce(self.topic, **{"value": b"v", **record})

    def delete_before(self, partition, offset):
        self.broker.delete_before(TopicPartition(self.topic, partition), offset)

    def member(self, *, topic=None, start="beginning", reachable=True):
        self.broker.down = not reachable
        topics, clock, first = [topic or self.topic], SystemClock(), not self.members
        member = Member(
            lambda assignment, log: MemorySource(
                self.broker, topics, assignment, clock, log, start=start, everything=first
            )
        )
        self.members.append(member)
        return member

    def share(self, first, second):
        moved = TopicPartition(self.topic, 1)
        first.source.revoke(moved)
        first.poll_until(lambda: not first.source.rebalancing)
        second.source.assign(moved)
        second.poll_until(lambda: second.assignment.epochs)

    def put_out(self, member):
        owned = list(member.assignment.epochs)
        self.broker.rebalanced()
        member.source.lose(*owned)
        member.source.assign(*owned)

    def close(self):
        for member in self.members:
            member.source.close()


class OnKafka:
    def __init__(self, bootstrap, protocol):
        self.bootstrap = bootstrap
        self.protocol = protocol
        self.topic = unique("events")
        self.group = unique("group")
        self.members = []

    def create(self, partitions):
        create_topic(self.bootstrap, self.topic, partitions)

    def add_partitions(self, partitions):
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        admin.create_partitions([NewPartitions(self.topic, partitions)])[self.topic].result(TIMEOUT_S)

    def produce(self, *records):
        fields = [{"value": b"v", "partition": 0, **record} for record in records]
        for record in fields:
            if "timestamp_ms" in record:
                record["timestamp"] = record.pop("timestamp_ms")
        produce(self.bootstrap, self.topic, fields)

    def delete_before(self, partition, offset):
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        asked = ClientPartition(self.topic, partition, offset)
        next(iter(admin.delete_records([asked]).values())).result(TIMEOUT_S)

    def member(self, *, topic=None, start="beginning", reachable=True):
        properties = {
            "bootstrap.servers": self.bootstrap if reachable else f"127.0.0.1:{free_port()}",
            "topic.metadata.refresh.interval.ms": 500,
            "max.poll.interval.ms": 2000,
        }
        properties |= (
            {"group.protocol": "consumer"}
            if self.protocol == "consumer"
            else {"session.timeout.ms": 2000, "heartbeat.interval.ms": 200}
        )
        settings = memory_settings(
            [{"name": "x"}],
            pipeline=self.group,
            kafka=properties,
            input={"topics": [topic or self.topic], "start": start},
        )
        member = Member(lambda assignment, log: KafkaSource(settings, assignment, SystemClock(), log))
        self.members.append(member)
        return member

    def share(self, first, second):
        deadline = time.monotonic() + TIMEOUT_S
        while not (len(first.assignment.epochs) == len(second.assignment.epochs) == 1):
            assert time.monotonic() < deadline
            first.source.poll(500, 0.05)
            second.source.poll(1, 0.05)

    def put_out(self, member):
        """Not polled for max.poll.interval.ms: the group puts it out."""

    def close(self):
        for member in self.members:
            member.source.close()


@pytest.fixture(params=["memory", "classic", "consumer"])
def rig(request):
    built = (
        InMemory() if request.param == "memory" else OnKafka(request.getfixturevalue("kafka").bootstrap, request.param)
    )
    yield built
    built.close()


def spread(count, partitions):
    return [{"partition": n % partitions, "key": b"%d" % n} for n in range(count)]


@pytest.fixture
def two(rig):
    """A member that owns two partitions of 20 records each, and the rig."""
    rig.create(2)
    rig.produce(*spread(40, 2))
    return rig.member().open()


def test_the_order_within_a_partition_is_kept_and_a_record_comes_once(two):
    found = two.poll(40, max_records=7)
    assert len(found) == len(set(found)) == 40
    for partition in (0, 1):
        assert [offset for p, offset in found if p == partition] == list(range(20))
    assert two.source.poll(10, 0.2) is None


def test_a_poll_without_records_takes_no_longer_than_its_timeout(two):
    two.poll(40)
    for timeout_s in (0.0, 0.05, 0.3):
        started_s = time.monotonic()
        assert two.source.poll(10, timeout_s) is None
        assert time.monotonic() - started_s < timeout_s + 0.25


def test_a_poll_hands_out_no_more_than_was_asked_for(two):
    two.poll(1, max_records=1)
    two.poll(39, max_records=3)


def test_the_listener_is_told_inside_of_poll(rig):
    rig.create(2)
    member = rig.member().open()
    assert member.listener.told == []
    member.poll_until(lambda: len(member.listener.of("assigned")) == 2)
    assert member.listener.threads == {threading.current_thread()}
    assert set(member.assignment.epochs) == member.listener.of("assigned")


def test_a_batch_carries_the_epochs_and_the_positions_of_its_poll(two, rig):
    batch = None
    while batch is None:
        batch = two.source.poll(5, 1)
    assert batch.epochs is two.assignment.epochs
    found = list(zip(batch.partition, batch.offset, strict=True))
    assert batch.next_positions() == {
        TopicPartition(rig.topic, p): max(o for q, o in found if q == p) + 1 for p in set(batch.partition)
    }
    assert two.assignment.in_flight()


def test_columns_are_what_was_produced(rig):
    rig.create(1)
    rig.produce(
        {"key": b"k", "value": b"v1", "timestamp_ms": 1_600_000_000_000, "headers": [("a", b"1"), ("a", None)]},
        {"key": None, "value": None, "timestamp_ms": 1_600_000_000_001},
        {"key": b"", "value": b""},
    )
    member = rig.member().open()
    columns = {"key": [], "value": [], "timestamp_ms": [], "headers": []}
    while len(columns["key"]) < 3:
        batch = member.source.poll(10, 1)
        if batch is not None:
            for name in ("key", "value", "timestamp_ms"):
                columns[name] += getattr(batch, name)
            columns["headers"] += batch.headers() or [None] * len(batch)
            assert set(batch.topic) == {rig.topic}
    assert columns["key"][:2] == [b"k", None]
    assert columns["value"] == [b"v1", None, b""]
    assert columns["timestamp_ms"][:2] == [1_600_000_000_000, 1_600_000_000_001]
    assert columns["headers"][0] == [("a", b"1"), ("a", None)]
    assert not columns["headers"][1]


def test_without_headers_the_header_column_is_empty(two):
    batch = None
    while batch is None:
        batch = two.source.poll(5, 1)
    assert batch.headers() == []


def test_a_rewind_gives_new_epochs_and_goes_back_to_the_committed_positions(two, rig):
    first = two.poll(40)
    epochs = two.assignment.epochs
    done = {TopicPartition(rig.topic, 0): 12}
    two.source.commit(done)
    two.assignment.committed(done, epochs)
    two.source.rewind(reread=False)
    assert two.assignment.stale(dict.fromkeys(epochs, 0), epochs) == set(epochs)
    again = two.poll(28)
    assert sorted(again) == sorted(record for record in first if record[0] == 1 or record[1] >= 12)
    assert two.source.poll(10, 0.2) is None


def test_a_rewind_before_any_commit_goes_back_to_the_first_record(two):
    first = two.poll(40)
    two.source.rewind(reread=True)
    assert sorted(two.poll(40)) == sorted(first)


def test_a_rewind_in_the_middle_repeats_nothing_that_was_not_handed_out(two):
    two.poll(5, max_records=5)
    two.source.rewind(reread=False)
    again = two.poll(40, max_records=5)
    assert len(set(again)) == 40
    assert two.source.poll(10, 0.2) is None


def test_a_rewind_asks_the_group_when_the_outcome_of_a_commit_is_not_known(two, rig):
    two.poll(40)
    two.source.commit({TopicPartition(rig.topic, 0): 15})  # and the answer got lost
    two.source.rewind(reread=True)
    again = two.poll(25)
    assert min(offset for partition, offset in again if partition == 0) == 15
    assert two.assignment.position(TopicPartition(rig.topic, 0)) == 15
    assert two.source.poll(10, 0.2) is None


def test_a_rewind_ends_a_pause(two):
    two.poll(40)
    two.source.pause()
    two.source.rewind(reread=False)
    assert len(two.poll(40)) == 40


def test_after_a_restart_it_goes_on_at_the_committed_positions(two, rig):
    two.poll(40)
    two.source.commit({TopicPartition(rig.topic, 0): 18, TopicPartition(rig.topic, 1): 20})
    two.source.close()
    rig.members.clear()
    rig.produce({"partition": 1})
    assert sorted(rig.member().open().poll(3)) == [(0, 18), (0, 19), (1, 20)]


def test_paused_it_hands_out_nothing_and_resumed_everything(two, rig):
    two.poll(2, max_records=1)
    while len(two.assignment.positions()) < 2:  # a partition is paused once it has delivered
        two.source.poll(1, 0.2)
    done = sum(two.assignment._delivered.values())
    two.source.pause()
    two.source.pause()
    rig.produce(*spread(4, 2))
    for _ in range(5):
        assert two.source.poll(100, 0.1) is None
    two.source.resume()
    two.source.resume()
    rest = two.poll(44 - done)
    assert len(set(rest)) == 44 - done
    assert two.source.poll(10, 0.2) is None


def test_resuming_what_was_not_paused_changes_nothing(two):
    two.poll_until(lambda: two.assignment.epochs)
    two.source.resume()
    two.source.rewind(reread=False)
    assert len(set(two.poll(40))) == 40


def test_a_missing_topic_is_a_contract_error(rig):
    rig.create(1)
    with pytest.raises(ContractError) as caught:
        rig.member(topic="nowhere.to-be-found").open()
    assert caught.value.topic == "nowhere.to-be-found"


def test_an_unreachable_broker_is_told(rig, monkeypatch):
    monkeypatch.setattr(kafka_source, "REQUEST_TIMEOUT_S", 0.5)
    rig.create(1)
    with pytest.raises(BrokerUnavailable):
        rig.member(reachable=False).open()


def test_an_offset_out_of_range_is_an_alarm_with_the_exact_number_skipped(two, rig):
    two.poll(40)
    two.source.commit({TopicPartition(rig.topic, 0): 3, TopicPartition(rig.topic, 1): 20})
    two.source.close()
    rig.members.clear()
    rig.delete_before(0, 11)
    member = rig.member().open()
    assert sorted(member.poll(9)) == [(0, offset) for offset in range(11, 20)]
    (alarm,) = member.events("offset_out_of_range")
    assert (alarm["level"], alarm["partition"], alarm["committed"], alarm["skipped"]) == ("error", 0, 3, 8)


def test_a_rewind_after_an_alarm_stays_within_what_there_is(two, rig):
    two.poll(40)
    two.source.commit({TopicPartition(rig.topic, 0): 3, TopicPartition(rig.topic, 1): 20})
    two.source.close()
    rig.members.clear()
    rig.delete_before(0, 11)
    member = rig.member().open()
    member.poll(9)
    member.source.rewind(reread=True)
    assert sorted(member.poll(9)) == [(0, offset) for offset in range(11, 20)]
    assert len(member.events("offset_out_of_range")) == 1


def test_it_starts_at_the_beginning_when_the_group_has_no_position(rig):
    rig.create(1)
    rig.produce({}, {}, {})
    rig.delete_before(0, 1)
    assert rig.member(start="beginning").open().poll(2) == [(0, 1), (0, 2)]


def test_it_starts_at_the_end_when_told_so(rig):
    rig.create(1)
    rig.produce({}, {}, {})
    member = rig.member(start="end").open()
    member.poll_until(lambda: member.assignment.epochs and member.source.poll(1, 0.5) is None)
    rig.produce({}, {})
    assert member.poll(2) == [(0, 3), (0, 4)]


def test_it_starts_at_a_time(rig):
    rig.create(1)
    rig.produce(*({"timestamp_ms": 1_600_000_000_000 + 1000 * n} for n in range(5)))
    member = rig.member(start="1600000001500").open()
    assert member.poll(3) == [(0, 2), (0, 3), (0, 4)]


def test_partitions_that_were_added_are_read_from_their_beginning(rig):
    rig.create(1)
    rig.produce({})
    member = rig.member().open()
    assert member.poll(1) == [(0, 0)]
    rig.add_partitions(3)
    rig.produce({"partition": 1}, {"partition": 2}, {"partition": 2})
    assert sorted(member.poll(3)) == [(1, 0), (2, 0), (2, 1)]
    assert len(member.assignment.epochs) == 3


def test_a_revoke_comes_while_the_positions_can_still_be_committed(two, rig):
    two.poll(40)

    def commit(partitions):
        two.source.commit(dict.fromkeys(partitions, 20))

    two.listener.on_revoke = commit
    other = rig.member().open()
    rig.share(two, other)
    two.listener.on_revoke = lambda _partitions: None
    (moved,) = other.assignment.epochs
    assert moved in two.listener.of("revoked")
    assert moved not in two.assignment.epochs
    rig.produce({"partition": moved.partition})
    assert other.poll(1) == [(moved.partition, 20)]


def test_partitions_that_stay_keep_their_epoch(two, rig):
    two.poll(40)
    before = dict(two.assignment.epochs)
    other = rig.member().open()
    rig.share(two, other)
    ((stays, epoch),) = two.assignment.epochs.items()
    assert epoch == before[stays]
    assert two.assignment.in_flight([stays])


def test_a_member_that_was_put_out_cannot_commit_and_learns_what_it_lost(two, rig):
    first = two.poll(40)
    epochs, done = two.assignment.epochs, {TopicPartition(rig.topic, 0): 20, TopicPartition(rig.topic, 1): 1}
    two.source.commit(done)
    rig.put_out(two)
    with pytest.raises(SourceError) as refused:  # noqa: PT012
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            two.source.commit(done)
            time.sleep(0.05)
    assert refused.value.retryable
    two.poll_until(lambda: two.listener.of("lost"))
    assert two.listener.of("lost") == set(epochs)
    assert two.assignment.stale(dict.fromkeys(epochs, 0), epochs) == set(epochs)
    assert two.poll(19) == [record for record in first if record[0] == 1][1:]


def test_metadata_may_be_read_by_any_thread(two):
    two.poll(40)
    read = []
    reader = threading.Thread(target=lambda: read.append(two.source.metadata))
    reader.start()
    reader.join(10)
    assert read[0] is not None


def test_closing_gives_the_partitions_back_and_may_be_repeated(two):
    two.poll(40)
    owned = set(two.assignment.epochs)
    two.source.close()
    two.source.close()
    assert two.listener.of("revoked") == owned
    assert two.assignment.epochs == {}
    assert two.listener.threads == {threading.current_thread()}


def test_closing_what_was_never_opened_is_nothing(rig):
    rig.create(1)
    rig.member().source.close()
