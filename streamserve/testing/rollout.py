"""The rollout topic in memory: what `streamserve.kafka.rollout_topic` is on Kafka, on a `MemoryBroker`."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from streamserve.batch import TopicPartition
from streamserve.errors import BrokerUnavailable, ContractError
from streamserve.rollout.records import AnyRecord, acknowledgement_key, encode
from streamserve.rollout.topic import TopicEntry
from streamserve.testing.broker import MemoryBroker

PARTITION = 0
MOST_AT_ONCE = 1000
SLICE_S = 0.01


class MemoryRolloutReader:
    """Port `RecordReader`; a context manager."""

    def __init__(self, broker: MemoryBroker, topic: str) -> None:
        self._broker = broker
        self._place = TopicPartition(topic, PARTITION)
        self._position = 0

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> None:
        self._broker.check()
        count = self._broker.partitions(self._place.topic)
        if count != 1:
            raise ContractError(f"the rollout topic {self._place.topic} has {count} partitions; it must have one")

    def read_to_end(self, timeout_s: float) -> list[TopicEntry]:
        until_s = time.monotonic() + timeout_s
        while self._broker.down:
            if time.monotonic() >= until_s:
                raise BrokerUnavailable(f"{self._place.topic} was not read to its end", retryable=True)
            time.sleep(SLICE_S)
        return self._take(self._broker.bounds(self._place)[1])

    def poll(self, timeout_s: float) -> list[TopicEntry]:
        until_s = time.monotonic() + timeout_s
        while True:
            found = [] if self._broker.down else self._take(self._position + MOST_AT_ONCE)
            left_s = until_s - time.monotonic()
            if found or left_s <= 0:
                return found
            if self._broker.down:
                time.sleep(min(left_s, SLICE_S))
            else:
                self._broker.wait({self._place: self._position}, left_s)

    def close(self) -> None:
        """Nothing to let go of."""

    def _take(self, end: int) -> list[TopicEntry]:
        found = self._broker.read(self._place, self._position, end - self._position)
        self._position += len(found)
        return [TopicEntry(record.offset, record.key, record.value) for record in found]


class MemoryRolloutWriter:
    """Port `RecordWriter`; a context manager."""

    def __init__(self, broker: MemoryBroker, topic: str) -> None:
        self._broker = broker
        self._topic = topic

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> None:
        self._broker.check()
        self._broker.partitions(self._topic)

    def publish(self, record: AnyRecord) -> int:
        key, value = encode(record)
        return self._write(key, value)

    def tombstone(self, slot: str) -> int:
        return self._write(acknowledgement_key(slot), None)

    def close(self) -> None:
        """Nothing to let go of."""

    def _write(self, key: bytes, value: bytes | None) -> int:
        self._broker.check()
        self._broker.partitions(self._topic)
        return self._broker.produce(self._topic, value, key=key)
