"""What a partition's monitor says, published in transactions: alert, report and state together or not at all.

One transactional producer per partition of the samples topic, its id made of the pipeline and the partition. Opening
it fences every earlier owner, so that of two sidecars which both believe to own a partition only the younger one is
heard: a page goes out once. Everything lands in one partition of each topic, the samples partition's number modulo
their count, where a successor finds it in order. Nothing is retried here beyond what the client retries itself: after
an error the outcome may be unknown, and the owner starts over from the topics, which know it. What a topic does not
take is therefore not tried: a broker would refuse it again for ever.

Blocking; call it from one thread at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import orjson
from confluent_kafka import KafkaException

from streamserve.clock import Clock
from streamserve.config.drift_topics import DriftTopics
from streamserve.config.settings import PipelineSettings
from streamserve.errors import SinkError
from streamserve.kafka.clients import Properties, producer_properties
from streamserve.kafka.errors import sink_error
from streamserve.kafka.facts import RECORD_OVERHEAD_BYTES, TopicFacts
from streamserve.kafka.transactional import ProducerSlot
from streamserve.sidecar.contracts import Event
from streamserve.telemetry.logs import Log

PARTITION_HEADER = "samples-partition"
KIND_HEADER = "kind"
CHECKPOINT_HEADER = "checkpoint"
"""On the records of a checkpoint: `first` on the first of them, `more` on the others."""
TOLD_HEADER = "told-ms"
"""On the records of a checkpoint: when the record was published first, epoch milliseconds."""
MEMORY_KINDS = frozenset({"state", "reference"})
"""Kinds that a successor starts from."""
FLUSH_TIMEOUT_S = 30.0
MOST_BYTES = 1_000_000_000
"""The most that librdkafka's `message.max.bytes` may be."""

Headers = Sequence[tuple[str, bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """Where a partition's events go.

    Attributes:
        pipeline: names the transactional id.
        partition: of the samples topic.
        topics: by name.
        facts: of the topics.
    """

    pipeline: str
    partition: int
    topics: DriftTopics
    facts: TopicFacts

    @property
    def transactional_id(self) -> str:
        """The same for every owner of this partition."""
        return f"{self.pipeline}.sidecar.{self.partition}"

    def place(self, role: str) -> tuple[str, int]:
        """Topic and partition for events of a role."""
        topics = {"reports": self.topics.reports, "alerts": self.topics.alerts, "samples": self.topics.samples}
        return topics[role], self.partition % self.facts.partitions[topics[role]]


class Publisher:
    """Publishes the events of one partition.

    Args:
        settings: the pipeline.
        destination: where events go.
    """

    def __init__(self, settings: PipelineSettings, destination: Destination, clock: Clock, log: Log) -> None:
        self._settings = settings
        self._destination = destination
        self._log = log
        self._too_large: Counter[str] = Counter()
        self._slot = ProducerSlot(self._properties, destination.transactional_id, clock, log)

    def open(self) -> None:
        """Fence earlier owners and end what they left open. Raises: SinkError, BrokerUnavailable."""
        self._slot.renew()

    def publish(self, events: Iterable[Event]) -> int:
        """Publish events in one transaction, in this order per topic.

        Returns:
            How many were left out as too large for their topic.

        Raises:
            Fenced: another owner has taken over.
            SinkError: it failed; whether it was published is known to the topics only.
        """
        given = list(events)
        fitting = [(event, value) for event in given if (value := self._fit(event)) is not None]
        self._publish([(event, value, self._headers(event)) for event, value in fitting])
        return len(given) - len(fitting)

    def checkpoint(self, remembered: Iterable[tuple[Event, int]]) -> None:
        """Publish again everything that a successor starts from, each with when it was published first.

        Raises:
            Fenced, SinkError: as for `publish`.
        """
        fitting = [(event, value, told_ms) for event, told_ms in remembered if (value := self._fit(event)) is not None]
        self._publish(
            [
                (
                    event,
                    value,
                    [
                        *self._headers(event),
                        (CHECKPOINT_HEADER, b"more" if number else b"first"),
                        (TOLD_HEADER, b"%d" % told_ms),
                    ],
                )
                for number, (event, value, told_ms) in enumerate(fitting)
            ]
        )

    def close(self) -> None:
        """Let the client go; what it has open is ended by the next owner."""
        self._slot.discard()

    def _publish(self, records: Sequence[tuple[Event, bytes, Headers]]) -> None:
        if not records:
            return
        # Never a new client here, whatever the old one went through: initialising it would fence the rightful owner.
        slot = self._slot
        slot.call("begin_transaction")
        for event, value, headers in records:
            self._produce(event, value, headers)
        self._flush()
        slot.call("commit_transaction")  # fails when a record was not delivered

    def _produce(self, event: Event, value: bytes, headers: Headers) -> None:
        topic, partition = self._destination.place(event.topic_role)
        try:
            self._slot.producer.produce(topic, value, event.key, partition, headers=list(headers))
        except KafkaException as exception:
            raise sink_error(exception, f"produce {event.kind} ({self._slot.name})") from exception

    def _flush(self) -> None:
        try:
            left = self._slot.producer.flush(FLUSH_TIMEOUT_S)
        except KafkaException as exception:  # a fatal error comes out of whatever call is made next
            raise sink_error(exception, f"flush ({self._slot.name})") from exception
        if left:
            raise SinkError(f"{left} records were not delivered within {FLUSH_TIMEOUT_S:.0f} s", retryable=True)

    def _headers(self, event: Event) -> Headers:
        return [(KIND_HEADER, event.kind.encode()), (PARTITION_HEADER, b"%d" % self._destination.partition)]

    def _fit(self, event: Event) -> bytes | None:
        """The event's value as its topic takes it; None, and a line in the log, when it does not."""
        topic, _ = self._destination.place(event.topic_role)
        most = self._destination.facts.max_bytes[topic]
        room = most - len(event.key)
        value = event.json()
        size = len(value)
        if size <= room:
            return value
        shorter = _with_fewer_reasons(value, room) if event.topic_role == "alerts" else None
        self._too_large[event.kind] += 1
        times = self._too_large[event.kind]
        if times.bit_count() == 1:  # the first, the second, the fourth, ...
            self._log.error(
                "event_too_large",
                kind=event.kind,
                topic=topic,
                bytes=size + len(event.key),
                most_bytes=most,
                published="no" if shorter is None else "without the last of its reasons",
                times=times,
                remedy=f"raise max.message.bytes of {topic} and restart the sidecar, or monitor fewer columns",
            )
        return shorter

    def _properties(self, name: str) -> Properties:
        limits = self._destination.facts.max_bytes.values()
        properties = producer_properties(self._settings, transactional_id=name, max_batch_bytes=min(limits))
        return {**properties, "message.max.bytes": min(max(limits) + RECORD_OVERHEAD_BYTES, MOST_BYTES)}


def _with_fewer_reasons(alert: bytes, room: int) -> bytes | None:
    """The alert with as many of its reasons, the strongest first, as there is room for; None when there is none."""
    document = orjson.loads(alert)
    reasons = document.get("reasons", [])
    for count in reversed(range(len(reasons))):
        value = orjson.dumps({**document, "reasons": reasons[:count]})
        if len(value) <= room:
            return value
    return None
