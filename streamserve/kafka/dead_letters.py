"""Dead letters, and sending them back exactly once.

What was replayed is remembered in the consumer group `<pipeline>.dlq-replay` (`replay_marks`), committed in
the same transaction as the records sent: after a crash, a Ctrl-C or a second call a dead letter was sent or
it was not, and it is never sent twice. Two replays at once cannot happen either: the transactional id, the
same for all, fences the earlier one, and marks are read after that. The memory is the group's: brokers
forget a group that was not used for `offsets.retention.minutes` (a week by default), and a replay later
than that starts without marks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from confluent_kafka import KafkaException, Producer
from confluent_kafka import TopicPartition as ClientPartition

from streamserve.batch import Headers
from streamserve.errors import SinkError, SourceError
from streamserve.kafka.clients import Properties, with_callbacks
from streamserve.kafka.coordinator import insist
from streamserve.kafka.errors import first_error, sink_error, source_error
from streamserve.kafka.reading import (
    ANSWER_TIMEOUT_S,
    Extent,
    StoredRecord,
    TopicReader,
    partitions_of,
    silent_logger,
)
from streamserve.kafka.replay_marks import MAX_TEXT_BYTES, ReplayMarks

TRANSACTION_TIMEOUT_S = 30.0
RECORDS_A_TRANSACTION = 500


def replay_group(pipeline: str) -> str:
    """The consumer group that remembers replays, and their transactional id."""
    return f"{pipeline}.dlq-replay"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resend:
    """A dead letter on its way back.

    Attributes:
        letter: as it lies in the dead-letter topic.
        topic: where it goes.
        partition: where it was once; while the topic has that partition, it goes there again.
        headers: of the new record.
    """

    letter: StoredRecord
    topic: str
    partition: int
    headers: Headers


class DeadLetterTopic:
    """A dead-letter topic with the marks of earlier replays; a context manager.

    Args:
        properties: of a reader in the group `replay_group`.
        topic: the dead-letter topic.
    """

    def __init__(self, properties: Properties, topic: str) -> None:
        self.topic = topic
        self.reader = TopicReader(properties, topic)
        self.marks: dict[int, ReplayMarks] = {}
        self._passed: dict[int, int] = {}

    def __enter__(self) -> Self:
        self.reader.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.reader.__exit__(kind, error, trace)

    def letters(self, stop: Callable[[], bool]) -> Iterator[StoredRecord]:
        """Every dead letter that there is at this moment; knows the marks then.

        Raises:
            BrokerUnavailable, SourceError: as `TopicReader.read`, or the marks cannot be read.
        """
        extents = self._load()
        lows = {partition: extent.low for partition, extent in extents.items()}
        ends = {partition: extent.high for partition, extent in extents.items()}
        passed = dict(lows)
        for record in self.reader.read(lows, ends, stop):
            self._passed[record.partition] = passed[record.partition]
            passed[record.partition] = record.offset + 1
            yield record

    def at(self, partition: int, offset: int) -> StoredRecord:
        """The dead letter at one place. Raises: BrokerUnavailable, SourceError."""
        extents = self._load()
        if partition not in extents:
            raise SourceError(f"{self.topic} has no partition {partition}, only 0 to {max(extents)}")
        low, high = extents[partition]
        if low <= offset < high:
            for record in self.reader.read({partition: offset}, {partition: offset + 1}):
                return record
        held = (
            f"partition {partition} holds offsets {low} to {high - 1}"
            if high > low
            else f"partition {partition} is empty"
        )
        if low <= offset < high:
            held = "that offset belongs to a marker of a transaction"
        raise SourceError(f"{self.topic} has no record at {partition}:{offset}; {held}")

    def _load(self) -> dict[int, Extent]:
        extents = self.reader.extents()
        wanted = [ClientPartition(self.topic, partition) for partition in extents]
        consumer = self.reader.consumer
        try:
            stored = insist(lambda: consumer.committed(wanted, timeout=ANSWER_TIMEOUT_S))
        except KafkaException as exception:
            raise source_error(first_error(exception), "asking for the marks of earlier replays") from exception
        for tp in stored:
            low = extents[tp.partition].low
            known = ReplayMarks.from_text(tp.offset, tp.metadata or "") if tp.offset >= 0 else ReplayMarks(low)
            self.marks[tp.partition] = known.since(low)
        return extents

    def replayed(self, letter: StoredRecord) -> bool:
        """Whether this dead letter was sent back before."""
        return letter.offset in self.marks[letter.partition]

    def mark(self, letter: StoredRecord) -> None:
        """Count the letter that `letters` gave last as replayed, with the gap before it, where no records are."""
        start = self._passed[letter.partition]
        self.marks[letter.partition] = self.marks[letter.partition].add(start, letter.offset + 1)

    def offsets(self, partitions: Sequence[int]) -> list[Any]:
        """The marks of these partitions, to be committed. Raises: SinkError when they are too many."""
        found = []
        for partition in partitions:
            marks = self.marks[partition]
            text = marks.to_text()
            if len(text) > MAX_TEXT_BYTES:
                raise SinkError(
                    f"partition {partition} of {self.topic} has {len(marks.stretches)} separate stretches of replayed"
                    " dead letters, more than can be remembered; replay a wider selection (--all)",
                    topic=self.topic,
                )
            found.append(ClientPartition(self.topic, partition, marks.position, text))
        return found


class Replayer:
    """Sends dead letters back, a transaction at a time; a context manager.

    Enter it before `DeadLetterTopic.letters`: entering ends every other replay of the pipeline.

    Args:
        properties: of a transactional producer (`clients.producer_properties`).
        source: the dead-letter topic, open.
    """

    def __init__(self, properties: Properties, source: DeadLetterTopic) -> None:
        self.sent = 0
        self._properties = properties
        self._source = source
        self._producer: Any = None
        self._waiting: list[Resend] = []
        self._partitions: dict[str, frozenset[int]] = {}

    def __enter__(self) -> Self:
        try:
            self._producer = Producer(with_callbacks(self._properties, error=lambda _: None, logger=silent_logger()))
            self._producer.init_transactions(TRANSACTION_TIMEOUT_S)
        except KafkaException as exception:
            raise sink_error(exception, "starting a replay") from exception
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()

    def add(self, resend: Resend) -> None:
        """Take one; every 500 are sent. Raises: SinkError, SourceError."""
        if resend.topic not in self._partitions:
            self._partitions[resend.topic] = frozenset(partitions_of(self._producer, resend.topic))
        self._waiting.append(resend)
        self._source.mark(resend.letter)
        if len(self._waiting) >= RECORDS_A_TRANSACTION:
            self.finish()

    def finish(self) -> None:
        """Send what waits, all or nothing. Raises: SinkError."""
        if not self._waiting:
            return
        offsets = self._source.offsets(sorted({resend.letter.partition for resend in self._waiting}))
        group = self._source.reader.consumer.consumer_group_metadata()
        try:
            self._producer.begin_transaction()
            for resend in self._waiting:
                self._produce(resend)
            self._producer.flush(TRANSACTION_TIMEOUT_S)
            insist(lambda: self._producer.send_offsets_to_transaction(offsets, group, TRANSACTION_TIMEOUT_S))
            # A timeout leaves the outcome open; the marks have the same outcome, so the next call knows it.
            insist(lambda: self._producer.commit_transaction(TRANSACTION_TIMEOUT_S))
        except (KafkaException, BufferError) as exception:
            if not isinstance(exception, KafkaException):
                raise SinkError(f"replaying: {exception}", retryable=True) from exception
            raise sink_error(exception, "replaying (run it again, nothing is sent twice)") from exception
        self.sent += len(self._waiting)
        self._waiting.clear()

    def _produce(self, resend: Resend) -> None:
        letter = resend.letter
        extras: dict[str, Any] = {}
        if resend.partition in self._partitions[resend.topic]:
            extras["partition"] = resend.partition
        if letter.timestamp_ms > 0:
            extras["timestamp"] = letter.timestamp_ms  # the event time of pipelines that have no other
        self._producer.produce(resend.topic, letter.value, letter.key, headers=resend.headers, **extras)
