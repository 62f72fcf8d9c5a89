"""Columns to `produce()` calls: the innermost loop of both sinks.

`produce()` and never `produce_batch()`: the latter drops headers, ignores the partition and loses on a full queue.
A record goes to the partition number of its input, modulo the output topic's partition count.
"""

from __future__ import annotations

import time
from typing import Any

from confluent_kafka import KafkaException

from streamserve.batch import OutboundBatch
from streamserve.errors import SinkError
from streamserve.kafka.errors import first_error, sink_error

FULL_QUEUE_TIMEOUT_S = 30.0
METADATA_TIMEOUT_S = 10.0
REFRESH_S = 30.0


class PartitionCounts:
    """Partition counts of output topics, asked for when first needed and refreshed now and then."""

    def __init__(self) -> None:
        self._counts: dict[str, tuple[int, float]] = {}

    def of(self, producer: Any, topic: str) -> int:
        """How many partitions `topic` has. Raises: SinkError when it does not exist."""
        count, until_s = self._counts.get(topic, (0, 0.0))
        now_s = time.monotonic()
        if now_s < until_s:
            return count
        try:
            found = producer.list_topics(topic, timeout=METADATA_TIMEOUT_S).topics[topic]
        except KafkaException as exception:
            if count:
                self._counts[topic] = (count, time.monotonic() + REFRESH_S)  # whoever scores waits for this
                return count
            raise sink_error(exception, f"looking up {topic}") from exception
        if found.error is not None or not found.partitions:
            raise SinkError(
                f"output topic {topic} does not exist; create it with `streamserve topics apply`", topic=topic
            )
        self._counts[topic] = (len(found.partitions), now_s + REFRESH_S)
        return len(found.partitions)


def produce_all(producer: Any, outbound: OutboundBatch, partitions: PartitionCounts) -> None:
    """Hand every record of `outbound` to the client, in order. Raises: SinkError."""
    topic = outbound.topic
    count = partitions.of(producer, topic)
    where = outbound.partition
    if where and max(where) >= count:
        where = [number % count for number in where]
    if outbound.headers or outbound.timestamp_ms:
        _produce_with_extras(producer, outbound, where)
        return
    produce = producer.produce
    rows = zip(outbound.value, outbound.key, where, strict=True)
    for value, key, partition in rows:
        try:
            produce(topic, value, key, partition)
        except BufferError:
            _produce_when_room(producer, topic, value=value, key=key, partition=partition)
        except KafkaException as exception:
            raise sink_error(exception, f"producing to {topic}") from exception


def _produce_with_extras(producer: Any, outbound: OutboundBatch, where: list[int]) -> None:
    topic, produce, n = outbound.topic, producer.produce, len(outbound)
    headers = outbound.headers or [None] * n
    stamps = [max(0, stamp) for stamp in outbound.timestamp_ms] or [0] * n  # 0: now
    rows = zip(outbound.value, outbound.key, where, headers, stamps, strict=True)
    for value, key, partition, extra, stamp in rows:
        try:
            produce(topic, value, key, partition, headers=extra, timestamp=stamp)
        except BufferError:
            _produce_when_room(
                producer, topic, value=value, key=key, partition=partition, headers=extra, timestamp=stamp
            )
        except KafkaException as exception:
            raise sink_error(exception, f"producing to {topic}") from exception


def _produce_when_room(producer: Any, topic: str, **arguments: Any) -> None:
    """The client's queue is full: serve it until the same record fits."""
    until_s = time.monotonic() + FULL_QUEUE_TIMEOUT_S
    while True:
        producer.poll(0.05)
        try:
            producer.produce(topic, **arguments)
        except BufferError:
            if time.monotonic() > until_s:
                raise SinkError(
                    f"the producer's queue stayed full for {FULL_QUEUE_TIMEOUT_S:.0f} s; are the brokers reachable?",
                    retryable=True,
                    topic=topic,
                ) from None
        except KafkaException as exception:
            raise sink_error(exception, f"producing to {topic}: {first_error(exception).str()}") from exception
        else:
            return
