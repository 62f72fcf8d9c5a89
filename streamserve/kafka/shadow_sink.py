"""A shadow's predictions on Kafka (port `worker.shadow.ShadowSink`): an idempotent producer of its own.

At least once and best effort: no transaction, nobody waits for a delivery, and a full queue takes no more. Its client
shares nothing with the worker's, so brokers that are away, or a topic that is missing, cost the shadow alone.
"""

from __future__ import annotations

from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from streamserve.batch import OutboundBatch
from streamserve.errors import SinkError
from streamserve.kafka.clients import Properties, with_callbacks
from streamserve.kafka.errors import sink_error
from streamserve.kafka.producing import PartitionCounts
from streamserve.telemetry.logs import Log

QUEUE_RECORDS = 20_000
MESSAGE_TIMEOUT_MS = 30_000
LINGER_MS = 50


def shadow_properties(properties: Properties) -> Properties:
    """The properties of a worker's producer, as a shadow needs them: a small queue, and no hurry."""
    own = {name: value for name, value in properties.items() if name != "delivery.timeout.ms"}
    return {
        **own,
        "queue.buffering.max.messages": QUEUE_RECORDS,
        "message.timeout.ms": MESSAGE_TIMEOUT_MS,
        "linger.ms": LINGER_MS,
    }


class KafkaShadowSink:
    """Produces to one topic, without waiting.

    Args:
        properties: of the producer, from `shadow_properties`.
    """

    def __init__(self, properties: Properties, log: Log) -> None:
        self._properties = properties
        self._log = log
        self._producer: Any = None
        self._partitions = PartitionCounts()
        self._lost = 0

    def open(self) -> None:
        properties = with_callbacks(
            {**self._properties, "on_delivery": self._delivered},
            error=lambda _error: None,
            logger=self._log.as_logger("kafka.shadow"),
        )
        self._producer = Producer(properties)

    def produce(self, outbound: OutboundBatch) -> int:
        if self._producer is None:
            raise SinkError("the shadow's producer is closed", topic=outbound.topic)
        self._producer.poll(0)
        topic = outbound.topic
        count = self._partitions.of(self._producer, topic)
        headers = outbound.headers or [None] * len(outbound)
        rows = zip(outbound.value, outbound.key, outbound.partition, headers, strict=True)
        for taken, (value, key, partition, extra) in enumerate(rows):
            try:
                self._producer.produce(topic, value, key, partition % count, headers=extra or [])
            except BufferError:
                return taken
            except KafkaException as exception:
                self.close(0)  # its error may be fatal for the client
                self.open()
                raise sink_error(exception, f"producing to {topic}") from exception
        return len(outbound)

    def lost(self) -> int:
        lost, self._lost = self._lost, 0
        return lost

    def close(self, timeout_s: float) -> None:
        producer, self._producer = self._producer, None
        if producer is not None and producer.flush(timeout_s):
            producer.purge()
            producer.flush(0)

    def _delivered(self, error: KafkaError | None, _message: object) -> None:
        """Only failures are reported; called within `poll` and `flush`, by the lane's thread."""
        self._lost += error is not None
