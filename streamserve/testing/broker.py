"""`MemoryBroker`: partitions, one consumer group's offsets and transactions, in this process.

It has what exactly once rests on: a commit makes records and offsets visible in one step, the second owner of a
transactional id fences the first, and offsets of an older generation of the group are refused. It has one group, keeps
everything, and lets no reader see what is not committed. `MemorySource` and `MemorySink` are its clients.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from streamserve.batch import Headers, OutboundBatch, Positions, TopicPartition
from streamserve.errors import BrokerUnavailable, ContractError, Fenced, SinkError, SourceError


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRecord:
    """A record in a partition; `timestamp_ms` is -1 where none was given."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers | None = None
    timestamp_ms: int = -1


class MemoryBroker:
    """Topics and the offsets of one group. Thread-safe.

    Attributes:
        down: while set, whoever connects gets BrokerUnavailable.
        commits: the positions of every commit so far, oldest first.
    """

    def __init__(self) -> None:
        self.down = False
        self.commits: list[dict[TopicPartition, int]] = []
        self._changed = threading.Condition()
        self._logs: dict[str, list[list[MemoryRecord]]] = {}
        self._low: dict[TopicPartition, int] = {}
        self._offsets: dict[TopicPartition, int] = {}
        self._epochs: dict[str, int] = {}
        self._generation = 0

    # -- topics --------------------------------------------------------------------------------------------------

    def create_topic(self, name: str, partitions: int = 1) -> None:
        """Create a topic, or add partitions to one."""
        with self._changed:
            logs = self._logs.setdefault(name, [])
            logs.extend([] for _ in range(partitions - len(logs)))
            self._changed.notify_all()

    def partitions(self, topic: str) -> int:
        """Partition count. Raises: ContractError when there is no such topic."""
        if topic not in self._logs:
            raise ContractError(f"topic {topic} does not exist", topic=topic)
        return len(self._logs[topic])

    def produce(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        partition: int = 0,
        headers: Headers | None = None,
        timestamp_ms: int = -1,
    ) -> int:
        """Append a record, outside any transaction. Returns: its offset."""
        with self._changed:
            log = self._logs[topic][partition]
            log.append(
                MemoryRecord(
                    partition=partition,
                    offset=len(log),
                    key=key,
                    value=value,
                    headers=headers,
                    timestamp_ms=timestamp_ms,
                )
            )
            self._changed.notify_all()
            return len(log) - 1

    def records(self, topic: str) -> list[MemoryRecord]:
        """All that a reader of committed records sees, partition by partition, in order."""
        with self._changed:
            return [record for log in self._logs[topic] for record in log]

    def wait_records(self, topic: str, count: int, timeout_s: float = 10.0) -> list[MemoryRecord]:
        """`records`, once there are `count` of them or the time is over."""
        with self._changed:
            self._changed.wait_for(lambda: sum(map(len, self._logs[topic])) >= count, timeout_s)
        return self.records(topic)

    def delete_before(self, tp: TopicPartition, offset: int) -> None:
        """Forget records, as retention does."""
        with self._changed:
            self._low[tp] = offset

    # -- group ---------------------------------------------------------------------------------------------------

    @property
    def offsets(self) -> dict[TopicPartition, int]:
        """The group's committed positions."""
        with self._changed:
            return dict(self._offsets)

    @property
    def generation(self) -> int:
        """The group's generation: what `MemorySource.metadata` holds while it is current."""
        return self._generation

    def rebalanced(self) -> int:
        """The group has changed. Returns: its new generation."""
        with self._changed:
            self._generation += 1
            return self._generation

    def commit_offsets(self, positions: Positions, generation: object) -> None:
        """Commit positions without a transaction. Raises: SourceError, retryable, for an older generation."""
        with self._changed:
            if generation != self._generation:
                raise SourceError(f"generation {generation} is not {self._generation}", retryable=True)
            self._commit(positions)

    # -- clients -------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raises: BrokerUnavailable while `down`."""
        if self.down:
            raise BrokerUnavailable("the broker in memory is down", retryable=True)

    def bounds(self, tp: TopicPartition) -> tuple[int, int]:
        """First offset that is kept and the next one to be written."""
        with self._changed:
            return self._low.get(tp, 0), len(self._logs[tp.topic][tp.partition])

    def read(self, tp: TopicPartition, offset: int, limit: int) -> Sequence[MemoryRecord]:
        """At most `limit` records from `offset` on."""
        with self._changed:
            return self._logs[tp.topic][tp.partition][offset : offset + limit]

    def wait(self, positions: Positions, timeout_s: float) -> None:
        """Wait until there is something to read at `positions`, or `wake` is called."""
        with self._changed:
            if not any(position < len(self._logs[t][p]) for (t, p), position in positions.items()):
                self._changed.wait(timeout_s)

    def wake(self) -> None:
        """End every `wait`."""
        with self._changed:
            self._changed.notify_all()

    def initialise(self, transactional_id: str) -> int:
        """Own a transactional id, fencing who had it. Returns: the epoch that shows it."""
        self.check()
        with self._changed:
            self._epochs[transactional_id] = self._epochs.get(transactional_id, 0) + 1
            return self._epochs[transactional_id]

    def check_epoch(self, transactional_id: str, epoch: int) -> None:
        """Raises: Fenced when the id was initialised since."""
        if self._epochs.get(transactional_id) != epoch:
            raise Fenced(f"another producer has {transactional_id}")

    def commit_transaction(
        self,
        transactional_id: str,
        epoch: int,
        records: Sequence[OutboundBatch],
        positions: Positions,
        generation: object,
    ) -> None:
        """Records and offsets, all or nothing. Raises: Fenced; SinkError, retryable, for an older generation."""
        self.check()
        with self._changed:
            self.check_epoch(transactional_id, epoch)
            if positions and generation != self._generation:
                raise SinkError(f"generation {generation} is not {self._generation}", retryable=True)
            for batch in records:
                self._append(batch)
            self._commit(positions)
            self._changed.notify_all()

    def _append(self, batch: OutboundBatch) -> None:
        logs = self._logs[batch.topic]
        for row in range(len(batch)):
            partition = batch.partition[row] % len(logs)
            log = logs[partition]
            log.append(
                MemoryRecord(
                    partition=partition,
                    offset=len(log),
                    key=batch.key[row],
                    value=batch.value[row],
                    headers=batch.headers[row] if batch.headers else None,
                    timestamp_ms=batch.timestamp_ms[row] if batch.timestamp_ms else -1,
                )
            )

    def _commit(self, positions: Positions) -> None:
        self._offsets.update(positions)
        self.commits.append(dict(positions))
        self._changed.notify_all()
