"""Who writes, when a transaction closes, and what happens to all of them after an abort.

    score ──put──> outbox ──pen──> open transaction ──take──> flush ──hand_over──> written ──next──> commit

There is one *pen*: whoever holds it writes. A thread that puts a batch takes the pen if it is free, and writes the
batch itself; while the flush thread holds it, batches gather in the outbox, and the flush thread writes them as soon
as it is done. So the order is kept, scoring goes on during a flush, and in a flood batches are written by the thread
that made them (docs/performance.md has what that saves). Whoever scores waits for no commit: a batch whose
transaction cannot be opened at once is left to the flush thread.

A transaction takes in batches as long as more of them are ready, or about to be, up to `commit_interval`; with nothing
more to write it closes at once, provided the commit thread will have room for it and `commit_min_interval` has passed
since the last one closed. A batch that closed because it was full has more behind it. So an idle worker commits a
single record within milliseconds, and a busy one makes few large transactions (measured: a tenth less CPU).
While k commits, k+1 may stand written and k+2 be filled.

After a failure `abort_and_wait` brings pen and queues to rest; everything in them is dropped, because it will be polled
again; `resume` lets them go on.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from streamserve.batch import SampleRecords
from streamserve.clock import Clock, Deadline
from streamserve.config.settings import DeliverySettings
from streamserve.errors import StreamServeError
from streamserve.pipeline.stages import ScoredBatch
from streamserve.ports import Transaction

OUTBOX_BATCHES = 4


@dataclass(slots=True)
class Written:
    """A transaction and the batches it holds.

    Attributes:
        transaction: None while, or because, every batch turned out to be stale.
        batches: what was written.
        taken: batches taken from the outbox for it, stale ones too.
        samples: the sample chunks in it.
        closing: whether it takes in no more.
        shown: how many of `taken` readers can see already, with a guarantee that lets them.
    """

    transaction: Transaction | None = None
    batches: list[ScoredBatch] = field(default_factory=list)
    taken: int = 0
    samples: SampleRecords | None = None
    closing: bool = False
    shown: int = 0


class Rotation:
    """The queues from scoring to commit. Thread-safe.

    Args:
        write: writes a batch into a transaction, on the thread that holds the pen; told whether it may wait for a
            transaction to begin. Returns: whether it did.
        interval_s: longest time a transaction takes in batches.
        min_interval_s: shortest time between two closings.
        eager: whether readers see what is flushed before the commit, so that an open transaction is flushed as soon as
            nothing more is ready for it.
    """

    def __init__(
        self,
        clock: Clock,
        write: Callable[[Written, ScoredBatch, bool], bool],
        *,
        interval_s: float,
        min_interval_s: float,
        eager: bool = False,
    ) -> None:
        self._clock = clock
        self._write = write
        self._interval_s = interval_s
        self._min_interval_s = min_interval_s
        self._eager = eager
        lock = threading.Lock()
        self._room = threading.Condition(lock)
        self._work = threading.Condition(lock)
        self._ready = threading.Condition(lock)
        self._outbox: deque[tuple[ScoredBatch, bool]] = deque()
        self._pen_taken = False
        self._open: Written | None = None
        self._since_s = 0.0
        self._more_behind = False
        self._written: Written | None = None
        self._closed_s = -1e9
        self._error: StreamServeError | None = None
        self._parked = False
        self._held = 0
        self._input_over = False
        self._output_over = False

    @classmethod
    def of(
        cls,
        delivery: DeliverySettings,
        clock: Clock,
        write: Callable[[Written, ScoredBatch, bool], bool],
        *,
        goal: bool,
    ) -> Rotation:
        """With the intervals of the settings, with a latency goal or without."""
        return cls(
            clock,
            write,
            interval_s=delivery.commit_interval_ms / 1000,
            min_interval_s=delivery.min_interval_ms(goal=goal) / 1000,
            eager=delivery.guarantee == "at_least_once",
        )

    @property
    def held(self) -> int:
        """Batches scored and not settled."""
        return self._held

    @property
    def aborting(self) -> bool:
        """Whether all writing is to come to rest."""
        return self._error is not None

    @property
    def flowing(self) -> bool:
        """Whether an open transaction stays open because more is behind its last batch."""
        return self._more_behind and self._open is not None

    # -- whoever scores ------------------------------------------------------------------------------------------

    def wait_room(self, timeout_s: float, *, wanted: bool = False) -> bool:
        """Wait until `put` would not wait; if `wanted`, until it would write at once what is shown or closed at once.

        Returns: whether that is so now.
        """
        deadline = Deadline.after(timeout_s, self._clock)
        with self._room:
            while not (self._is_wanted() if wanted else len(self._outbox) < OUTBOX_BATCHES and self._error is None):
                left_s = deadline.remaining_s()
                if left_s <= 0 or self._output_over:
                    return False
                self._room.wait(min(left_s, self._pause_s() or left_s))
            return True

    def put(self, batch: ScoredBatch, *, more_behind: bool = False) -> None:
        """Write a batch, or leave it to who is writing; waits while the outbox is full.

        A batch that is put during an abort may be older than the rewind or younger; its epochs tell.

        Args:
            batch: what was scored.
            more_behind: whether the next one is on its way.
        """
        with self._room:
            while len(self._outbox) >= OUTBOX_BATCHES and not self._output_over:
                self._room.wait()
            self._outbox.append((batch, more_behind))
            self._held += 1
            if self._pen_taken:
                return
            self._pen_taken = True
        self.write_out(may_wait=False)

    def nothing_behind(self) -> None:
        """What was said to be on its way does not come."""
        with self._work:
            if self._outbox:
                self._outbox[-1] = (self._outbox[-1][0], False)
            elif self._more_behind:
                self._more_behind = False
                self._work.notify()

    def close(self) -> None:
        """No more batches come."""
        with self._work:
            self._input_over = True
            self._work.notify()

    # -- whoever holds the pen -----------------------------------------------------------------------------------

    def write_out(self, *, may_wait: bool = True) -> None:
        """Write what is in the outbox, as far as the open transaction takes it in; then put the pen down."""
        while (entry := self._next_entry()) is not None:
            try:
                if self._write(*entry, may_wait):
                    self._wrote()
                else:
                    break
            except StreamServeError as error:
                self.fail(error)
        self._put_down()

    def _next_entry(self) -> tuple[Written, ScoredBatch] | None:
        """The open transaction, and the batch that is next for it; None when there is none, or it takes in no more."""
        with self._work:
            if not self._outbox or self._is_full() or self._error is not None or self._output_over:
                return None
            self._open = self._open or Written()
            return self._open, self._outbox[0][0]

    def _wrote(self) -> None:
        with self._work:
            if self._open is not None and self._outbox:  # else an abort came in between
                if not self._open.taken:
                    self._since_s = self._clock.monotonic_s()
                    self._work.notify()  # the flush thread minds the interval
                _, self._more_behind = self._outbox.popleft()
                self._open.taken += 1
                self._room.notify()

    def _put_down(self) -> None:
        with self._work:
            self._pen_taken = False
            if not self._more_behind or self._is_full() or self._outbox or self._error is not None:
                self._work.notify()
            if self._error is not None:
                self._ready.notify()
            self._room.notify()

    # -- flush thread --------------------------------------------------------------------------------------------

    def take(self) -> Written | None:
        """The pen, and the transaction to flush; None when no more will come. Parks here during an abort.

        It is `closing` when it is to be handed over, and stays open otherwise. `write_out` puts the pen down.
        """
        while self._seize():
            if (due := self._due()) is not None:
                return due
            self.write_out()
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

    def _seize(self) -> bool:
        """Wait for the pen and for something to do with it. Returns: False at the end."""
        with self._work:
            while not self._output_over:
                self._park()
                wait_s = None
                if self._error is None and not self._pen_taken:
                    wait_s = self._due_in_s()
                    if wait_s == 0:
                        self._pen_taken = True
                        return True
                    if wait_s is None and self._input_over:
                        return False
                elif self._open is not None and not self._is_full():
                    wait_s = self._left_s()
                self._work.wait(wait_s)
            return False

    def _due_in_s(self) -> float | None:
        """How long it is until there is something to write out, to show or to close; None: until somebody says so."""
        if self._outbox:
            return 0.0
        if self._open is None:
            return None
        if self._input_over or self._is_to_show(self._open):
            return 0.0
        left_s = self._left_s()
        if not self._more_behind and (pause_s := self._pause_s()) is not None:
            left_s = min(left_s, pause_s)
        return left_s

    def _due(self) -> Written | None:
        """What is to be flushed; None when there is something to write out before."""
        with self._work:
            opened = self._open
            if opened is None or (self._outbox and not self._is_full()):
                return None
            opened.closing = self._is_full() or self._input_over or (not self._more_behind and self._pause_s() == 0)
            opened.shown = opened.taken
            if opened.closing:
                self._open = None
            return opened

    # -- commit thread -------------------------------------------------------------------------------------------

    def next(self) -> Written | None:
        """The next transaction to commit; None when no more will come. Raises: what stopped the writing."""
        with self._ready:
            while True:
                if self._error is not None:
                    raise self._error
                if self._written is not None:
                    written, self._written = self._written, None
                    self._work.notify()
                    self._room.notify()
                    return written
                if self._output_over:
                    return None
                self._ready.wait()

    def settled(self, written: Written) -> None:
        """The batches of this transaction are committed, or were dropped."""
        with self._ready:
            self._held -= written.taken

    def abort_and_wait(self, error: StreamServeError, timeout_s: float) -> bool:
        """Drop everything queued and wait until nobody writes. Returns: whether that came to be."""
        with self._ready:
            self._error = self._error or error
            self._outbox.clear()
            self._open = self._written = None
            self._work.notify_all()
            self._room.notify_all()
            return self._ready.wait_for(lambda: (self._parked and not self._pen_taken) or self._output_over, timeout_s)

    def resume(self) -> None:
        """The abort is over."""
        with self._work:
            self._error = None
            self._parked = False
            self._held = len(self._outbox)
            self._work.notify_all()
            self._room.notify_all()

    # ------------------------------------------------------------------------------------------------------------

    def _left_s(self) -> float:
        """How long the open transaction may still take in batches; counts from its first."""
        if self._open is None or not self._open.taken:
            return self._interval_s
        return max(0.0, self._since_s + self._interval_s - self._clock.monotonic_s())

    def _is_full(self) -> bool:
        return self._left_s() == 0

    def _is_to_show(self, opened: Written) -> bool:
        return self._eager and not self._more_behind and opened.shown < opened.taken

    def _is_wanted(self) -> bool:
        if self._pen_taken or self._outbox or self._error is not None:
            return False
        if self._open is not None:
            return self._more_behind or (self._eager and not self._is_to_show(self._open))
        return self._eager or self._pause_s() == 0

    def _pause_s(self) -> float | None:
        """How long it is until a transaction may close; None while the commit thread has no room for it."""
        if self._written is not None:
            return None
        return max(0.0, self._closed_s + self._min_interval_s - self._clock.monotonic_s())

    def _park(self) -> None:
        if self._error is not None and not self._parked:
            self._parked = True
            self._ready.notify_all()
