"""Between poll and compute: the growing batch under a lock.

The poll thread puts chunks, the compute thread takes batches; whoever has nothing to do sleeps here. The rules of what
a batch may hold are `pipeline.batcher`'s. While other batches are before the engine or in it (`before_engine`), a batch
goes only when it could not grow any more.

The poll thread may `borrow` the compute thread's place while that one sleeps and nothing is ready; then it takes the
batches itself (`take_now`), until it gives the place back.
"""

from __future__ import annotations

import threading

from streamserve.batch import CloseReason, RecordBatch
from streamserve.clock import Clock
from streamserve.pipeline.batcher import Batcher


class Mailbox:
    """A `Batcher` that two threads share."""

    def __init__(self, batcher: Batcher, clock: Clock) -> None:
        self._batcher = batcher
        self._clock = clock
        lock = threading.Lock()
        self._arrived = threading.Condition(lock)
        self._taken = threading.Condition(lock)
        self._ahead = 0
        self._sleeping = False
        self._borrowed = False
        self._full_batches = 0
        self._closed = False

    def put(self, chunk: RecordBatch) -> None:
        """Add records; never blocks (the poll thread asks `wait_room` first)."""
        with self._arrived:
            self._batcher.add(chunk)
            if not self._borrowed:
                self._arrived.notify()

    @property
    def behind(self) -> bool:
        """Whether scoring lags: no more is taken in, or a full batch waits, or a borrower takes one after another."""
        return self._batcher.full or self._batcher.whole or (self._borrowed and self._full_batches > 1)

    def wait_room(self, timeout_s: float) -> bool:
        """Wait until more may be added. Returns: whether it may."""
        with self._taken:
            if self._batcher.full and not self._closed:
                self._taken.wait(timeout_s)
            return not self._batcher.full

    def take(self) -> tuple[RecordBatch, CloseReason] | None:
        """The next batch, as soon as there is one; None once the mailbox is closed and empty."""
        with self._arrived:
            while True:
                wait_s = None if self._borrowed else self._ready_in_s()
                if wait_s is not None and wait_s <= 0:
                    batch = self._batcher.take(self._clock.monotonic_s())
                    self._taken.notify()
                    return batch
                if not len(self._batcher) and self._closed:
                    return None
                self._sleeping = True
                self._taken.notify()
                self._arrived.wait(wait_s)
                self._sleeping = False

    def _ready_in_s(self) -> float | None:
        now_s = self._clock.monotonic_s()
        wait_s = self._batcher.ready_in_s(now_s)
        if wait_s is not None and self._closed:
            return 0.0
        if wait_s is not None and self._ahead:
            return 0.0 if self._batcher.complete(now_s) else None
        return wait_s

    def borrow(self, timeout_s: float) -> bool:
        """Take the compute thread's place, once it sleeps and nothing is ready. Returns: whether that came to be."""
        with self._taken:
            self._borrowed = self._taken.wait_for(
                lambda: self._sleeping and self._ready_in_s() != 0 and not self._closed, timeout_s
            )
            self._full_batches = 0
            return self._borrowed

    def give_back(self) -> None:
        """Let the compute thread take what is here and what comes."""
        with self._arrived:
            self._borrowed = False
            self._arrived.notify()

    def ready_in_s(self) -> float | None:
        """Seconds until `take_now` has a batch; None while there is nothing."""
        with self._arrived:
            return self._ready_in_s()

    def take_now(self) -> tuple[RecordBatch, CloseReason] | None:
        """The next batch; None when there is none, or it may still wait for company. In the borrowed place only."""
        with self._arrived:
            self._full_batches = self._full_batches + 1 if self._batcher.whole else 0
            wait_s = self._ready_in_s()
            return self._batcher.take(self._clock.monotonic_s()) if wait_s is not None and wait_s <= 0 else None

    def before_engine(self, change: int) -> None:
        """So many more batches, or fewer, are before the engine or in it: one that was taken now would wait there."""
        with self._arrived:
            self._ahead += change
            if not self._ahead:
                self._arrived.notify()

    def close(self, *, discard: bool = False) -> None:
        """No more records come; what is there may still be taken, unless it is discarded."""
        with self._arrived:
            self._closed = True
            if discard:
                self._batcher.clear()
            self._arrived.notify_all()
            self._taken.notify_all()
