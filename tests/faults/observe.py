"""Who watches from outside: a committed reader, a sampler of group offsets, a reader of transaction states.

None of them shares a client or a line of code with the workers.
"""

from __future__ import annotations

import contextlib
import struct
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

ONGOING = 1
"""`Ongoing` in the broker's transaction log."""


def watcher(bootstrap: str, group: str = "", *, isolation: str = "read_committed", eof: bool = False) -> Consumer:
    """A consumer that joins no group and commits nothing."""
    return Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": group or f"watch-{uuid.uuid4().hex[:8]}",
            "isolation.level": isolation,
            "enable.auto.commit": False,
            "enable.partition.eof": eof,
            "auto.offset.reset": "earliest",
            "log_level": 2,
        }
    )


class Watch:
    """A thread around a consumer; a context manager. Its failure fails whoever leaves the context."""

    def __init__(self, bootstrap: str, group: str = "", isolation: str = "read_committed") -> None:
        self.consumer = watcher(bootstrap, group, isolation=isolation)
        self.failure: BaseException | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._guarded, name=type(self).__name__, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self.consumer.close()

    def running(self) -> bool:
        return not self._ended.is_set()

    def step(self) -> None:
        """One round; called until the end."""
        raise NotImplementedError

    def _guarded(self) -> None:
        try:
            while self.running():
                self.step()
        except BaseException as failure:
            self.failure = failure


class LiveReader(Watch):
    """Reads predictions as they are committed, all the time.

    Attributes:
        seen: offset list a partition, in the order of arrival.
        arrivals: (monotonic second, how many) a poll.
    """

    def __init__(self, bootstrap: str, topic: str, partitions: int) -> None:
        super().__init__(bootstrap)
        self.seen: dict[int, list[tuple[int, bytes]]] = defaultdict(list)
        self.arrivals: list[tuple[float, int]] = []
        self.consumer.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in range(partitions)])

    @property
    def count(self) -> int:
        return sum(map(len, self.seen.values()))

    def step(self) -> None:
        messages = [m for m in self.consumer.consume(2000, 0.1) if m.error() is None]
        for message in messages:
            self.seen[message.partition()].append((message.offset(), message.value()))
        if messages:
            self.arrivals.append((time.monotonic(), len(messages)))

    def rate(self, began_s: float, ended_s: float) -> float:
        """Committed records a second that arrived between two monotonic seconds."""
        return sum(n for at_s, n in self.arrivals if began_s <= at_s < ended_s) / (ended_s - began_s)


class OffsetWatch(Watch):
    """Samples the committed offsets of a group; counts every time one of them went back.

    Attributes:
        samples: how many were taken.
        back: (partition, before, after) for each step back.
    """

    def __init__(self, bootstrap: str, group: str, topic: str, partitions: int, every_s: float = 0.1) -> None:
        # Uncommitted isolation: a pending offset would make the coordinator wait, and we want to see every value.
        super().__init__(bootstrap, group, "read_uncommitted")
        self._asked = [TopicPartition(topic, p) for p in range(partitions)]
        self._every_s = every_s
        self.samples = 0
        self.back: list[tuple[int, int, int]] = []
        self.last: dict[int, int] = {}

    def step(self) -> None:
        with contextlib.suppress(KafkaException):
            for answer in self.consumer.committed(self._asked, timeout=2):
                if answer.error is not None:
                    continue
                before, offset = self.last.get(answer.partition, -1), max(answer.offset, -1)
                if offset < before:
                    self.back.append((answer.partition, before, offset))
                self.last[answer.partition] = offset
            self.samples += 1
        time.sleep(self._every_s)


@dataclass(frozen=True, slots=True)
class TransactionState:
    """A line of the broker's transaction log."""

    at_ms: int
    status: int


class TransactionWatch(Watch):
    """Follows `__transaction_state`: what state each transactional id is in, by the broker's own log."""

    def __init__(self, bootstrap: str, prefix: str) -> None:
        super().__init__(bootstrap, isolation="read_uncommitted")
        self._prefix = prefix
        self.states: dict[str, TransactionState] = {}
        found = self.consumer.list_topics("__transaction_state", timeout=10).topics["__transaction_state"]
        starts = []
        for number in found.partitions:
            _, high = self.consumer.get_watermark_offsets(TopicPartition("__transaction_state", number), timeout=10)
            starts.append(TopicPartition("__transaction_state", number, high))
        if starts:
            self.consumer.assign(starts)

    def step(self) -> None:
        for message in self.consumer.consume(500, 0.05):
            if message.error() is not None or message.value() is None:
                continue
            (length,) = struct.unpack_from(">h", message.key(), 2)
            name = message.key()[4 : 4 + length].decode()
            if name.startswith(self._prefix):
                # version int16, producer id int64, epoch int16, timeout int32, status int8
                self.states[name] = TransactionState(message.timestamp()[1], message.value()[16])

    def open(self, slot_prefix: str) -> list[str]:
        """Transactional ids of this slot whose transaction is open."""
        states = dict(self.states)
        return [name for name, state in states.items() if name.startswith(slot_prefix) and state.status == ONGOING]


def end_offsets(bootstrap: str, topic: str, partitions: int, isolation: str = "read_committed") -> dict[int, int]:
    """The end of each partition; the last stable offset for `read_committed`."""
    consumer = watcher(bootstrap, isolation=isolation)
    try:
        return {p: consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=30)[1] for p in range(partitions)}
    finally:
        consumer.close()


def nothing_open(bootstrap: str, topic: str, partitions: int) -> bool:
    """Whether no open transaction holds back readers of the topic."""
    stable = end_offsets(bootstrap, topic, partitions)
    return stable == end_offsets(bootstrap, topic, partitions, "read_uncommitted")


def read_topic(
    bootstrap: str, topic: str, isolation: str = "read_committed", within_s: float = 90
) -> Iterator[Message]:
    """Every record from the beginning to the last stable offset, partition by partition in order."""
    consumer = watcher(bootstrap, isolation=isolation, eof=True)
    until_s = time.monotonic() + within_s
    try:
        left = set(consumer.list_topics(topic, timeout=30).topics[topic].partitions)
        consumer.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in left])
        while left:
            if time.monotonic() > until_s:
                raise TimeoutError(f"{topic}: partitions {sorted(left)} were not read to the end")
            for message in consumer.consume(5000, 0.2):
                error = message.error()
                if error is None:
                    yield message
                elif error.code() == KafkaError._PARTITION_EOF:
                    left.discard(message.partition())
    finally:
        consumer.close()


def wait_for(what: Callable[[], bool], within_s: float, every_s: float = 0.1) -> bool:
    """Whether `what` became true within the time."""
    until_s = time.monotonic() + within_s
    while time.monotonic() < until_s:
        if what():
            return True
        time.sleep(every_s)
    return what()
