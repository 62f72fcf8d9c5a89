"""How large a record may be: what its topic takes, and what our producer does."""

from __future__ import annotations

import pytest

from streamserve.errors import ContractError
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


def test_a_missing_samples_topic_is_told_like_any_other(embedded_kafka):
    for topic in ("events", "predictions", "dead"):
        embedded_kafka.create_topic(topic, 1)
    settings = memory_settings([{"name": "x"}], kafka={"bootstrap.servers": embedded_kafka.bootstrap}, drift={})
    hint = "create it with `streamserve topics apply`, or mend input.topics, .* or drift.samples_topic"
    with pytest.raises(ContractError, match=rf"topic memory.samples does not exist; {hint}"):
        topic_facts(settings)


def test_the_samples_topic_has_partitions_and_a_limit(embedded_kafka):
    for topic, partitions in (("events", 1), ("predictions", 1), ("dead", 1), ("memory.samples", 3)):
        embedded_kafka.create_topic(topic, partitions)
    settings = memory_settings([{"name": "x"}], kafka={"bootstrap.servers": embedded_kafka.bootstrap}, drift={})
    facts = topic_facts(settings)
    assert facts.partitions["memory.samples"] == 3
    assert facts.max_bytes["memory.samples"] == DEFAULT_MAX_MESSAGE_BYTES - RECORD_OVERHEAD_BYTES


def test_with_rollouts_their_topics_must_be_there_and_have_limits(embedded_kafka):
    for topic in ("events", "predictions", "dead"):
        embedded_kafka.create_topic(topic, 1)
    settings = memory_settings([{"name": "x"}], kafka={"bootstrap.servers": embedded_kafka.bootstrap}, rollout={})
    missing = r"topic memory\.rollout, memory\.shadow does not exist; .* or the names in the rollout block"
    with pytest.raises(ContractError, match=missing):
        topic_facts(settings)
    embedded_kafka.create_topic("memory.rollout", 1)
    embedded_kafka.create_topic("memory.shadow", 2)
    facts = topic_facts(settings)
    assert (facts.partitions["memory.rollout"], facts.partitions["memory.shadow"]) == (1, 2)
    assert {"memory.rollout", "memory.shadow"} <= facts.max_bytes.keys()
