"""What the group says of positions: having none, not saying, and an answer that leaves a partition out."""

import io

import pytest
from confluent_kafka import OFFSET_BEGINNING, OFFSET_INVALID, OFFSET_STORED, KafkaError, KafkaException

from streamserve.batch import TopicPartition
from streamserve.clock import SystemClock
from streamserve.errors import SourceError
from streamserve.kafka.source import KafkaSource
from streamserve.pipeline.assignment import Assignment
from streamserve.telemetry.logs import Log
from streamserve.testing import memory_settings

P0, P1 = TopicPartition("events", 0), TopicPartition("events", 1)


class Told:
    """The group's answer about a partition; the client's own type takes no error from outside."""

    def __init__(self, place, offset, error=None):
        self.topic, self.partition = place
        self.offset, self.error = offset, error and KafkaError(error)


class Message:
    """A message that says that a partition has no position."""

    def __init__(self, place):
        self._place = place

    def error(self):
        return KafkaError(KafkaError._AUTO_OFFSET_RESET)

    def topic(self):
        return self._place.topic

    def partition(self):
        return self._place.partition

    def offset(self):
        return OFFSET_INVALID


class GroupClient:
    """A consumer as far as positions go: answers as it is told, notes where partitions start and who was woken."""

    def __init__(self, answers):
        self.answers, self.questions, self.started = answers, 0, {}
        self.woken, self.answer = [], None

    def committed(self, _partitions, timeout):
        self.questions += 1
        return self.answers

    def seek(self, place):
        self.started[TopicPartition(place.topic, place.partition)] = place.offset

    def poll(self, _timeout_s):
        self.rebalance()

    def consumer_group_metadata(self):
        return None

    def pause(self, _places):
        pass

    def resume(self, _places):
        pass

    def offsets_for_times(self, places, _timeout_s):
        self.woken.append([TopicPartition(place.topic, place.partition) for place in places])
        if self.answer is not None:
            raise self.answer

    def incremental_unassign(self, _places):
        pass

    def incremental_assign(self, places):
        for place in places:
            self.seek(place)


def source(*answers):
    assignment = Assignment(SystemClock())
    assignment.assign([P0, P1])
    made = KafkaSource(memory_settings([{"name": "x"}]), assignment, SystemClock(), Log.open(stream=io.StringIO()))
    made._consumer = GroupClient(answers)
    return made


def test_a_position_that_the_group_does_not_say_is_not_the_one_we_know():
    """It may be behind: what is in doubt may be committed, and would be scored twice."""
    asked = source(Told(P0, 100), Told(P1, OFFSET_INVALID, KafkaError.UNSTABLE_OFFSET_COMMIT))
    asked._assignment.delivered({P0: 50, P1: 50}, {P0: 90, P1: 90})
    with pytest.raises(SourceError, match="events-1") as raised:
        asked.rewind(reread=True)
    assert raised.value.retryable
    assert asked._consumer.started == {}


def test_after_a_rewind_every_partition_goes_on_where_the_group_says():
    asked = source(Told(P0, 100), Told(P1, OFFSET_INVALID))
    asked._assignment.delivered({P0: 50, P1: 50}, {P0: 90, P1: 90})
    assert asked.rewind(reread=True)
    assert asked._consumer.started == {P0: 100, P1: 50}


def test_after_a_rebalance_the_brokers_of_what_stays_are_asked_something():
    """The client pauses everything in a rebalance, and nothing but an answer wakes its sleeping fetch threads."""
    asked = source()
    client = asked._consumer
    client.rebalance = lambda: asked._on_revoke(client, [P1])
    assert asked.poll(10, 0) is None
    assert client.woken == [[P0]]
    client.rebalance = lambda: asked._on_assign(client, [])  # the second half of a cooperative rebalance
    assert asked.poll(10, 0) is None
    assert client.woken == [[P0], [P0]]
    client.rebalance = lambda: None
    assert asked.poll(10, 0) is None
    assert client.woken == [[P0], [P0]]


def test_a_rebalance_that_leaves_nothing_asks_nothing():
    asked = source()
    client = asked._consumer
    client.rebalance = lambda: asked._on_lost(client, [P0, P1])
    assert asked.poll(10, 0) is None
    assert client.woken == []


def test_after_a_pause_the_brokers_are_asked_something_and_need_not_answer():
    asked = source()
    asked._assignment.delivered({P0: 50, P1: 50}, {P0: 90, P1: 90})
    asked.pause()
    asked._consumer.answer = KafkaException(KafkaError(KafkaError._TIMED_OUT))
    asked.resume()
    assert asked._consumer.woken == [[P0, P1]]
    asked.resume()
    assert asked._consumer.woken == [[P0, P1]]


def test_partitions_without_a_position_are_asked_for_together():
    asked = source(Told(P0, 7), Told(P1, OFFSET_INVALID))
    assert asked._without_errors([Message(P0), Message(P1)]) == []
    assert asked._consumer.started == {P0: 7, P1: OFFSET_BEGINNING}
    assert asked._consumer.questions == 1


def test_where_the_group_does_not_say_the_client_looks_again():
    asked = source(Told(P0, OFFSET_INVALID, KafkaError.UNSTABLE_OFFSET_COMMIT))  # and nothing of the other
    asked._without_errors([Message(P0), Message(P1)])
    assert asked._consumer.started == {P0: OFFSET_STORED, P1: OFFSET_STORED}


def test_a_partition_that_left_is_not_started():
    asked = source(Told(P0, 7))
    asked._assignment.leave([P1])
    asked._without_errors([Message(P0), Message(P1)])
    assert asked._consumer.started == {P0: 7}
