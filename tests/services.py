"""What tests need around a real broker: names that never collide, topics, and plain ways to write and read.

No fixtures here (they are in conftest.py), so that fault runs and benchmarks can import it too.
"""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Record = bytes | tuple[bytes | None, bytes | None] | dict[str, object]


def unique(prefix: str) -> str:
    """A topic, group or transactional id that no other test uses."""
    return f"{prefix}.{uuid.uuid4().hex[:10]}"


def create_topic(
    bootstrap: str,
    name: str,
    partitions: int = 1,
    config: Mapping[str, str] | None = None,
    *,
    timeout_s: float = 30,
) -> str:
    """Create a topic with the cluster's replication factor, wait until it has leaders; returns its name."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    topic = NewTopic(name, num_partitions=partitions, replication_factor=-1, config=dict(config or {}))
    admin.create_topics([topic])[name].result(timeout_s)
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = admin.list_topics(timeout=timeout_s).topics.get(name)
        if found and len(found.partitions) == partitions and all(p.leader >= 0 for p in found.partitions.values()):
            return name
        time.sleep(0.02)
    raise TimeoutError(f"{name} has no leaders after {timeout_s} s")


def produce(bootstrap: str, topic: str, records: Iterable[Record], *, timeout_s: float = 30) -> list[tuple[int, int]]:
    """Write records and wait for all of them; returns (partition, offset) of each, in the order given.

    A record is a value, a (key, value) pair, or the keyword arguments of `Producer.produce`.
    """
    places: dict[int, tuple[int, int]] = {}
    failures: list[KafkaError] = []
    producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 1})
    count = 0
    for count, record in enumerate(records, start=1):
        fields = record if isinstance(record, dict) else {}
        if isinstance(record, tuple):
            fields = {"key": record[0], "value": record[1]}
        elif isinstance(record, bytes):
            fields = {"value": record}

        def delivered(error: KafkaError | None, message: Message, index: int = count) -> None:
            if error is not None:
                failures.append(error)
            else:
                places[index] = (message.partition(), message.offset())

        producer.produce(topic, on_delivery=delivered, **fields)
        producer.poll(0)
    left = producer.flush(timeout_s)
    if left or failures:
        raise AssertionError(f"{left} of {count} records not delivered to {topic}, errors: {failures[:3]}")
    return [places[index] for index in sorted(places)]


def settled(bootstrap: str, topic: str, *, timeout_s: float = 2) -> None:
    """Wait for the markers of ended transactions: the coordinator answers a commit or an abort before it writes them.

    Until then a `read_committed` reader sees nothing of the transaction, nor of what was written behind it. Bounded: a
    test may look while a transaction is open on purpose.
    """
    deadline = time.monotonic() + timeout_s
    while _ends(bootstrap, topic, "read_committed") != _ends(bootstrap, topic, "read_uncommitted"):
        if time.monotonic() > deadline:
            return
        time.sleep(0.02)


def _ends(bootstrap: str, topic: str, isolation: str) -> list[int]:
    """The end of every partition, for one isolation level."""
    reader = Consumer({"bootstrap.servers": bootstrap, "group.id": unique("ends"), "isolation.level": isolation})
    try:
        partitions = reader.list_topics(topic, timeout=10).topics[topic].partitions
        return [reader.get_watermark_offsets(TopicPartition(topic, number), timeout=10)[1] for number in partitions]
    finally:
        reader.close()


def read_all(bootstrap: str, topic: str, isolation: str = "read_committed", *, timeout_s: float = 30) -> list[Message]:
    """Every record up to the end offsets of this moment (the last stable ones for `read_committed`).

    Records of one partition come in their order.
    """
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": unique("reader"),
            "isolation.level": isolation,
            "enable.auto.commit": False,
            "enable.partition.eof": True,  # control records leave gaps: the last offset may never be delivered
            "auto.offset.reset": "error",
        }
    )
    try:
        return _read_to_end(consumer, topic, time.monotonic() + timeout_s)
    finally:
        consumer.close()


def _read_to_end(consumer: Consumer, topic: str, deadline: float) -> list[Message]:
    partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
    ends: dict[int, int] = {}
    for partition in partitions:
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=10)
        if high > low:
            ends[partition] = high
    consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in ends])
    found: list[Message] = []
    while ends:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{topic}: partitions {sorted(ends)} not read to the end, {len(found)} records so far")
        message = consumer.poll(0.2)
        if message is None or message.partition() not in ends:
            continue
        error = message.error()
        end = ends[message.partition()]
        if error is not None and error.code() != KafkaError._PARTITION_EOF:
            raise AssertionError(f"{topic}: {error}")
        if error is None and message.offset() < end:
            found.append(message)
        if error is not None or message.offset() >= end - 1:
            del ends[message.partition()]
    return found
