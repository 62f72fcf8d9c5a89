"""The batch that grows until the engine is free.

The poll thread adds chunks of records as they arrive; the compute thread takes all that is there, up to the bounds,
the moment it is ready for more. So an idle worker answers a single record at once, and a busy one makes large batches
by itself. `max_delay_s` makes the first record wait for company, for engines that want full batches.

Pure: no threads, no clock of its own. `worker.mailbox` puts a lock around it.
"""

from __future__ import annotations

from collections import deque

from streamserve.batch import CloseReason, RecordBatch


class Batcher:
    """A queue of chunks that is taken in batches.

    Args:
        max_size: most records in a batch.
        max_bytes: most bytes of values in a batch (a single larger record still goes, alone).
        max_delay_s: how long the oldest record may wait for a full batch.
        capacity: records held at which `full` says stop; so does the volume of as many full batches.
    """

    def __init__(self, *, max_size: int, max_bytes: int, max_delay_s: float, capacity: int) -> None:
        self._max_size = max_size
        self._max_bytes = max_bytes
        self._max_delay_s = max_delay_s
        self._capacity = capacity
        self._capacity_bytes = max_bytes * max(1, capacity // max_size)
        self._chunks: deque[tuple[RecordBatch, int]] = deque()
        self._records = 0
        self._bytes = 0

    def __len__(self) -> int:
        return self._records

    @property
    def full(self) -> bool:
        """Whether no more should be added."""
        return self._records >= self._capacity or self._bytes >= self._capacity_bytes

    def add(self, chunk: RecordBatch) -> None:
        """Append records."""
        volume = _volume(chunk.value)
        self._chunks.append((chunk, volume))
        self._records += len(chunk)
        self._bytes += volume

    def clear(self) -> None:
        """Drop everything."""
        self._chunks.clear()
        self._records = self._bytes = 0

    def ready_in_s(self, now_s: float) -> float | None:
        """Seconds until a batch may be taken: 0 now, None while there is nothing."""
        if not self._records:
            return None
        if self._max_delay_s <= 0 or self._records >= self._max_size or self._bytes >= self._max_bytes:
            return 0.0
        return max(0.0, self._chunks[0][0].polled_s + self._max_delay_s - now_s)

    def take(self) -> tuple[RecordBatch, CloseReason]:
        """The next batch and why it is no larger. Only when `ready_in_s` is 0."""
        taken: list[RecordBatch] = []
        size = volume = 0
        reason: CloseReason = "delay" if self._max_delay_s > 0 else "idle"
        while self._chunks and size < self._max_size:
            chunk, chunk_bytes = self._chunks[0]
            if taken and chunk.epochs is not taken[0].epochs:
                reason = "epoch"
                break
            self._chunks.popleft()
            room, room_bytes = self._max_size - size, self._max_bytes - volume
            if len(chunk) > room or chunk_bytes > room_bytes:
                reason = "bytes"
                fit = _fitting(chunk, room, room_bytes) or (0 if taken else 1)
                chunk, chunk_bytes = self._split(chunk, chunk_bytes, fit)
            if len(chunk):
                taken.append(chunk)
            size += len(chunk)
            volume += chunk_bytes
            if reason == "bytes":
                break
        self._records -= size
        self._bytes -= volume
        return RecordBatch.concat(taken), "size" if size == self._max_size else reason

    def _split(self, chunk: RecordBatch, chunk_bytes: int, at: int) -> tuple[RecordBatch, int]:
        """The first `at` records of a chunk and their bytes; the rest goes back to the front."""
        if at == len(chunk):
            return chunk, chunk_bytes
        head = chunk.rows(0, at)
        head_bytes = _volume(head.value)
        self._chunks.appendleft((chunk.rows(at, len(chunk)), chunk_bytes - head_bytes))
        return head, head_bytes


def _fitting(chunk: RecordBatch, room: int, room_bytes: int) -> int:
    """How many leading records of `chunk` fit."""
    for count, value in enumerate(chunk.value[:room]):
        room_bytes -= len(value or b"")
        if room_bytes < 0:
            return count
    return min(room, len(chunk))


def _volume(values: list[bytes | None]) -> int:
    return sum(map(len, filter(None, values)))
