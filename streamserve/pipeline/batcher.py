"""The batch that grows until the engine is free.

The poll thread adds chunks of records as they arrive; whoever scores takes all that is there, up to the bounds,
the moment it is ready for more. So an idle worker answers a single record at once, and a busy one makes large batches
by itself. `max_delay_s` makes the first record wait for company, for engines that want full batches; a planner bounds
the batch further by the time that its records have left (`slo`).

Pure: no threads, no clock of its own. `worker.mailbox` puts a lock around it.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple, Protocol

from streamserve.batch import CloseReason, RecordBatch


class BatchPlanner(Protocol):
    """Bounds batches by time; all times are monotonic seconds."""

    def due_s(self, records: RecordBatch) -> float:
        """When the oldest of records that were polled just now must be done."""
        ...

    def rows(self, due_s: float, now_s: float) -> int:
        """Most rows of a batch that is taken now and holds a record due then; at least 1."""
        ...

    def wait_s(self, due_s: float, now_s: float, rows: int) -> float:
        """How long a batch of `rows` may still wait for company."""
        ...


class _Chunk(NamedTuple):
    records: RecordBatch
    volume: int
    due_s: float


class Batcher:
    """A queue of chunks that is taken in batches.

    Args:
        max_size: most records in a batch.
        max_bytes: most bytes of values in a batch (a single larger record still goes, alone).
        max_delay_s: how long the oldest record may wait for a full batch.
        capacity: records held at which `full` says stop; so does the volume of as many full batches.
        planner: bounds batches by time, when there is a latency goal.
    """

    def __init__(
        self,
        *,
        max_size: int,
        max_bytes: int,
        max_delay_s: float,
        capacity: int,
        planner: BatchPlanner | None = None,
    ) -> None:
        self._max_size = max_size
        self._max_bytes = max_bytes
        self._max_delay_s = max_delay_s
        self._capacity = capacity
        self._capacity_bytes = max_bytes * max(1, capacity // max_size)
        self._planner = planner
        self._chunks: deque[_Chunk] = deque()
        self._records = 0
        self._bytes = 0

    def __len__(self) -> int:
        return self._records

    @property
    def whole(self) -> bool:
        """Whether there is enough for a batch of the largest size."""
        return self._records >= self._max_size or self._bytes >= self._max_bytes

    @property
    def full(self) -> bool:
        """Whether no more should be added."""
        return self._records >= self._capacity or self._bytes >= self._capacity_bytes

    def add(self, records: RecordBatch) -> None:
        """Append records that were polled just now."""
        volume = _volume(records.value)
        due_s = self._planner.due_s(records) if self._planner is not None else 0.0
        self._chunks.append(_Chunk(records, volume, due_s))
        self._records += len(records)
        self._bytes += volume

    def clear(self) -> None:
        """Drop everything."""
        self._chunks.clear()
        self._records = self._bytes = 0

    def complete(self, now_s: float) -> bool:
        """Whether the next batch has all it may hold, so that waiting would not make it larger."""
        if self._records >= self._max_size or self._bytes >= self._max_bytes:
            return True
        return bool(self._chunks) and self._records >= self._bound(self._chunks[0], now_s)

    def ready_in_s(self, now_s: float) -> float | None:
        """Seconds until a batch may be taken: 0 now, None while there is nothing."""
        if not self._records:
            return None
        if self._max_delay_s <= 0 or self.complete(now_s):
            return 0.0
        oldest = self._chunks[0]
        wait_s = oldest.records.polled_s + self._max_delay_s - now_s
        if self._planner is not None:
            wait_s = min(wait_s, self._planner.wait_s(oldest.due_s, now_s, self._records))
        return max(0.0, wait_s)

    def take(self, now_s: float) -> tuple[RecordBatch, CloseReason]:
        """The next batch and why it is no larger. Only when there is something."""
        taken: list[RecordBatch] = []
        size = volume = 0
        most = self._max_size
        reason: CloseReason = "delay" if self._max_delay_s > 0 else "idle"
        while self._chunks and size < most:
            chunk = self._chunks[0]
            if taken and chunk.records.epochs is not taken[0].epochs:
                reason = "epoch"
                break
            most = min(most, self._bound(chunk, now_s))
            if size >= most:
                break
            self._chunks.popleft()
            room, room_bytes = most - size, self._max_bytes - volume
            if len(chunk.records) > room or chunk.volume > room_bytes:
                fit = _fitting(chunk.records, room, room_bytes)
                reason = reason if fit == room else "bytes"
                chunk = self._split(chunk, fit or (0 if taken else 1))
            if len(chunk.records):
                taken.append(chunk.records)
            size += len(chunk.records)
            volume += chunk.volume
            if reason == "bytes":
                break
        self._records -= size
        self._bytes -= volume
        if size >= most:
            reason = "size" if most == self._max_size else "deadline"
        return RecordBatch.concat(taken), reason

    def _bound(self, chunk: _Chunk, now_s: float) -> int:
        """Most rows of a batch with this chunk in it, by time."""
        return self._planner.rows(chunk.due_s, now_s) if self._planner is not None else self._max_size

    def _split(self, chunk: _Chunk, at: int) -> _Chunk:
        """The first `at` records of a chunk; the rest goes back to the front."""
        records, volume, due_s = chunk
        if at == len(records):
            return chunk
        head = records.rows(0, at)
        head_bytes = _volume(head.value)
        self._chunks.appendleft(_Chunk(records.rows(at, len(records)), volume - head_bytes, due_s))
        return _Chunk(head, head_bytes, due_s)


def _fitting(chunk: RecordBatch, room: int, room_bytes: int) -> int:
    """How many leading records of `chunk` fit."""
    for count, value in enumerate(chunk.value[:room]):
        room_bytes -= len(value or b"")
        if room_bytes < 0:
            return count
    return min(room, len(chunk))


def _volume(values: list[bytes | None]) -> int:
    return sum(map(len, filter(None, values)))
