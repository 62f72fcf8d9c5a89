"""The yardstick: what a good engineer writes by hand in an afternoon.

One thread, one consumer, one producer, msgspec, numpy, ONNX Runtime, a batch of at most 512. Exactly once: one
transaction every 100 ms, flushed before the offsets are sent; at least once: flush, then commit offsets. No metrics, no
dead letters, no recovery, no rebalance handling: an exception ends it. Events are JSON or MessagePack with an id and a
vector, or the packed float32 of the vector alone, whose id is its place in the topic.

    python -m benchmarks.handwritten --format json --guarantee exactly_once --bootstrap … --topic … --output … --model …
"""

from __future__ import annotations

import argparse
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
import onnxruntime
from confluent_kafka import Consumer, Message, Producer, TopicPartition

BATCH = 512
COMMIT_S = 0.1


class Event(msgspec.Struct):
    id: str
    x: list[float]


class Prediction(msgspec.Struct):
    id: str
    model: str
    version: str
    outputs: dict[str, Any]
    event_time: int
    source: dict[str, Any]


def typed(decode: Callable[[bytes], Event]) -> Callable[[Sequence[Message]], tuple[list[str], np.ndarray]]:
    """Reads messages with a typed decoder: their ids and vectors."""

    def read(messages: Sequence[Message]) -> tuple[list[str], np.ndarray]:
        events = [decode(message.value()) for message in messages]
        return [event.id for event in events], np.array([event.x for event in events], dtype=np.float32)

    return read


def packed(messages: Sequence[Message]) -> tuple[list[str], np.ndarray]:
    """Reads messages that are float32 vectors and nothing else."""
    ids = [f"{message.topic()}-{message.partition()}-{message.offset()}" for message in messages]
    joined = b"".join([message.value() for message in messages])
    return ids, np.frombuffer(joined, dtype="<f4").reshape(len(messages), -1)


READERS = {
    "json": typed(msgspec.json.Decoder(Event).decode),
    "msgpack": typed(msgspec.msgpack.Decoder(Event).decode),
    "raw": packed,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--format", choices=list(READERS), default="json")
    for name in ("guarantee", "bootstrap", "topic", "output", "model", "group"):
        parser.add_argument(f"--{name}", required=True)
    options = parser.parse_args()
    running = True

    def stop(*_: object) -> None:
        nonlocal running
        running = False

    signal.signal(signal.SIGTERM, stop)
    session_options = onnxruntime.SessionOptions()
    session_options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(options.model, session_options, providers=["CPUExecutionProvider"])
    feature, output = session.get_inputs()[0].name, session.get_outputs()[0].name
    consumer = Consumer(
        {
            "bootstrap.servers": options.bootstrap,
            "group.id": options.group,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "fetch.queue.backoff.ms": 5,  # a full fetch queue would stop it for a second: half of its throughput
            "partition.assignment.strategy": "cooperative-sticky",
        }
    )
    transactional = options.guarantee == "exactly_once"
    producer = Producer(
        {
            "bootstrap.servers": options.bootstrap,
            "linger.ms": 5,
            "compression.type": "lz4",
            "enable.idempotence": True,
            "delivery.report.only.error": True,
            "queue.buffering.max.messages": 1_000_000,
            **({"transactional.id": options.group} if transactional else {}),
        }
    )
    if transactional:
        producer.init_transactions(30)
    consumer.subscribe([options.topic])
    read = READERS[options.format]
    encode = msgspec.json.Encoder().encode
    positions: dict[tuple[str, int], int] = {}
    opened_s = 0.0
    while running or positions:
        messages = consumer.consume(BATCH, 0)
        if not messages:
            first = consumer.poll(0.005)
            messages = [first] if first is not None else []
        if messages:
            ids, x = read(messages)
            scores = session.run([output], {feature: x})[0].tolist()
            if not positions:
                opened_s = time.monotonic()
                if transactional:
                    producer.begin_transaction()
            for message, name, score in zip(messages, ids, scores, strict=True):
                topic, partition, offset = message.topic(), message.partition(), message.offset()
                value = encode(
                    Prediction(
                        id=name,
                        model="m",
                        version="1",
                        outputs={output: score[0] if len(score) == 1 else score},
                        event_time=message.timestamp()[1],
                        source={"topic": topic, "partition": partition, "offset": offset},
                    )
                )
                producer.produce(options.output, value, message.key(), partition)
                positions[topic, partition] = offset + 1
        if positions and (time.monotonic() - opened_s >= COMMIT_S or not running):
            offsets = [TopicPartition(topic, partition, offset) for (topic, partition), offset in positions.items()]
            producer.flush()
            if transactional:
                producer.send_offsets_to_transaction(offsets, consumer.consumer_group_metadata())
                producer.commit_transaction()
            else:
                consumer.commit(offsets=offsets, asynchronous=False)
            positions = {}
    consumer.close()


if __name__ == "__main__":
    main()
