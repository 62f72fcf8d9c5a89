"""A group coordinator that is gone must not hold a commit for ever, and a commit given up must never happen."""

import io
import threading

import pytest
from confluent_kafka import KafkaError, KafkaException

from streamserve.batch import TopicPartition
from streamserve.clock import SystemClock
from streamserve.errors import SinkError
from streamserve.kafka import transactional
from streamserve.kafka.producing import PartitionCounts
from streamserve.kafka.transactional import KafkaTransaction, ProducerSlot
from streamserve.telemetry.logs import Log

POSITIONS = {TopicPartition("t", 0): 7}


class StuckProducer:
    """`send_offsets_to_transaction` waits until somebody lets go, as librdkafka does (its issues 5456 and 5511)."""

    def __init__(self):
        self.released = threading.Event()
        self.calls = []

    def send_offsets_to_transaction(self, *_):
        self.calls.append("send_offsets")
        self.released.wait(30)

    def commit_transaction(self):
        self.calls.append("commit")

    def purge(self):
        pass

    def flush(self, _timeout_s):
        return 0


@pytest.fixture
def stuck(monkeypatch):
    monkeypatch.setattr(transactional, "OFFSETS_TIMEOUT_S", 0.2)
    producer = StuckProducer()
    yield producer
    producer.released.set()


def opened(producer, released):
    slot = ProducerSlot(lambda _: {}, "p.w.0", SystemClock(), Log.open(stream=io.StringIO()))
    slot.producer = producer
    return slot, KafkaTransaction(slot, PartitionCounts(), released.append)


def test_a_commit_whose_offsets_hang_fails_retryably_and_is_not_carried_out_later(stuck):
    released = []
    slot, transaction = opened(stuck, released)
    with pytest.raises(SinkError, match="did not take the offsets") as raised:
        transaction.commit(POSITIONS, None)
    assert raised.value.retryable
    assert slot.taint == "offsets timeout"
    slot.discard()
    stuck.released.set()
    assert stuck.calls == ["send_offsets"]
    assert released == []


def test_offsets_that_are_taken_lead_to_the_commit(stuck):
    stuck.released.set()
    released = []
    slot, transaction = opened(stuck, released)
    transaction.commit(POSITIONS, None)
    transaction.commit(POSITIONS, None)
    assert stuck.calls == ["send_offsets", "commit"] * 2
    assert released == [slot, slot]


def test_an_error_of_the_offsets_call_is_mapped_as_ever(stuck, monkeypatch):
    error = KafkaException(KafkaError(KafkaError.ILLEGAL_GENERATION, "gone", False, False, True))

    def fails(*_):
        raise error

    monkeypatch.setattr(stuck, "send_offsets_to_transaction", fails)
    _, transaction = opened(stuck, [])
    with pytest.raises(SinkError, match="ILLEGAL_GENERATION") as raised:
        transaction.commit(POSITIONS, None)
    assert raised.value.retryable
    assert stuck.calls == []
