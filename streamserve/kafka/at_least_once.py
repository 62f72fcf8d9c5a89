"""At least once: an idempotent producer, then the consumer's own offset commit (port `Sink`).

Offsets are committed only after `flush()` left nothing behind and no delivery failed. After a failure nothing can be
undone, so the worker rewinds and produces the batch again: duplicates, never loss. For brokers without transactions,
and for the lowest latency: readers see a prediction as soon as it is produced.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from streamserve.batch import OutboundBatch, Positions
from streamserve.errors import SinkError
from streamserve.kafka.clients import Properties, with_callbacks
from streamserve.kafka.errors import no_broker
from streamserve.kafka.producing import METADATA_TIMEOUT_S, PartitionCounts, produce_all
from streamserve.telemetry.logs import Log

FLUSH_TIMEOUT_S = 60.0
CLOSE_TIMEOUT_S = 5.0


class AtLeastOnceSink:
    """One producer; every "transaction" is a flush followed by an offset commit.

    Args:
        properties: of the producer.
        commit_offsets: commits positions with the consumer (on the poll thread) and raises when it could not.
    """

    def __init__(self, properties: Properties, commit_offsets: Callable[[Positions], None], log: Log) -> None:
        self._properties = properties
        self._commit_offsets = commit_offsets
        self._log = log
        self._producer: Any = None
        self._failures: list[KafkaError] = []
        self._partitions = PartitionCounts()

    def open(self) -> None:
        if self._producer is not None:
            return
        producer = self._connect()
        try:
            producer.list_topics(timeout=METADATA_TIMEOUT_S)
        except KafkaException as exception:
            raise no_broker(self._properties.get("bootstrap.servers", ""), exception) from exception

    def begin(self, timeout_s: float) -> _Delivery:  # noqa: ARG002  nothing to wait for
        return _Delivery(self)

    def recover(self) -> bool:
        """A new client: the old one may go on failing records that it was handed after it was purged."""
        self._discard()
        self._connect()
        return False

    def close(self) -> None:
        self._discard()

    def add(self, outbound: OutboundBatch) -> None:
        """Produce; the client may send at once."""
        produce_all(self._producer, outbound, self._partitions)

    def flush(self) -> None:
        """Wait for every record. Raises: SinkError, retryable, when one was not delivered."""
        remaining = self._producer.flush(FLUSH_TIMEOUT_S)
        if remaining or self._failures:
            why = self._failures[0].str() if self._failures else f"{remaining} records still queued"
            raise SinkError(f"delivery failed: {why}", retryable=True)

    def commit(self, positions: Positions) -> None:
        """Commit the offsets of what was flushed."""
        self._commit_offsets(positions)

    def _connect(self) -> Producer:
        failures: list[KafkaError] = []  # of this client alone: an old one may still report

        def delivered(error: KafkaError | None, _message: object) -> None:
            if error is not None:
                failures.append(error)

        properties = with_callbacks(
            {**self._properties, "on_delivery": delivered},
            error=lambda _error: None,
            logger=self._log.as_logger("kafka.producer"),
        )
        producer = Producer(properties)
        self._producer, self._failures = producer, failures
        return producer

    def _discard(self) -> None:
        """Let the client go in a thread of its own: closing can hang when brokers are away."""
        producer, self._producer = self._producer, None
        if producer is None:
            return

        def close() -> None:
            producer.purge()
            producer.flush(CLOSE_TIMEOUT_S)

        threading.Thread(target=close, name="producer-close", daemon=True).start()


class _Delivery:
    """Port `Transaction` over the one producer."""

    def __init__(self, sink: AtLeastOnceSink) -> None:
        self.add = sink.add
        self.flush = sink.flush
        self._sink = sink

    def commit(self, positions: Positions, metadata: object) -> None:  # noqa: ARG002  the consumer knows its group
        self._sink.commit(positions)
