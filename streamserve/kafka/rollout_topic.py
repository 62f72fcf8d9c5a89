"""The rollout topic on Kafka: a reader outside of any group and an idempotent writer.

Every worker, the sidecar and the command line read the whole topic, so partition 0 is assigned, nothing is joined and
nothing is committed. Only committed records are seen: switch points stand in workers' transactions. A worker that dies
inside such a transaction holds readers up until its slot is back (its producer aborts what it left) or, at most, for
`transaction.timeout.ms`.

The topic's shape is checked when a reader opens it. With more than one partition there would be no order of commands;
without compaction, or with retention beside it, commands would be forgotten, and with them the state.
"""

from __future__ import annotations

import logging
import threading
import time
from types import TracebackType
from typing import Any, Self

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Producer
from confluent_kafka import TopicPartition as ClientPartition

from streamserve.config.rollout_topics import rollout_topics
from streamserve.config.settings import PipelineSettings
from streamserve.errors import BrokerUnavailable, ContractError, SourceError, StreamServeError
from streamserve.kafka.admin import quiet_admin
from streamserve.kafka.clients import (
    Properties,
    producer_properties,
    reader_properties,
    with_callbacks,
)
from streamserve.kafka.errors import UNREACHABLE, first_error, no_broker, sink_error, source_error
from streamserve.kafka.facts import topic_configs
from streamserve.kafka.reading import ANSWER_TIMEOUT_S, silent_logger
from streamserve.rollout.records import AnyRecord, acknowledgement_key, encode
from streamserve.rollout.topic import TopicEntry

PARTITION = 0
MOST_AT_ONCE = 1000
SLICE_S = 0.2
CLOSE_TIMEOUT_S = 5.0
PUBLISH_TIMEOUT_S = 10.0
PASSING = frozenset({KafkaError._PARTITION_EOF, KafkaError.GROUP_AUTHORIZATION_FAILED})  # noqa: SLF001
"""Events that say nothing of the topic: its end, and that the group, which is never used, is not ours to use."""
MISSING = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001
        KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001
    }
)


class RolloutReader:
    """Port `RecordReader` on Kafka; a context manager.

    Args:
        settings: the pipeline.
        logger: of the client; silent without one, as for the command line.
    """

    def __init__(self, settings: PipelineSettings, logger: logging.Logger | None = None) -> None:
        self.topic = rollout_topics(settings).control
        self._settings = settings
        self._logger = logger or silent_logger()
        self._consumer: Any = None
        self._position = 0
        self._made_again = False
        self._waiting: list[TopicEntry] = []

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> None:
        check_topic(self._settings, self.topic)
        properties = reader_properties(self._settings, group=f"{self._settings.pipeline}.rollout-reader")
        # Compaction may take away what the reader would ask for next: go on at the first record that is left.
        properties["auto.offset.reset"] = "earliest"
        self._consumer = Consumer(with_callbacks(properties, error=_ignore, logger=self._logger))
        self._consumer.assign([ClientPartition(self.topic, PARTITION, OFFSET_BEGINNING)])

    def read_to_end(self, timeout_s: float) -> list[TopicEntry]:
        until_s = time.monotonic() + timeout_s
        self._check_same()
        end = self._end(until_s)
        self._check_same(end)
        while self._position < end:
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                raise BrokerUnavailable(
                    f"{self.topic} was not read to its end within {timeout_s:g} s, only to offset {self._position} of"
                    f" {end}; check that the brokers run",
                    retryable=True,
                    topic=self.topic,
                )
            self._waiting += self._take(min(left_s, SLICE_S))
        found, self._waiting = self._waiting, []
        return found

    def poll(self, timeout_s: float) -> list[TopicEntry]:
        self._check_same()
        found, self._waiting = self._waiting, []
        return found + self._take(0.0 if found else timeout_s)

    def close(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:  # in a thread of its own: closing can hang when brokers are away
            thread = threading.Thread(target=consumer.close, name="rollout-reader-close", daemon=True)
            thread.start()
            thread.join(CLOSE_TIMEOUT_S)

    def _check_same(self, offset: int | None = None) -> None:
        """See that this is still the topic that was opened, at an offset that it gives now.

        Once it is not, it never is again: what the new one says does not continue what was read, however long it grows.

        Raises:
            SourceError: it was made again.
        """
        if offset is not None and offset < self._position:
            self._made_again = True
        if self._made_again:
            raise _made_again(self.topic)

    def _end(self, until_s: float) -> int:
        """The offset after the last stable record. Raises: BrokerUnavailable when nobody says it in time."""
        place = ClientPartition(self.topic, PARTITION)
        while True:
            left_s = max(0.0, until_s - time.monotonic())
            try:
                return int(self._consumer.get_watermark_offsets(place, timeout=min(left_s, ANSWER_TIMEOUT_S))[1])
            except KafkaException as exception:
                error = first_error(exception)
                passing = error.code() in UNREACHABLE or error.retriable()
                if not passing or time.monotonic() >= until_s:
                    raise source_error(error, f"asking for the end of {self.topic}") from exception
                time.sleep(min(left_s, SLICE_S))  # some of these errors come at once

    def _take(self, timeout_s: float) -> list[TopicEntry]:
        """What the client has; waits for the first only."""
        found: list[TopicEntry] = []
        message = self._consumer.poll(timeout_s)
        while message is not None:
            error = message.error()
            if error is None:
                self._check_same(message.offset())
                self._position = message.offset() + 1
                found.append(TopicEntry(message.offset(), message.key(), message.value()))
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
                self._position = max(self._position, message.offset())  # past the markers of transactions
            elif error.code() not in PASSING | UNREACHABLE and not error.retriable():
                raise source_error(error, f"reading {self.topic}")
            if len(found) >= MOST_AT_ONCE:
                break
            message = self._consumer.poll(0.0)
        return found


class RolloutWriter:
    """Port `RecordWriter` on Kafka: an idempotent producer; a context manager.

    Args:
        settings: the pipeline.
        logger: of the client; silent without one, as for the command line.
        timeout_s: for the acknowledgement of a record.
    """

    def __init__(
        self,
        settings: PipelineSettings,
        logger: logging.Logger | None = None,
        *,
        timeout_s: float = PUBLISH_TIMEOUT_S,
    ) -> None:
        self.topic = rollout_topics(settings).control
        self._settings = settings
        self._logger = logger or silent_logger()
        self._timeout_s = timeout_s
        self._producer: Any = None

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> None:
        self._connect()
        try:
            found = self._producer.list_topics(self.topic, timeout=ANSWER_TIMEOUT_S).topics[self.topic]
        except KafkaException as exception:
            raise no_broker(self._settings.kafka.get("bootstrap.servers", ""), exception) from exception
        if found.error is not None or not found.partitions:
            raise _missing(self.topic)

    def publish(self, record: AnyRecord) -> int:
        key, value = encode(record)
        return self._write(key, value)

    def tombstone(self, slot: str) -> int:
        return self._write(acknowledgement_key(slot), None)

    def close(self) -> None:
        self._producer = None  # nothing is under way: every call waited for its record

    def _connect(self) -> None:
        properties: Properties = {
            **producer_properties(self._settings),
            "linger.ms": 0,  # a record at a time, and somebody waits for it
            "message.timeout.ms": int(self._timeout_s * 1000),
            "delivery.report.only.error": False,
        }
        properties.pop("delivery.timeout.ms", None)  # another name of message.timeout.ms
        self._producer = Producer(with_callbacks(properties, error=_ignore, logger=self._logger))

    def _write(self, key: bytes, value: bytes | None) -> int:
        if self._producer is None:
            self._connect()
        reports: list[tuple[KafkaError | None, int]] = []
        try:
            self._producer.produce(
                self.topic,
                value,
                key,
                partition=PARTITION,
                on_delivery=lambda error, message: reports.append((error, -1 if error else message.offset())),
            )
        except KafkaException as exception:
            raise self._failed(first_error(exception)) from exception
        until_s = time.monotonic() + self._timeout_s + SLICE_S
        while not reports and time.monotonic() < until_s:
            self._producer.poll(SLICE_S)
        error, offset = reports[0] if reports else (KafkaError(KafkaError._MSG_TIMED_OUT), -1)  # noqa: SLF001
        if error is not None:
            raise self._failed(error)
        return offset

    def _failed(self, error: KafkaError) -> StreamServeError:
        """What a refusal means. The client is let go: it may be fatal, and must not deliver later what has failed."""
        producer, self._producer = self._producer, None
        producer.purge()
        if error.code() in MISSING:
            return _missing(self.topic)
        if error.code() in UNREACHABLE or error.code() == KafkaError._MSG_TIMED_OUT:  # noqa: SLF001
            return BrokerUnavailable(
                f"{self.topic}: no broker acknowledged the record within {self._timeout_s:g} s ({error.str()}); it may"
                " have been written all the same: look at `streamserve model history` before you give it again",
                retryable=True,
                topic=self.topic,
            )
        return sink_error(KafkaException(error), f"writing to {self.topic}")


def check_topic(settings: PipelineSettings, topic: str) -> None:
    """See that the topic exists, has one partition and keeps its commands.

    Where its configuration may not be asked for, it is taken as right.

    Raises:
        BrokerUnavailable: nobody answers.
        ContractError: it is missing or of another shape; says what mends it.
    """
    try:
        admin = quiet_admin(settings)
        cluster = admin.list_topics(timeout=ANSWER_TIMEOUT_S)
    except KafkaException as exception:
        raise no_broker(settings.kafka.get("bootstrap.servers", ""), exception) from exception
    found: Any = cluster.topics.get(topic)
    if found is None or not found.partitions:
        raise _missing(topic)
    if len(found.partitions) != 1:
        raise ContractError(
            f"the rollout topic {topic} has {len(found.partitions)} partitions; it must have one, for its order is the"
            " order of the commands. Name another in rollout.topic, or delete it and run `streamserve topics apply`",
            topic=topic,
        )
    policy = topic_configs(admin, cluster, [topic])[topic].get("cleanup.policy", "compact")
    if policy != "compact":
        raise ContractError(
            f"the rollout topic {topic} has cleanup.policy={policy}, so commands would be forgotten; set it to compact"
            " in its document and run `streamserve topics apply`",
            topic=topic,
        )


def _missing(topic: str) -> ContractError:
    return ContractError(
        f"the rollout topic {topic} does not exist; create it with `streamserve topics apply`, or mend rollout.topic",
        topic=topic,
    )


def _made_again(topic: str) -> SourceError:
    """Offsets went back. What was read is not what the topic says, and revisions do not mean any more what they did."""
    return SourceError(
        f"the rollout topic {topic} was deleted and made again; restart the workers, and promote a version if it says"
        " nothing yet",
        topic=topic,
    )


def _ignore(_: KafkaError) -> None:
    """Errors of connections: what waits for an answer tells."""
