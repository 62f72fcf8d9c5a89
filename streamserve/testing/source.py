"""The in-memory twin of the Kafka source."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Literal

from streamserve.batch import Headers, Positions, RecordBatch, TopicPartition
from streamserve.clock import Clock
from streamserve.pipeline.assignment import Assignment, tell_out_of_range
from streamserve.ports import AssignmentListener
from streamserve.telemetry.logs import Log
from streamserve.testing.broker import MemoryBroker, MemoryRecord
from streamserve.testing.faults import FaultPlan

Change = Literal["assign", "revoke", "lose"]


class MemorySource:
    """Port `Source` over a `MemoryBroker`; rebalances when a test says so.

    `assign`, `revoke` and `lose` may be called by any thread; the next `poll` carries them out.

    Args:
        broker: where records come from.
        topics: what to read.
        assignment: told what is owned and delivered.
        start: where partitions without a committed position start: `beginning`, `end` or epoch milliseconds.
        everything: own all partitions from the start, added ones too; without it, only what `assign` gives.

    Attributes:
        faults: what is to fail.
        paused: whether it is.
    """

    def __init__(
        self,
        broker: MemoryBroker,
        topics: Sequence[str],
        assignment: Assignment,
        clock: Clock,
        log: Log,
        *,
        start: str = "beginning",
        everything: bool = True,
    ) -> None:
        self.faults = FaultPlan()
        self.paused = False
        self._broker = broker
        self._topics = list(topics)
        self._assignment = assignment
        self._clock = clock
        self._log = log
        self._start = start
        self._everything = everything
        self._listener: AssignmentListener | None = None
        self._metadata: object = None
        self._changes: deque[tuple[Change, list[TopicPartition]]] = deque()
        self._positions: dict[TopicPartition, int] = {}
        self._seen: set[TopicPartition] = set()

    @property
    def metadata(self) -> object:
        return self._metadata

    def open(self, listener: AssignmentListener) -> None:
        self._broker.check()
        for topic in self._topics:
            self._broker.partitions(topic)
        self._listener = listener

    def poll(self, max_records: int, timeout_s: float) -> RecordBatch | None:
        with self.faults.around("poll"):
            self._rebalance()
            self._metadata = self._broker.generation
            records = [] if self.paused else self._take(max_records)
            if not records:
                self._broker.wait({} if self.paused else self._positions, timeout_s)
                if self._changes or self.paused:
                    return None
                records = self._take(max_records)
            return self._batch(records) if records else None

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def rewind(self, *, reread: bool) -> bool:
        with self.faults.around("rewind"):
            self._broker.check()
            self.resume()
            positions = self._assignment.rewind()
            if reread:
                known = {tp: at for tp, at in self._broker.offsets.items() if tp in positions}
                self._assignment.committed(known, self._assignment.epochs)
            after = self._assignment.positions()
            self._positions.update(after)
            return after != positions

    def commit(self, positions: Positions) -> None:
        with self.faults.around("commit_offsets"):
            self._broker.commit_offsets(positions, self._metadata)

    def close(self) -> None:
        listener, self._listener = self._listener, None
        owned = list(self._positions)
        if listener is not None and owned:
            listener.on_revoked(owned)
            self._leave(owned)
            self._broker.rebalanced()

    # -- rebalance on demand -------------------------------------------------------------------------------------

    def assign(self, *partitions: TopicPartition) -> None:
        """Give it these partitions."""
        self._changes.append(("assign", list(partitions)))
        self._broker.wake()

    def revoke(self, *partitions: TopicPartition) -> None:
        """Ask for these partitions; what is in flight of them may still be committed."""
        self._changes.append(("revoke", list(partitions)))
        self._broker.wake()

    def lose(self, *partitions: TopicPartition) -> None:
        """Take these partitions away."""
        self._changes.append(("lose", list(partitions)))
        self._broker.wake()

    @property
    def rebalancing(self) -> bool:
        """Whether a change waits to be carried out."""
        return bool(self._changes)

    def _rebalance(self) -> None:
        if self._everything:
            self._find_partitions()
        steps: dict[Change, Callable[[list[TopicPartition]], None]] = {
            "assign": self._assigned,
            "revoke": self._revoked,
            "lose": self._lost,
        }
        while self._changes:
            change, partitions = self._changes[0]
            steps[change](partitions)
            self._changes.popleft()

    def _find_partitions(self) -> None:
        every = [TopicPartition(t, p) for t in self._topics for p in range(self._broker.partitions(t))]
        fresh = [tp for tp in every if tp not in self._seen]
        if fresh:
            self._assigned(fresh)

    def _assigned(self, partitions: list[TopicPartition]) -> None:
        self._metadata = self._broker.rebalanced()
        self._seen.update(partitions)
        self._assignment.assign(partitions)
        self._positions.update({tp: self._first_position(tp) for tp in partitions})
        if self._listener is not None:
            self._listener.on_assigned(partitions)

    def _revoked(self, partitions: list[TopicPartition]) -> None:
        self._metadata = self._broker.generation
        if self._listener is not None:
            self._listener.on_revoked(partitions)
        self._leave(partitions)
        self._metadata = self._broker.rebalanced()

    def _lost(self, partitions: list[TopicPartition]) -> None:
        self._broker.rebalanced()
        self._leave(partitions)
        if self._listener is not None:
            self._listener.on_lost(partitions)

    def _leave(self, partitions: list[TopicPartition]) -> None:
        self._assignment.leave(partitions)
        for tp in partitions:
            self._positions.pop(tp, None)

    # -- records -------------------------------------------------------------------------------------------------

    def _first_position(self, tp: TopicPartition) -> int:
        low, high = self._broker.bounds(tp)
        committed = self._broker.offsets.get(tp)
        if committed is None:
            return self._start_offset(tp, low, high)
        if low <= committed <= high:
            return committed
        start = low if committed < low else high
        tell_out_of_range(self._log, tp, committed=committed, low=low, high=high, start=start)
        return start

    def _start_offset(self, tp: TopicPartition, low: int, high: int) -> int:
        if self._start in {"beginning", "end"}:
            return low if self._start == "beginning" else high
        later = (r.offset for r in self._broker.read(tp, low, high - low) if r.timestamp_ms >= int(self._start))
        return next(later, high)

    def _take(self, limit: int) -> list[tuple[str, MemoryRecord]]:
        taken: list[tuple[str, MemoryRecord]] = []
        for tp, position in list(self._positions.items()):
            records = self._broker.read(tp, position, limit - len(taken))
            taken += [(tp.topic, record) for record in records]
            self._positions[tp] = position + len(records)
            if records:  # at the end of the line, so that no partition starves
                self._positions[tp] = self._positions.pop(tp)
        return taken

    def _batch(self, taken: list[tuple[str, MemoryRecord]]) -> RecordBatch:
        first: dict[TopicPartition, int] = {}
        after: dict[TopicPartition, int] = {}
        for topic, record in taken:
            tp = TopicPartition(topic, record.partition)
            first.setdefault(tp, record.offset)
            after[tp] = record.offset + 1
        self._assignment.delivered(first, after)

        def headers() -> list[Headers | None]:
            column = [record.headers for _, record in taken]
            return column if any(column) else []

        return RecordBatch(
            topic=[topic for topic, _ in taken],
            partition=[record.partition for _, record in taken],
            offset=[record.offset for _, record in taken],
            timestamp_ms=[record.timestamp_ms for _, record in taken],
            key=[record.key for _, record in taken],
            value=[record.value for _, record in taken],
            headers=headers,
            epochs=self._assignment.epochs,
            positions=after,
            polled_s=self._clock.monotonic_s(),
        )
