"""The Kafka consumer of a slot: records in, column batches out, group membership, positions.

Owns the one `Consumer`; the poll thread alone calls it. Offsets are ours (`pipeline.Assignment`), never the client's:
`consumer.position()` runs ahead of what a failing call has handed out. Rebalance callbacks call no assign function
and raise nothing: they tell the listener, which may commit what is in flight, and then the partitions leave.
Metadata of the group is published in the callbacks and every few polls, newest wins (docs/delivery.md, "Rebalance").
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    OFFSET_STORED,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
)
from confluent_kafka import TopicPartition as ClientPartition

from streamserve.batch import Headers, Positions, RecordBatch, TopicPartition, positions_after
from streamserve.clock import Clock
from streamserve.config.settings import PipelineSettings
from streamserve.config.start_position import parse_start
from streamserve.errors import ContractError, SourceError
from streamserve.kafka.clients import consumer_properties, with_callbacks
from streamserve.kafka.errors import FORBIDDEN, UNREADABLE, first_error, no_broker, source_error
from streamserve.kafka.leaving import CLOSE_TIMEOUT_S, leave_group
from streamserve.kafka.statistics import KafkaStatistics
from streamserve.pipeline.assignment import Assignment, tell_out_of_range
from streamserve.ports import AssignmentListener
from streamserve.telemetry.logs import Log

REQUEST_TIMEOUT_S = 10.0
WAKE_TIMEOUT_S = 0.2
PUBLISH_S = 0.02
"""How old published group metadata may be. The call holds the interpreter's lock while it waits for the client's own
thread; after every poll it cost 7 % of a busy worker's time. What is too old costs an abort, never a wrong commit."""

# Unbound methods of the client's message: `map` over them makes a column at a fifth of a comprehension's cost. Without
# deserializers keys and values are bytes, which the client's annotations cannot say.
_Get = Callable[[Any], Any]
_TOPIC: _Get = Message.topic
_PARTITION: _Get = Message.partition
_OFFSET: _Get = Message.offset
_TIMESTAMP: _Get = Message.timestamp
_KEY: _Get = Message.key
_VALUE: _Get = Message.value
_HEADERS: _Get = Message.headers
_ERROR: _Get = Message.error


class KafkaSource:
    """Source of records of a consumer group (port `Source`).

    Args:
        settings: the pipeline.
        assignment: told what is owned and delivered.
        on_statistics: called with `KafkaStatistics` every few seconds, on the poll thread.
        slot: whose it is, as the group's description will tell it.
    """

    def __init__(
        self,
        settings: PipelineSettings,
        assignment: Assignment,
        clock: Clock,
        log: Log,
        on_statistics: Callable[[KafkaStatistics], None] = lambda _: None,
        slot: str | None = None,
    ) -> None:
        self._settings = settings
        self._slot = slot
        self._assignment = assignment
        self._clock = clock
        self._log = log
        self._on_statistics = on_statistics
        self._consumer: Any = None
        self._listener: AssignmentListener | None = None
        self._metadata: object = None
        self._publish_at_s = 0.0
        self._paused: set[TopicPartition] = set()
        self._refused = 0
        self._closed = False
        self._partitions_at_start: dict[str, int] = {}
        self._rebalanced = False

    @property
    def metadata(self) -> object:
        return self._metadata

    def open(self, listener: AssignmentListener) -> None:
        self._listener = listener
        properties = with_callbacks(
            consumer_properties(self._settings, self._slot),
            error=self._on_error,
            stats=self._on_stats,
            logger=self._log.as_logger("kafka.consumer"),
        )
        self._consumer = Consumer(properties)
        self._check_topics()
        self._consumer.subscribe(
            self._settings.input.topics,
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_lost,
        )

    def poll(self, max_records: int, timeout_s: float) -> RecordBatch | None:
        first = self._consumer.poll(timeout_s)
        epochs = self._assignment.epochs
        messages: list[Any] = [] if first is None else [first]
        if messages and max_records > 1:
            messages += self._consumer.consume(max_records - 1, 0)
        if epochs and self._clock.monotonic_s() >= self._publish_at_s:
            self._publish()
        if self._rebalanced:
            self._rebalanced = False
            self._wake()
        if any(map(_ERROR, messages)):
            messages = self._without_errors(messages)
        if self._assignment.epochs is not epochs:
            messages = self._still_ours(messages, epochs)
        return self._batch(messages) if messages else None

    def pause(self) -> None:
        # A partition is paused once it has delivered: pausing earlier loses its start position (librdkafka #2190).
        started = set(self._assignment.positions()) - self._paused
        if started:
            self._consumer.pause([ClientPartition(*tp) for tp in started])
            self._paused |= started

    def resume(self) -> None:
        if self._paused:
            owned = [ClientPartition(*tp) for tp in self._paused if tp in self._assignment.epochs]
            self._paused.clear()
            self._consumer.resume(owned)
            self._wake()

    def rewind(self, *, reread: bool) -> bool:
        self.resume()
        positions = before = self._assignment.rewind()
        if reread and positions:
            try:
                told = self._committed(list(positions))
            except KafkaException as exception:
                raise source_error(first_error(exception), "reading committed positions") from exception
            unsaid = [f"{tp.topic}-{tp.partition}" for tp, offset in told.items() if offset is None]
            if unsaid:  # what is in doubt may be committed
                raise SourceError(f"the group does not say its positions of {', '.join(unsaid)}", retryable=True)
            known = {tp: offset for tp, offset in told.items() if offset is not None and offset >= 0}
            # Never below what was delivered first: a committed offset out of range would raise its alarm again.
            self._assignment.committed(known, self._assignment.epochs)
            positions = self._assignment.positions()
        for tp, position in positions.items():
            self._seek(tp, position)
        return positions != before

    def commit(self, positions: Positions) -> None:
        owned = self._assignment.epochs
        offsets = [ClientPartition(*tp, position) for tp, position in positions.items() if tp in owned]
        if not offsets:
            return
        try:
            self._consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as exception:
            raise source_error(first_error(exception), "committing offsets") from exception

    def close(self) -> None:
        if self._consumer is None or self._closed:
            return
        self._closed = True
        if not leave_group(self._consumer):
            self._log.warning("consumer_close_timeout", timeout_s=CLOSE_TIMEOUT_S)

    def _wake(self) -> None:
        """Have partitions fetched at once that were paused, by us or, in every rebalance, by the client itself.

        Resuming does not wake the thread that fetches from a broker (librdkafka 2.16, `rd_kafka_toppar_pause_resume`):
        once its last fetch has been answered it sleeps for up to a second. Any request to the broker wakes it.
        """
        if owned := self._assignment.epochs:
            with contextlib.suppress(KafkaException):  # it wakes by itself, later
                self._consumer.offsets_for_times([ClientPartition(*tp, OFFSET_END) for tp in owned], WAKE_TIMEOUT_S)

    # -- polling -------------------------------------------------------------------------------------------------

    def _batch(self, messages: list[Any]) -> RecordBatch:
        topic: list[str] = list(map(_TOPIC, messages))
        partition: list[int] = list(map(_PARTITION, messages))
        offset: list[int] = list(map(_OFFSET, messages))
        positions = positions_after(topic, partition, offset)
        self._refused = 0
        fresh = [tp for tp in positions if self._assignment.position(tp) is None]
        places = list(zip(topic, partition, strict=True)) if fresh else []
        self._assignment.delivered({tp: offset[places.index(tp)] for tp in fresh}, positions)

        def headers() -> list[Headers | None]:
            column: list[Headers | None] = list(map(_HEADERS, messages))
            return column if any(column) else []

        return RecordBatch(
            topic=topic,
            partition=partition,
            offset=offset,
            timestamp_ms=[stamp for _, stamp in map(_TIMESTAMP, messages)],
            key=list(map(_KEY, messages)),
            value=list(map(_VALUE, messages)),
            headers=headers,
            epochs=self._assignment.epochs,
            positions=positions,
            polled_s=self._clock.monotonic_s(),
        )

    def _still_ours(self, messages: list[Any], before: Any) -> list[Any]:
        """After a rebalance inside `consume`: what was taken before it may belong to nobody, or to a new epoch."""
        now = self._assignment.epochs
        kept = []
        returned: set[TopicPartition] = set()
        for message in messages:
            tp = TopicPartition(message.topic(), message.partition())
            if tp in now and now[tp] == before.get(tp, now[tp]):
                kept.append(message)
            elif tp in now:
                returned.add(tp)
        for tp in returned:  # what was in flight of it is stale as well: only the group knows where to go on
            self._log.info("partition_returned", topic=tp.topic, partition=tp.partition)
            self._restart_at(tp, OFFSET_STORED)
        return kept

    def _without_errors(self, messages: list[Any]) -> list[Any]:
        """The records among the messages. Partitions without a position are started together, in one request."""
        records, unknown = [], {}
        for message in messages:
            error = message.error()
            if error is None:
                records.append(message)
            elif error.code() == KafkaError._AUTO_OFFSET_RESET:  # noqa: SLF001
                unknown[TopicPartition(message.topic(), message.partition())] = message.offset()
            else:
                self._handle_error(error, message)
        owned = {tp: asked for tp, asked in unknown.items() if tp in self._assignment.epochs}  # the others left since
        try:
            self._start_partitions(owned)
        except KafkaException as exception:
            names = ", ".join(f"{tp.topic}-{tp.partition}" for tp in owned)
            raise source_error(first_error(exception), f"starting {names}") from exception
        return records

    def _handle_error(self, error: KafkaError, message: Any) -> None:
        code = error.code()
        if code in UNREADABLE:
            raise SourceError(
                f"{message.topic()}-{message.partition()} offset {message.offset()} cannot be read: {error.str()};"
                " move the group past it with `kafka-consumer-groups --reset-offsets` once you know what it was",
                topic=message.topic(),
                partition=message.partition(),
                offset=message.offset(),
            )
        if code in FORBIDDEN or code in {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC}:  # noqa: SLF001
            self._refused += 1
            if self._refused > 10:
                raise source_error(error, f"reading {message.topic() or 'topics'}")
        elif error.fatal():
            raise source_error(error, "reading")
        else:
            self._log.warning("source_error", code=error.name(), error=error.str(), topic=message.topic())

    # -- positions -----------------------------------------------------------------------------------------------

    def _start_partitions(self, asked: Mapping[TopicPartition, int | None]) -> None:
        """A partition without a committed offset starts where the configuration says; a lost offset is an alarm.

        The client's word that there is none is not enough: it has said so of partitions whose offsets wait for the end
        of a dead worker's transaction, when a rebalance came in between (seen with librdkafka 2.16). A partition that
        then started at its beginning would be scored twice, so the group itself is asked. Where the group does not say
        now, the client is told to look again, and the partition comes back here if it still finds nothing.

        Args:
            asked: the offsets that cannot be read, by partition; negative or None where there was none.

        Raises:
            SourceError: a committed offset lies beyond the end: nobody can tell what was not scored yet.
        """
        starts = {tp: self._in_range(tp, offset) for tp, offset in asked.items() if offset is not None and offset >= 0}
        unknown = [tp for tp in asked if tp not in starts]
        try:
            told = self._committed(unknown) if unknown else {}
        except KafkaException as exception:
            self._log.warning("positions_unknown", partitions=len(unknown), error=first_error(exception).str())
            told = dict.fromkeys(unknown)
        for tp, offset in told.items():
            if offset is None:
                starts[tp] = OFFSET_STORED
            elif offset < 0:
                starts[tp] = self._first_position(tp)
            else:
                self._log.info("position_found", topic=tp.topic, partition=tp.partition, offset=offset)
                starts[tp] = offset
        for tp, start in starts.items():
            self._restart_at(tp, start)

    def _in_range(self, tp: TopicPartition, asked: int) -> int:
        """Where to go on when a committed offset is out of range. Raises: SourceError when it lies beyond the end."""
        low, high = self._watermarks(tp)
        if asked > high:
            raise SourceError(
                f"{tp.topic}-{tp.partition}: the committed offset {asked} lies beyond the end {high}: the topic was"
                " deleted and made anew, or truncated. Decide where to go on with"
                " `kafka-consumer-groups --reset-offsets`, then start again",
                topic=tp.topic,
                partition=tp.partition,
                offset=asked,
            )
        start = max(low, asked)
        tell_out_of_range(self._log, tp, committed=asked, low=low, high=high, start=start)
        return start

    def _committed(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int | None]:
        """The group's positions: negative where it has none, None where it does not say now. Raises: KafkaException."""
        asked = [ClientPartition(*tp) for tp in partitions]
        told: dict[TopicPartition, int | None] = dict.fromkeys(partitions)
        for answer in self._consumer.committed(asked, timeout=REQUEST_TIMEOUT_S):
            if answer.error is None:
                told[TopicPartition(answer.topic, answer.partition)] = int(answer.offset)
            else:
                self._log.warning("positions_unknown", partitions=1, error=answer.error.str())
        return told

    def _first_position(self, tp: TopicPartition) -> int:
        """Where a partition that nobody has read starts, committed at once unless that is its beginning.

        Without that commit a restart before its first record would look for the end, or for the time, again.
        """
        wanted = parse_start(self._settings.input.start)
        joined_later = tp.partition >= self._partitions_at_start.get(tp.topic, 0)
        self._log.info(
            "partition_start",
            topic=tp.topic,
            partition=tp.partition,
            start="beginning (a new partition)" if joined_later else self._settings.input.start,
        )
        if wanted == "beginning" or joined_later:
            return int(OFFSET_BEGINNING)
        start = self._watermarks(tp)[1]
        if wanted != "end":
            asked = [ClientPartition(*tp, wanted)]
            (found,) = self._consumer.offsets_for_times(asked, timeout=REQUEST_TIMEOUT_S)
            start = found.offset if found.offset >= 0 else start
        with contextlib.suppress(KafkaException):  # a rebalance came in between: the next owner looks again
            self._consumer.commit(offsets=[ClientPartition(*tp, start)], asynchronous=False)
        return start

    def _watermarks(self, tp: TopicPartition) -> tuple[int, int]:
        low, high = self._consumer.get_watermark_offsets(ClientPartition(*tp), timeout=REQUEST_TIMEOUT_S, cached=False)
        return int(low), int(high)

    def _restart_at(self, tp: TopicPartition, offset: int) -> None:
        # A partition whose fetcher stopped for want of an offset cannot be sought (_STATE); reassigning starts it.
        self._unpause([tp])
        self._consumer.incremental_unassign([ClientPartition(*tp)])
        self._consumer.incremental_assign([ClientPartition(*tp, offset)])

    def _seek(self, tp: TopicPartition, position: int) -> None:
        try:
            self._consumer.seek(ClientPartition(*tp, position))
        except KafkaException:
            with contextlib.suppress(KafkaException):
                self._restart_at(tp, position)
                return
            self._log.info("seek_of_left_partition", topic=tp.topic, partition=tp.partition)

    # -- group ---------------------------------------------------------------------------------------------------

    def _publish(self) -> None:
        self._metadata = self._consumer.consumer_group_metadata()
        self._publish_at_s = self._clock.monotonic_s() + PUBLISH_S

    def _on_assign(self, _consumer: object, partitions: Sequence[ClientPartition]) -> None:
        self._rebalanced = True
        owned = _ours(partitions)
        self._assignment.assign(owned)
        self._publish()
        if self._listener:
            self._listener.on_assigned(owned)

    def _on_revoke(self, _consumer: object, partitions: Sequence[ClientPartition]) -> None:
        self._rebalanced = True
        leaving = _ours(partitions)
        self._publish()
        if self._listener:
            self._listener.on_revoked(leaving)
        self._leave(leaving)

    def _on_lost(self, _consumer: object, partitions: Sequence[ClientPartition]) -> None:
        self._rebalanced = True
        gone = _ours(partitions)
        self._leave(gone)
        if self._listener:
            self._listener.on_lost(gone)

    def _leave(self, partitions: list[TopicPartition]) -> None:
        self._unpause(partitions)
        self._assignment.leave(partitions)

    def _unpause(self, partitions: Sequence[TopicPartition]) -> None:
        """Librdkafka remembers a pause beyond an unassign: a partition that came back would never be read again."""
        paused = self._paused.intersection(partitions)
        if paused:
            self._paused -= paused
            with contextlib.suppress(KafkaException):  # lost already
                self._consumer.resume([ClientPartition(*tp) for tp in paused])

    def _check_topics(self) -> None:
        try:
            cluster = self._consumer.list_topics(timeout=REQUEST_TIMEOUT_S)
        except KafkaException as exception:
            raise no_broker(self._settings.kafka.get("bootstrap.servers", ""), exception) from exception
        missing = [topic for topic in self._settings.input.topics if topic not in cluster.topics]
        if missing:
            raise ContractError(
                f"input topic {', '.join(missing)} does not exist; create it with `streamserve topics apply`,"
                " or mend input.topics",
                topic=missing[0],
            )
        self._partitions_at_start = {
            topic: len(cluster.topics[topic].partitions) for topic in self._settings.input.topics
        }

    # -- callbacks of the client: set flags, never raise ---------------------------------------------------------

    def _on_error(self, error: KafkaError) -> None:
        if error.code() == KafkaError._ALL_BROKERS_DOWN:  # noqa: SLF001
            self._on_statistics(KafkaStatistics(brokers_up=False, lag=None))

    def _on_stats(self, text: str) -> None:
        self._on_statistics(KafkaStatistics.parse(text, self._assignment))


def _ours(partitions: Sequence[ClientPartition]) -> list[TopicPartition]:
    return [TopicPartition(partition.topic, partition.partition) for partition in partitions]
