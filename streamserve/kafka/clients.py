"""The properties of our Kafka clients: the user's block plus what delivery depends on, each with its reason.

The user's part has passed the allow-list of `config.kafka_properties`, so nothing here is overridden by accident.
Sources of the values: docs/delivery.md, section "Client settings".
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from streamserve.config.kafka_properties import client_properties
from streamserve.config.settings import PipelineSettings

Properties = dict[str, Any]

CONSUMER_DEFAULTS: Properties = {
    "queued.min.messages": 4096,  # a few batches; the default of 100,000 is a memory bomb on wide rows
    "queued.max.messages.kbytes": 16384,
    "fetch.queue.backoff.ms": 5,  # the default stalls a small full queue for a second
    "fetch.wait.max.ms": 100,
    "topic.metadata.refresh.interval.ms": 30000,  # new partitions are found at a refresh only
    "check.crcs": True,
    "statistics.interval.ms": 2000,
}
CLASSIC_DEFAULTS: Properties = {
    "partition.assignment.strategy": "cooperative-sticky",
    "heartbeat.interval.ms": 1000,  # a member hears of a rebalance at a heartbeat: partitions on the move wait for it
}
"""Not for `group.protocol: consumer`, where the brokers say."""
CONSUMER_MANDATORY: Properties = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "isolation.level": "read_committed",  # also what makes the coordinator wait for pending offsets (KIP-447)
    "auto.offset.reset": "error",  # never a silent jump
    "allow.auto.create.topics": False,
    "enable.partition.eof": False,
}
DEFAULT_BATCH_BYTES = 1_000_000
"""librdkafka's default of `batch.size`."""
PRODUCER_DEFAULTS: Properties = {
    "linger.ms": 5,  # flush() does not wait for it
    "compression.type": "lz4",
    "partitioner": "murmur2_random",  # where the Java client puts a key
    "queue.buffering.max.messages": 1_000_000,
    "message.max.bytes": 16_777_216,  # the topics' own limits are asked for and kept (kafka.facts)
    "retry.backoff.ms": 10,  # CONCURRENT_TRANSACTIONS waits this long
    "retry.backoff.max.ms": 250,
    "delivery.report.only.error": True,
    "statistics.interval.ms": 0,
    "transaction.timeout.ms": 30000,  # a hung commit dies before the member is evicted
}


def consumer_properties(settings: PipelineSettings, slot: str | None = None) -> Properties:
    """Properties of a consumer in the pipeline's group.

    Args:
        settings: the pipeline.
        slot: whose it is. The group's description has it then in the client id, where `kafka.members` finds it.
    """
    user, _, _ = client_properties(settings)
    protocol = {} if user.get("group.protocol") == "consumer" else CLASSIC_DEFAULTS
    return {
        "client.id": settings.pipeline if slot is None else client_id(settings.pipeline, slot),
        **CONSUMER_DEFAULTS,
        **protocol,
        **user,
        **CONSUMER_MANDATORY,
        "group.id": settings.pipeline,
    }


def client_id(pipeline: str, slot: str) -> str:
    """The client id of a slot's consumer. A pipeline's name has no `/`, so that the slot can be told from it."""
    return f"{pipeline}/{slot}"


def producer_properties(
    settings: PipelineSettings, *, transactional_id: str | None = None, max_batch_bytes: int | None = None
) -> Properties:
    """Properties of a producer.

    Args:
        settings: the pipeline.
        transactional_id: makes it a transactional one.
        max_batch_bytes: the smallest `max.message.bytes` of its topics. Brokers hold whole batches against it, so small
            records in a large batch would be refused as well.
    """
    _, user, _ = client_properties(settings)
    mandatory: Properties = {"enable.idempotence": True, "acks": "all"}
    if transactional_id is not None:
        mandatory["transactional.id"] = transactional_id
    if max_batch_bytes is not None:
        mandatory["batch.size"] = max(1, min(max_batch_bytes, int(user.get("batch.size", DEFAULT_BATCH_BYTES))))
    return {"client.id": settings.pipeline, **PRODUCER_DEFAULTS, **user, **mandatory}


def admin_properties(settings: PipelineSettings) -> Properties:
    """Properties of an admin client or a plain metadata request."""
    return dict(client_properties(settings)[2])


def reader_properties(settings: PipelineSettings, *, group: str) -> Properties:
    """Properties of a consumer that reads topics without joining the pipeline's group or committing."""
    user, _, _ = client_properties(settings)
    user = {key: value for key, value in user.items() if not key.startswith(("group.", "session.", "heartbeat."))}
    return {**user, **CONSUMER_MANDATORY, "enable.partition.eof": True, "group.id": group}


def with_callbacks(
    properties: Properties,
    *,
    error: Callable[[Any], None],
    logger: logging.Logger,
    stats: Callable[[str], None] | None = None,
) -> Properties:
    """The properties plus callbacks, which must not raise: an exception there hides the call's own result."""
    extra: Properties = {"error_cb": error, "logger": logger}
    if stats is not None:
        extra["stats_cb"] = stats
    return {**properties, **extra}
