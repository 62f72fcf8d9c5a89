"""Reading a topic outside of any group: from a place to the end, or on and on.

For people and for upkeep (`tail`, `dlq`, rebuilding): partitions are assigned, so nothing is joined,
nothing is committed and no worker notices. Only committed records are seen. "The end" is the last stable
offset of the moment of asking, so a bounded read ends even while others write, and a transaction left open
cannot hold it up. The order within a partition is kept; between partitions there is none, except for
`Newest`, which merges by timestamp.
"""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self

from confluent_kafka import Consumer, KafkaError, KafkaException
from confluent_kafka import TopicPartition as ClientPartition

from streamserve.batch import Header
from streamserve.errors import BrokerUnavailable, SourceError
from streamserve.kafka.clients import Properties, with_callbacks
from streamserve.kafka.errors import UNREACHABLE, first_error, source_error

ANSWER_TIMEOUT_S = 10.0
"""No broker has answered for so long: there is none."""
POLL_S = 0.2
CLOSE_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRecord:
    """One record as it lies in its topic; `timestamp_ms` is -1 where the broker has none."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...] = ()

    @property
    def position(self) -> str:
        """`partition:offset`, as the command line writes and reads it."""
        return f"{self.partition}:{self.offset}"


@dataclass(frozen=True, slots=True)
class Newest:
    """Start: the newest `count` records of the whole topic, by timestamp."""

    count: int


Start = Literal["beginning", "end"] | int | Newest
"""An end of the topic, the time of the first record in epoch milliseconds, or a number of newest records."""


class Extent(NamedTuple):
    """What a partition holds: the first offset there is, and the one after the last that is stable."""

    low: int
    high: int


def _never() -> bool:
    return False


def _all(_: StoredRecord) -> bool:
    return True


def read_topic(
    properties: Properties,
    topic: str,
    start: Start = "beginning",
    *,
    follow: bool = False,
    keep: Callable[[StoredRecord], bool] = _all,
    stop: Callable[[], bool] = _never,
) -> Iterator[StoredRecord]:
    """The records of `topic` from `start` to its end, or with `follow` until `stop` says so.

    Args:
        properties: of a reader (`clients.reader_properties`).
        topic: it must exist.
        start: where to begin, in every partition.
        follow: go on with what is written later. Partitions added later are not seen.
        keep: only these records are handed out and counted by `Newest`.
        stop: asked at least every 0.2 s.

    Raises:
        BrokerUnavailable: no broker answers for 10 s (60 s while following).
        SourceError: the topic does not exist, or a record cannot be read.
    """
    with TopicReader(properties, topic, patience_s=60.0 if follow else ANSWER_TIMEOUT_S) as reader:
        extents = reader.extents()
        ends = {partition: extent.high for partition, extent in extents.items()}
        if isinstance(start, Newest):
            yield from reader.newest(start.count, extents, keep, stop)
            positions = ends
        else:
            positions = reader.positions(start, extents)
        if follow:
            yield from filter(keep, reader.read(positions, None, stop))
        elif not isinstance(start, Newest):
            yield from filter(keep, reader.read(positions, ends, stop))


class TopicReader:
    """A consumer on one topic, without a group; a context manager.

    Args:
        properties: of a reader (`clients.reader_properties`).
        topic: it must exist when the reader is entered.
        patience_s: how long all brokers may be away during a read.
    """

    def __init__(self, properties: Properties, topic: str, *, patience_s: float = ANSWER_TIMEOUT_S) -> None:
        self.topic = topic
        self._properties = properties
        self._patience_s = patience_s
        self._consumer: Any = None
        self._down_since_s: float | None = None

    def __enter__(self) -> Self:
        # A record that retention removes between asking and reading is no loss to a reader: go on at the first left.
        properties = {**self._properties, "auto.offset.reset": "earliest"}
        try:
            self._consumer = Consumer(with_callbacks(properties, error=self._on_error, logger=silent_logger()))
            self._partitions = partitions_of(self._consumer, self.topic)
        except KafkaException as exception:
            self._close()
            raise source_error(first_error(exception), "connecting to Kafka") from exception
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    @property
    def consumer(self) -> Any:
        """The client, for what only a client can do (group metadata, committed offsets)."""
        return self._consumer

    def extents(self) -> dict[int, Extent]:
        """What each partition holds now. Raises: BrokerUnavailable, SourceError."""
        try:
            return {
                partition: Extent(
                    *self._consumer.get_watermark_offsets(
                        ClientPartition(self.topic, partition), timeout=ANSWER_TIMEOUT_S
                    )
                )
                for partition in self._partitions
            }
        except KafkaException as exception:
            raise source_error(first_error(exception), f"asking for the offsets of {self.topic}") from exception

    def positions(self, start: Literal["beginning", "end"] | int, extents: Mapping[int, Extent]) -> dict[int, int]:
        """The offset per partition that `start` means."""
        if start == "beginning":
            return {partition: extent.low for partition, extent in extents.items()}
        if start == "end":
            return {partition: extent.high for partition, extent in extents.items()}
        wanted = [ClientPartition(self.topic, partition, start) for partition in extents]
        try:
            found = self._consumer.offsets_for_times(wanted, timeout=ANSWER_TIMEOUT_S)
        except KafkaException as exception:
            raise source_error(first_error(exception), f"looking up a time in {self.topic}") from exception
        return {tp.partition: tp.offset if tp.offset >= 0 else extents[tp.partition].high for tp in found}

    def newest(
        self,
        count: int,
        extents: Mapping[int, Extent],
        keep: Callable[[StoredRecord], bool] = _all,
        stop: Callable[[], bool] = _never,
    ) -> Iterator[StoredRecord]:
        """The newest `count` records that `keep` lets pass, merged by timestamp, oldest first.

        Offsets do not count records (markers of transactions take some), so the window before the end grows until it
        holds enough; at most `count` records per partition are in memory.
        """
        ends = {partition: extent.high for partition, extent in extents.items()}
        window = 2 * count + 16
        while not stop():
            starts = {partition: max(low, high - window) for partition, (low, high) in extents.items()}
            found: dict[int, deque[StoredRecord]] = {partition: deque(maxlen=count) for partition in extents}
            for record in filter(keep, self.read(starts, ends, stop)):
                found[record.partition].append(record)
            if all(len(found[p]) == count or starts[p] == extents[p].low for p in extents):
                merged = heapq.merge(*found.values(), key=lambda record: record.timestamp_ms)
                yield from deque(merged, maxlen=count)
                return
            window *= 4

    def read(
        self, start: Mapping[int, int], end: Mapping[int, int] | None, stop: Callable[[], bool] = _never
    ) -> Iterator[StoredRecord]:
        """The records from `start` up to `end`, or for ever without one. Raises: BrokerUnavailable, SourceError."""
        left = {p for p, at in start.items() if end is None or at < end[p]}
        if not left:
            return
        self._consumer.assign([ClientPartition(self.topic, p, start[p]) for p in sorted(left)])
        while left and not stop():
            message = self._consumer.poll(POLL_S)
            if message is None:
                self._check_brokers()
                continue
            partition = message.partition()
            error = message.error()
            if error is None:
                self._down_since_s = None
                offset = message.offset()
                if end is None or offset < end[partition]:
                    yield _stored(message)
                if end is not None and offset >= end[partition] - 1:
                    left.discard(partition)
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
                if end is not None:
                    left.discard(partition)
            # Whoever may read the topic but not the group may read on: the group is never used.
            elif error.code() != KafkaError.GROUP_AUTHORIZATION_FAILED:
                raise source_error(error, f"reading {self.topic}")

    def _check_brokers(self) -> None:
        """After a while without any broker, ask once more; if nobody answers, give up."""
        if self._down_since_s is None or time.monotonic() - self._down_since_s < self._patience_s:
            return
        try:
            self._consumer.list_topics(self.topic, timeout=CLOSE_TIMEOUT_S)
        except KafkaException as exception:
            raise source_error(first_error(exception), f"reading {self.topic}") from exception
        self._down_since_s = None

    def _on_error(self, error: KafkaError) -> None:
        if error.code() in UNREACHABLE and self._down_since_s is None:
            self._down_since_s = time.monotonic()

    def _close(self) -> None:
        """Let the client go in a thread of its own: closing can hang when brokers are away."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            thread = threading.Thread(target=consumer.close, name="reader-close", daemon=True)
            thread.start()
            thread.join(CLOSE_TIMEOUT_S)


def partitions_of(client: Any, topic: str) -> list[int]:
    """The partition numbers of `topic`, asked of any client.

    Raises:
        BrokerUnavailable: nobody answers within 10 s.
        SourceError: the topic does not exist, or may not be described.
    """
    try:
        found = client.list_topics(topic, timeout=ANSWER_TIMEOUT_S).topics[topic]
    except KafkaException as exception:
        error = first_error(exception)
        if error.code() in UNREACHABLE:
            raise BrokerUnavailable(
                f"no Kafka broker answered within {ANSWER_TIMEOUT_S:.0f} s; check kafka.bootstrap.servers and that"
                " the brokers run",
                retryable=True,
            ) from exception
        raise source_error(error, f"looking up {topic}") from exception
    error = found.error
    if error is not None and error.code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
        raise source_error(error, f"looking up {topic}")
    if error is not None or not found.partitions:
        raise SourceError(
            f"the topic {topic} does not exist; check its name, or create it with `streamserve topics apply`",
            topic=topic,
        )
    return sorted(found.partitions)


def silent_logger() -> logging.Logger:
    """A logger that keeps the client's own lines off the terminal: what matters comes back as an error."""
    logger = logging.Logger("streamserve.kafka.quiet")  # noqa: LOG001 - outside the tree, so that nobody prints it
    logger.addHandler(logging.NullHandler())
    return logger


def _stored(message: Any) -> StoredRecord:
    headers: Iterable[Header] = message.headers() or ()
    kind, timestamp_ms = message.timestamp()
    return StoredRecord(
        topic=message.topic(),
        partition=message.partition(),
        offset=message.offset(),
        timestamp_ms=timestamp_ms if kind else -1,
        key=message.key(),
        value=message.value(),
        headers=tuple(headers),
    )
