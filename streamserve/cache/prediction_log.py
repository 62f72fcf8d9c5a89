"""The prediction topic as a source of cache entries: what was committed, read again.

Owns a consumer without a group's work (it assigns, and never commits) and the way back from a prediction
record to a cache entry. Only committed records are seen. What is needed from a record:

* the document is its value; event time and source position stand in it (`event_time`, `source`),
* the entity key is the header `streamserve.entity` where there is one, else the record's key,
* the version by offset needs the input topic's partition count at the time of the prediction:
  `source.partitions` where the prediction has it, else the count of today, which is the same unless
  partitions were added.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import msgspec

from streamserve.batch import ENTITY_HEADER, CacheBatch, TopicPartition
from streamserve.cache.entries import Order, newest
from streamserve.cache.keys import event_time_version, offset_version
from streamserve.errors import BrokerUnavailable, SourceError

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Message

QUERY_TIMEOUT_S = 5.0


class _Source(msgspec.Struct):
    topic: str
    partition: int
    offset: int
    partitions: int | None = None


class _Prediction(msgspec.Struct):
    source: _Source
    event_time: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """What one poll of the log gave.

    Attributes:
        entries: newest entry per key.
        records: how many records were read, skipped ones included.
        skipped: why records gave no entry: `tombstone`, `foreign` (no prediction of ours), `no_entity`.
    """

    entries: CacheBatch
    records: int
    skipped: Mapping[str, int]


class EntryReader:
    """Prediction records back to cache entries.

    Args:
        order: `cache.order`.
        inputs: input topics of the pipeline; a prediction from another topic is foreign. Empty: any.
        partition_count: partitions of an input topic today.
    """

    def __init__(self, order: Order, inputs: Collection[str], partition_count: Callable[[str], int]) -> None:
        self._by_offset = order == "offset"
        self._inputs = frozenset(inputs)
        self._partition_count = partition_count
        self._decoder = msgspec.json.Decoder(_Prediction)

    def read(self, messages: Iterable[Message]) -> Chunk:
        """The entries of these records."""
        skipped: Counter[str] = Counter()
        keys: list[bytes] = []
        versions: list[bytes] = []
        documents: list[bytes] = []
        records = 0
        for message in messages:
            records += 1
            entry = self._entry(message)
            if isinstance(entry, str):
                skipped[entry] += 1
                continue
            keys.append(entry[0])
            versions.append(entry[1])
            documents.append(entry[2])
        batch = CacheBatch(row=list(range(len(keys))), key=keys, version=versions, document=documents)
        return Chunk(entries=newest(batch), records=records, skipped=skipped)

    def _entry(self, message: Message) -> tuple[bytes, bytes, bytes] | str:
        value = message.value()
        if value is None:
            return "tombstone"
        try:
            prediction = self._decoder.decode(value)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return "foreign"
        source = prediction.source
        if self._inputs and source.topic not in self._inputs:
            return "foreign"
        entity = _header(message, ENTITY_HEADER) or message.key()
        if entity is None:
            return "no_entity"
        if self._by_offset:
            count = source.partitions or self._partition_count(source.topic)
            version = offset_version(count, source.offset)
        else:
            version = event_time_version(prediction.event_time, source.topic, source.partition, source.offset)
        return entity, version, value


def _header(message: Message, name: str) -> bytes | None:
    headers = cast("list[tuple[str, bytes | None]]", message.headers() or [])
    return next((value for known, value in headers if known == name), None)


class PredictionLog:
    """Reads ranges of the prediction topic. One thread at a time.

    Args:
        properties: librdkafka properties of the pipeline (`kafka` in the settings).
        topic: the prediction topic.
        group: a group name to show to brokers; it is neither joined nor committed to.
        order: `cache.order`.
        inputs: input topics of the pipeline, or nothing for any.
    """

    def __init__(
        self,
        properties: Mapping[str, Any],
        topic: str,
        *,
        group: str,
        order: Order,
        inputs: Collection[str] = (),
    ) -> None:
        self.topic = topic
        self.inputs = tuple(inputs)
        self._properties = {
            **properties,
            "group.id": group,
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
        }
        self._counts: dict[str, int] = {}
        self._reader = EntryReader(order, inputs, self._count)
        self._consumer: Consumer | None = None
        self._probe: Consumer | None = None
        self._ends: dict[TopicPartition, int] = {}
        self._positions: dict[TopicPartition, int] = {}

    @property
    def positions(self) -> Mapping[TopicPartition, int]:
        """Next offset of every partition being read."""
        return self._positions

    @property
    def finished(self) -> set[TopicPartition]:
        """The partitions that were read up to their end."""
        return {tp for tp, end in self._ends.items() if self._positions[tp] >= end}

    def partitions(self) -> list[TopicPartition]:
        """All partitions of the prediction topic. Raises: SourceError, BrokerUnavailable."""
        return [TopicPartition(self.topic, number) for number in range(self._count(self.topic, fresh=True))]

    def input_counts(self) -> dict[str, int]:
        """Partition counts of the input topics today. Raises: SourceError, BrokerUnavailable."""
        return {topic: self._count(topic, fresh=True) for topic in self.inputs}

    def home(self, source: TopicPartition) -> TopicPartition:
        """The prediction partition of an input partition: its number, modulo the count."""
        return TopicPartition(self.topic, source.partition % self._count(self.topic))

    def sources(self) -> list[TopicPartition]:
        """All partitions of the input topics. Raises: SourceError, BrokerUnavailable."""
        return [
            TopicPartition(topic, number) for topic in self.inputs for number in range(self._count(topic, fresh=True))
        ]

    def bounds(self, partition: TopicPartition) -> tuple[int, int]:
        """First offset and end, whether the end is committed yet or not. Raises: SourceError, BrokerUnavailable.

        The end is not that of stable records: a transaction's outcome is known to its producer before the partition
        shows it, and whoever stopped there would miss the last commits of a worker that has died.
        """
        return self._watermarks(self._open_probe(), partition)

    def stable_end(self, partition: TopicPartition) -> int:
        """Offset below which every transaction is decided. Raises: SourceError, BrokerUnavailable."""
        return self._watermarks(self._open(), partition)[1]

    def at_time(self, partition: TopicPartition, time_ms: int) -> int:
        """First offset whose record is not older than `time_ms`; the end where there is none."""
        from confluent_kafka import KafkaException
        from confluent_kafka import TopicPartition as KafkaPartition

        try:
            found = self._open().offsets_for_times(
                [KafkaPartition(partition.topic, partition.partition, time_ms)], timeout=QUERY_TIMEOUT_S
            )[0]
        except KafkaException as error:
            raise _mapped(error, f"look up a time in {partition.topic}-{partition.partition}") from error
        return int(found.offset) if found.offset >= 0 else self.bounds(partition)[1]

    def read(self, ranges: Mapping[TopicPartition, tuple[int, int]]) -> None:
        """Turn to these ranges, first offset to end, in place of any before. Raises: SourceError."""
        from confluent_kafka import KafkaException
        from confluent_kafka import TopicPartition as KafkaPartition

        self._positions = {tp: start for tp, (start, _) in ranges.items()}
        self._ends = {tp: end for tp, (_, end) in ranges.items()}
        assigned = [KafkaPartition(tp.topic, tp.partition, start) for tp, (start, end) in ranges.items() if start < end]
        try:
            self._open().assign(assigned)
        except KafkaException as error:
            raise _mapped(error, f"read {self.topic}") from error

    def poll(self, max_records: int, timeout_s: float) -> Chunk:
        """Some of the records of the ranges. Raises: SourceError, BrokerUnavailable."""
        from confluent_kafka import KafkaError, KafkaException

        records: list[Message] = []
        try:
            messages = self._open().consume(max_records, timeout_s)
        except KafkaException as error:
            raise _mapped(error, f"read {self.topic}") from error
        for message in messages:
            tp = TopicPartition(message.topic() or "", message.partition() or 0)
            end = self._ends.get(tp)
            if end is None:
                continue  # of a range before
            trouble = message.error()
            if trouble is None:
                offset = message.offset() or 0
                self._positions[tp] = min(offset + 1, end)
                if offset < end:
                    records.append(message)
            elif trouble.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - its public name in Python
                # of what is decided so far; markers and aborted records before it are behind us
                self._positions[tp] = max(self._positions[tp], min(message.offset() or 0, end))
            elif not trouble.retriable() and trouble.code() != KafkaError._ALL_BROKERS_DOWN:  # noqa: SLF001
                raise SourceError(f"cannot read {self.topic}: {trouble.str()}", topic=self.topic)
        return self._reader.read(records)

    def close(self) -> None:
        """Close the consumers. Idempotent."""
        consumers, self._consumer, self._probe = (self._consumer, self._probe), None, None
        for consumer in consumers:
            if consumer is not None:
                consumer.close()

    def _watermarks(self, consumer: Consumer, partition: TopicPartition) -> tuple[int, int]:
        from confluent_kafka import KafkaException
        from confluent_kafka import TopicPartition as KafkaPartition

        place = KafkaPartition(partition.topic, partition.partition)
        try:
            low, high = consumer.get_watermark_offsets(place, timeout=QUERY_TIMEOUT_S)
        except KafkaException as error:
            raise _mapped(error, f"ask for the offsets of {partition.topic}-{partition.partition}") from error
        return low, high

    def _count(self, topic: str, *, fresh: bool = False) -> int:
        from confluent_kafka import KafkaException

        if fresh or topic not in self._counts:
            try:
                found = self._open().list_topics(topic, timeout=QUERY_TIMEOUT_S).topics[topic]
            except KafkaException as error:
                raise _mapped(error, f"look at topic {topic}") from error
            if found.error is not None:
                raise SourceError(f"cannot look at topic {topic}: {found.error.str()}", topic=topic)
            if not found.partitions:  # a topic that is just being made; `home` divides by the count
                raise SourceError(f"topic {topic} has no partitions yet", topic=topic, retryable=True)
            self._counts[topic] = len(found.partitions)
        return self._counts[topic]

    def _open(self) -> Consumer:
        if self._consumer is None:
            from confluent_kafka import Consumer

            self._consumer = Consumer(self._properties)
        return self._consumer

    def _open_probe(self) -> Consumer:
        """A consumer that is asked for ends only; `read_committed` consumers are told the stable ones."""
        if self._probe is None:
            from confluent_kafka import Consumer

            self._probe = Consumer(self._properties | {"isolation.level": "read_uncommitted"})
        return self._probe


def ranges_from(
    log: PredictionLog, partitions: Sequence[TopicPartition], start: Mapping[TopicPartition, int] | int | None
) -> dict[TopicPartition, tuple[int, int]]:
    """What is to be read of each partition, up to its end now.

    Args:
        log: the topic.
        partitions: of it.
        start: positions per partition (missing: the beginning), a time in epoch milliseconds, or None for the
            beginning.
    """
    ranges = {}
    for tp in partitions:
        low, end = log.bounds(tp)
        if start is None:
            first = low
        elif isinstance(start, int):
            first = log.at_time(tp, start)
        else:
            first = max(low, start.get(tp, low))
        ranges[tp] = (min(first, end), end)
    return ranges


def _mapped(error: Exception, what: str) -> SourceError | BrokerUnavailable:
    from confluent_kafka import KafkaError

    known = error.args[0] if error.args else None
    away = (KafkaError._TRANSPORT, KafkaError._TIMED_OUT, KafkaError._ALL_BROKERS_DOWN, KafkaError._RESOLVE)  # noqa: SLF001
    if isinstance(known, KafkaError) and known.code() in away:
        return BrokerUnavailable(
            f"cannot {what}: no broker answers ({known.str()}); check kafka.bootstrap.servers", retryable=True
        )
    return SourceError(f"cannot {what}: {error}")
