"""How large a record may be: what its topic takes, and what our producer does."""

from __future__ import annotations

import pytest

from streamserve.kafka.embedded import EmbeddedKafka
from streamserve.kafka.facts import DEFAULT_MAX_MESSAGE_BYTES, RECORD_OVERHEAD_BYTES, topic_facts
from streamserve.testing import memory_settings


@pytest.mark.parametrize(
    ("kafka", "limit"),
    [
        ({}, DEFAULT_MAX_MESSAGE_BYTES),
        ({"message.max.bytes": 2_000_000}, DEFAULT_MAX_MESSAGE_BYTES),
        ({"message.max.bytes": 300_000}, 300_000),
        ({"producer.message.max.bytes": 300_000}, 300_000),
    ],
)
def test_a_record_is_bounded_by_its_topic_and_by_our_producer(kafka, limit):
    with EmbeddedKafka() as broker:
        for topic in ("events", "predictions", "dead"):
            broker.create_topic(topic, 1)
        settings = memory_settings([{"name": "x"}], kafka={"bootstrap.servers": broker.bootstrap, **kafka})
        facts = topic_facts(settings)
    assert facts.max_bytes == dict.fromkeys(["predictions", "dead"], limit - RECORD_OVERHEAD_BYTES)
