"""Which partitions are ours, how far each was delivered and committed, and whether a batch is still current.

One `Assignment` is shared by the source (which delivers), the commit thread (which commits) and the rebalance
callbacks. Every owned partition has an *epoch*; it changes when the partition leaves and when the worker rewinds
after an abort. A batch carries the epochs of the time it was polled; a row whose partition has another epoch now is
stale and is dropped wherever it is met. So losing a partition, and starting over, are one mechanism.

Positions only grow while an epoch lasts. A partition is *in flight* while more was delivered than committed.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Sequence

from streamserve.batch import Epochs, Positions, TopicPartition
from streamserve.clock import Clock, Deadline
from streamserve.telemetry.logs import Log


class Assignment:
    """Epochs and positions of the owned partitions. Thread-safe."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._next_epoch = itertools.count(1)
        self._epochs: dict[TopicPartition, int] = {}
        self._delivered: dict[TopicPartition, int] = {}
        self._committed: dict[TopicPartition, int] = {}
        self._interrupted = False

    @property
    def epochs(self) -> Epochs:
        """The epoch of every owned partition; immutable, a new mapping after each change."""
        return self._epochs

    def share_of(self, partitions: int) -> Callable[[], float]:
        """Tells, whenever asked, which share of so many partitions is owned; one of them at least, all at most."""
        return lambda: min(1.0, max(1, len(self._epochs)) / max(1, partitions))

    @property
    def interrupted(self) -> bool:
        """Whether a rewind is due."""
        return self._interrupted

    def assign(self, partitions: Iterable[TopicPartition]) -> None:
        """These partitions are ours, nothing of them delivered yet."""
        with self._changed:
            self._epochs = {**self._epochs, **{tp: next(self._next_epoch) for tp in partitions}}

    def leave(self, partitions: Iterable[TopicPartition]) -> None:
        """These partitions are no longer ours; all that is in flight of them is stale from now on."""
        gone = set(partitions)
        with self._changed:
            self._epochs = {tp: epoch for tp, epoch in self._epochs.items() if tp not in gone}
            for tp in gone:
                self._delivered.pop(tp, None)
                self._committed.pop(tp, None)
            self._changed.notify_all()

    def rewind(self) -> dict[TopicPartition, int]:
        """Make everything in flight stale. Returns: where to read on, for partitions that delivered anything."""
        with self._changed:
            self._epochs = {tp: next(self._next_epoch) for tp in self._epochs}
            self._delivered = dict(self._committed)
            self._interrupted = False
            self._changed.notify_all()
            return dict(self._committed)

    def delivered(self, first: Positions, after: Positions) -> None:
        """A batch went out: per partition its first offset and the position after its last."""
        with self._changed:
            for tp, offset in first.items():
                self._committed.setdefault(tp, offset)
            self._delivered.update(after)

    def committed(self, positions: Positions, epochs: Epochs) -> None:
        """These positions, of batches polled under `epochs`, are committed."""
        with self._changed:
            for tp, position in positions.items():
                if self._epochs.get(tp) == epochs.get(tp) and position > self._committed.get(tp, -1):
                    self._committed[tp] = position
            self._changed.notify_all()

    def position(self, tp: TopicPartition) -> int | None:
        """The committed position (or the first delivered one) of a partition; None before its first record."""
        return self._committed.get(tp)

    def positions(self) -> dict[TopicPartition, int]:
        """Committed positions of all partitions that delivered anything."""
        with self._changed:
            return dict(self._committed)

    def stale(self, positions: Positions, epochs: Epochs) -> set[TopicPartition]:
        """The partitions of a batch polled under `epochs` that are no longer current."""
        now = self._epochs
        if now is epochs:
            return set()
        return {tp for tp in positions if now.get(tp) != epochs.get(tp)}

    def in_flight(self, partitions: Sequence[TopicPartition] | None = None) -> bool:
        """Whether more was delivered than committed, of these partitions or of all."""
        with self._changed:
            return self._in_flight(partitions)

    def interrupt(self) -> None:
        """End every `wait_settled` at once: a rewind is due, and only the waiting thread can do it."""
        with self._changed:
            self._interrupted = True
            self._changed.notify_all()

    def wait_settled(self, partitions: Sequence[TopicPartition] | None, timeout_s: float) -> bool:
        """Wait until nothing of `partitions` (None: of all) is in flight. Returns: whether that came to be."""
        deadline = Deadline.after(timeout_s, self._clock)
        with self._changed:
            while self._in_flight(partitions):
                if self._interrupted or deadline.expired():
                    return False
                self._changed.wait(deadline.remaining_s())
            return True

    def _in_flight(self, partitions: Sequence[TopicPartition] | None) -> bool:
        chosen = self._delivered if partitions is None else partitions
        return any(self._delivered.get(tp, -1) > self._committed.get(tp, -1) for tp in chosen)


def tell_out_of_range(log: Log, tp: TopicPartition, *, committed: int, low: int, high: int, start: int) -> None:
    """The alarm for a committed position that cannot be read; `low` to `high` can, and reading goes on at `start`."""
    log.error(
        "offset_out_of_range",
        topic=tp.topic,
        partition=tp.partition,
        committed=committed,
        low=low,
        high=high,
        skipped=max(0, low - committed),
        reading_from=start,
    )
