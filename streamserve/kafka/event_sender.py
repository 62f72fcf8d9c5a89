"""Sending events from outside of a pipeline: one idempotent producer, its counts, and a pace.

Keys are placed where the Java client places them (`murmur2_random`); delivery is acknowledged by all
replicas. The client's queue bounds memory: when it is full, `send` waits. Failures are counted and the
first few kept, because a broker's refusal comes long after the call that caused it.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Self

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from streamserve.errors import BrokerUnavailable, SinkError
from streamserve.kafka.clients import Properties, with_callbacks
from streamserve.kafka.errors import UNREACHABLE, first_error, sink_error
from streamserve.kafka.reading import partitions_of, silent_logger

MESSAGE_TIMEOUT_MS = 30_000
"""A person waits; the client's own default of five minutes is for services."""
KEPT_FAILURES = 3
WAIT_S = 0.05


class EventSender:
    """Produces events to one topic; a context manager that delivers what it took before it ends.

    Args:
        properties: of a producer without a transactional id (`clients.producer_properties`).
        topic: it must exist when the sender is entered.
    """

    def __init__(self, properties: Properties, topic: str) -> None:
        self.topic = topic
        self.taken = 0
        self.failed = 0
        self.failures: list[str] = []
        self.unreachable = False
        self._properties = properties
        self._producer: Any = None

    def __enter__(self) -> Self:
        # Every delivery is reported, not only failures: the count of what is under way depends on it.
        properties = {**self._properties, "delivery.report.only.error": False}
        if not {"message.timeout.ms", "delivery.timeout.ms"} & properties.keys():
            properties["message.timeout.ms"] = MESSAGE_TIMEOUT_MS
        try:
            self._producer = Producer(with_callbacks(properties, error=_ignore, logger=silent_logger()))
        except KafkaException as exception:
            raise sink_error(exception, "connecting to Kafka") from exception
        partitions_of(self._producer, self.topic)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or issubclass(kind, Exception):  # not when a second signal ends the process
            self.flush()

    @property
    def acknowledged(self) -> int:
        """Events that the brokers have for good."""
        return max(0, self.taken - self.failed - len(self._producer))

    def send(self, value: bytes, key: bytes | None = None) -> None:
        """Take one event; waits while the queue is full. Raises: SinkError when the client refuses it."""
        while True:
            try:
                self._producer.produce(self.topic, value, key, on_delivery=self._on_delivery)
            except BufferError:
                self._producer.poll(WAIT_S)
            except KafkaException as exception:
                error = first_error(exception)
                if error.code() != KafkaError.MSG_SIZE_TOO_LARGE:
                    raise sink_error(exception, f"producing to {self.topic}") from exception
                self.taken += 1
                self._note(error)
                return
            else:
                self.taken += 1
                if not self.taken & 1023:
                    self._producer.poll(0)
                return

    def serve(self, timeout_s: float) -> None:
        """Let delivery reports in, for at most so long."""
        self._producer.poll(timeout_s)

    def flush(self) -> None:
        """Wait until every event is acknowledged or failed (bounded by the message timeout)."""
        while self._producer.flush(1.0):
            pass

    def raise_if_failed(self) -> None:
        """Raises: BrokerUnavailable when failures are for want of a broker, SinkError for any others."""
        if not self.failed:
            return
        message = f"{self.failed} of {self.taken} events were not delivered to {self.topic}: {'; '.join(self.failures)}"
        raise BrokerUnavailable(message) if self.unreachable else SinkError(message, topic=self.topic)

    def _on_delivery(self, error: KafkaError | None, _: Message) -> None:
        if error is not None:
            self._note(error)

    def _note(self, error: KafkaError) -> None:
        self.failed += 1
        self.unreachable |= error.code() in UNREACHABLE or error.code() == KafkaError._MSG_TIMED_OUT  # noqa: SLF001
        text = f"{error.name()}: {error.str()}"
        if text not in self.failures and len(self.failures) < KEPT_FAILURES:
            self.failures.append(text)


class Pace:
    """Spreads events evenly: event i is due i / rate seconds after the first.

    A sender that fell behind catches up for at most a second's worth; then it goes on at the rate from there.
    """

    def __init__(self, per_s: float) -> None:
        self._step_s = 1.0 / per_s
        self._due_s: float | None = None

    def wait_s(self) -> float:
        """How long to wait before the next event; asking takes the event's turn."""
        now_s = time.monotonic()
        due_s = now_s if self._due_s is None else max(self._due_s, now_s - 1.0)
        self._due_s = due_s + self._step_s
        return max(0.0, due_s - now_s)


def _ignore(_: KafkaError) -> None:
    """Errors of connections: each event has its own result, which is what counts."""
