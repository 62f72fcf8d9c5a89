"""Leaving a group whose brokers are away: real clients, nobody at the other end."""

from __future__ import annotations

import threading

import pytest
from confluent_kafka import Consumer

from streamserve.kafka.leaving import leave_group
from tests.pipelines import free_port


@pytest.fixture
def consumer():
    return Consumer({"bootstrap.servers": f"127.0.0.1:{free_port()}", "group.id": "g", "log_level": 0})


@pytest.mark.parametrize("topics", [[], ["events"]], ids=["never subscribed", "subscribed"])
def test_it_is_closed_though_no_broker_answers(consumer, topics):
    if topics:
        consumer.subscribe(topics)
    assert leave_group(consumer)
    with pytest.raises(RuntimeError, match="closed"):
        consumer.poll(0)


def test_a_close_that_hangs_is_left_to_a_thread_of_its_own(monkeypatch, consumer):
    goes_on, closed = threading.Event(), threading.Event()

    class Hanging:
        unsubscribe, poll, assignment = consumer.unsubscribe, consumer.poll, consumer.assignment

        def close(self):
            assert goes_on.wait(20)
            consumer.close()
            closed.set()

    monkeypatch.setattr("streamserve.kafka.leaving.SHORTEST_CLOSE_S", 0.05)
    assert not leave_group(Hanging(), timeout_s=0.05)
    goes_on.set()
    assert closed.wait(20)
