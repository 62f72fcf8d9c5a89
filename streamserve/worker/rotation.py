"""Between compute, write and commit: when a transaction closes, and what happens to all of them after an abort.

    compute --put--> outbox --take/more--> write --hand_over--> written --next--> commit

A transaction takes in batches as long as more of them are ready, or about to be, up to `commit_interval`; with nothing
more to write it closes at once, provided the commit thread will have room for it and `commit_min_interval` has passed
since the last one closed. A batch that closed because it was full has more behind it. So an idle worker commits a
single record within milliseconds, and a busy one makes few large transactions (measured: a tenth less CPU).
While k commits, k+1 may stand written and k+2 be filled.

After a failure `abort_and_wait` brings writer and queues to rest; everything in them is dropped, because it will be
polled again; `resume` lets the writer go on.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from streamserve.batch import SampleRecords
from streamserve.clock import Clock
from streamserve.errors import StreamServeError
from streamserve.pipeline.stages import ScoredBatch
from streamserve.ports import Transaction

OUTBOX_BATCHES = 4


@dataclass(slots=True)
class Written:
    """A flushed transaction and the batches it holds.

    Attributes:
        transaction: None when every batch turned out to be stale.
        batches: what was written.
        taken: batches taken from the outbox for it, stale ones too.
        samples: the sample chunks in it.
    """

    transaction: Transaction | None = None
    batches: list[ScoredBatch] = field(default_factory=list)
    taken: int = 0
    samples: SampleRecords | None = None


class Rotation:
    """The queues around the write thread. Thread-safe.

    Args:
        interval_s: longest time a transaction takes in batches.
        min_interval_s: shortest time between two closings.
        want: told whether another batch would be written at once.
        eager: whether one is wanted before the transaction could close, because readers see it before that.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        interval_s: float,
        min_interval_s: float,
        want: Callable[[bool], None] = lambda _: None,
        eager: bool = False,
    ) -> None:
        self._clock = clock
        self._interval_s = interval_s
        self._min_interval_s = min_interval_s
        self._want = want
        self._eager = eager
        lock = threading.Lock()
        self._room = threading.Condition(lock)
        self._work = threading.Condition(lock)
        self._ready = threading.Condition(lock)
        self._outbox: deque[tuple[ScoredBatch, bool]] = deque()
        self._more_behind = False
        self._written: Written | None = None
        self._closed_s = -1e9
        self._error: StreamServeError | None = None
        self._parked = False
        self._held = 0
        self._input_over = False
        self._output_over = False

    @property
    def held(self) -> int:
        """Batches scored and not settled."""
        return self._held

    @property
    def aborting(self) -> bool:
        """Whether the writer is to come to rest."""
        return self._error is not None

    @property
    def waiting(self) -> bool:
        """Whether a batch is ready for the writer."""
        return bool(self._outbox)

    # -- compute thread ------------------------------------------------------------------------------------------

    def put(self, batch: ScoredBatch, *, more_behind: bool = False) -> None:
        """Queue a batch, and say whether the next one is on its way; waits while the outbox is full, and in an abort.

        A batch that waited through an abort may be older than the rewind or younger; its epochs tell the writer.
        """
        with self._room:
            while (len(self._outbox) >= OUTBOX_BATCHES or self._error is not None) and not self._output_over:
                self._room.wait()
            self._outbox.append((batch, more_behind))
            self._held += 1
            self._work.notify()

    def close(self) -> None:
        """No more batches come."""
        with self._work:
            self._input_over = True
            self._work.notify()

    # -- write thread --------------------------------------------------------------------------------------------

    def take(self) -> ScoredBatch | None:
        """The first batch of a new transaction; None when no more will come. Parks here during an abort."""
        with self._work:
            while True:
                if self._output_over:
                    return None
                self._park()
                if self._outbox and self._error is None:
                    return self._pop()
                if self._input_over and self._error is None:
                    return None
                pause_s = self._pause_s()
                self._wait(pause_s or None, wanted=self._eager or pause_s == 0)

    def more(self, since_s: float) -> ScoredBatch | None:
        """Another batch for the transaction opened at `since_s`; None: flush it now."""
        with self._work:
            while self._error is None and not self._output_over:
                now_s = self._clock.monotonic_s()
                left_s = since_s + self._interval_s - now_s
                if left_s <= 0:
                    return None
                if self._outbox:
                    return self._pop()
                if self._input_over:
                    return None
                pause_s = self._pause_s()
                if pause_s is not None and not self._more_behind:
                    if pause_s == 0:
                        return None
                    left_s = min(left_s, pause_s)
                self._wait(left_s, wanted=True)
            return None

    def hand_over(self, written: Written) -> None:
        """Give a flushed transaction to the commit thread; waits for room. Dropped during an abort."""
        with self._work:
            self._closed_s = self._clock.monotonic_s()
            while self._written is not None and self._error is None and not self._output_over:
                self._work.wait()
            if self._error is None and not self._output_over:
                self._written = written
                self._ready.notify()

    def fail(self, error: StreamServeError) -> None:
        """Report that writing failed; the commit thread takes it from here."""
        with self._work:
            self._error = self._error or error
            self._ready.notify()

    def finish(self) -> None:
        """Nothing more is written; a transaction that stands written may still be committed."""
        with self._work:
            self._output_over = True
            self._ready.notify()
            self._work.notify()
            self._room.notify_all()

    # -- commit thread -------------------------------------------------------------------------------------------

    def next(self) -> Written | None:
        """The next transaction to commit; None when no more will come. Raises: what the writer reported."""
        with self._ready:
            while True:
                if self._error is not None:
                    raise self._error
                if self._written is not None:
                    written, self._written = self._written, None
                    self._work.notify()
                    return written
                if self._output_over:
                    return None
                self._ready.wait()

    def settled(self, written: Written) -> None:
        """The batches of this transaction are committed, or were dropped."""
        with self._ready:
            self._held -= written.taken

    def abort_and_wait(self, error: StreamServeError, timeout_s: float) -> bool:
        """Drop everything queued and wait until the writer has come to rest. Returns: whether it has."""
        with self._ready:
            self._error = self._error or error
            self._outbox.clear()
            self._written = None
            self._work.notify_all()
            self._room.notify_all()
            return self._ready.wait_for(lambda: self._parked or self._output_over, timeout_s)

    def resume(self) -> None:
        """The abort is over."""
        with self._work:
            self._error = None
            self._parked = False
            self._held = len(self._outbox)
            self._work.notify_all()
            self._room.notify_all()

    # ------------------------------------------------------------------------------------------------------------

    def _pause_s(self) -> float | None:
        """How long it is until a transaction may close; None while the commit thread has no room for it."""
        if self._written is not None:
            return None
        return max(0.0, self._closed_s + self._min_interval_s - self._clock.monotonic_s())

    def _wait(self, timeout_s: float | None, *, wanted: bool) -> None:
        """The write thread's waiting; a batch is wanted for as long as it would end it."""
        if wanted:
            self._want(True)
        self._work.wait(timeout_s)
        if wanted:
            self._want(False)

    def _pop(self) -> ScoredBatch:
        batch, self._more_behind = self._outbox.popleft()
        self._room.notify()
        return batch

    def _park(self) -> None:
        if self._error is not None and not self._parked:
            self._parked = True
            self._ready.notify_all()
