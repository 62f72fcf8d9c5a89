"""The compute side of a slot: batches from the mailbox, through the stages, to the outbox, in the order they came.

With one batch in flight a single thread does it all: a thread of its own or, while the engine is quick, the poll thread
in its place (`quick`, `score_next`). With more, three threads stand in a line, so that one batch is in the engine while
the next is decoded and the last encoded:

    mailbox ──prepare──> [prepared] ──infer──> [inferred] ──finish──> outbox

At most `in_flight` batches are between mailbox and outbox. One thread alone runs inference, so crash journal and memory
bound are used by one thread as before. A batch is taken ahead of a free engine only when it could not grow any more;
otherwise it goes on growing until the engine is free, and nothing is lost by having been early.

A lane that waits holds no batch, so none keeps an engine from being closed while no event comes.

An exception in any of the threads is the worker's failure; `abandon` then lets the others end.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

from streamserve.batch import CloseReason, RecordBatch
from streamserve.clock import Clock
from streamserve.pipeline.assignment import Assignment
from streamserve.pipeline.ratio import RejectRatio
from streamserve.pipeline.slo import SloPlanner
from streamserve.pipeline.stages import Job, Stages
from streamserve.telemetry.versions import VersionMetrics
from streamserve.worker.mailbox import Mailbox
from streamserve.worker.pace import Pace
from streamserve.worker.rotation import Rotation
from streamserve.worker.switching import SwitchInterval

FULL = frozenset({"size", "bytes", "deadline"})
"""Reasons that say that more is behind."""

Taken = tuple[RecordBatch, CloseReason]
Work = tuple[Job, bool]
"""A batch, and whether the next one is behind it already."""


class Compute:
    """The threads between mailbox and outbox.

    Args:
        in_flight: most batches between the two.
        stages: the work on a batch.
        mailbox: where batches come from.
        rotation: where they go.
        assignment: tells whether a batch is still ours.
        ratio: stops the worker when too many records are rejected.
        metrics, clock: for the waits.
        slo: learns how long batches take, when there is a latency goal.

    Attributes:
        lanes: what its threads run, to the end of the mailbox.
        flooded: whether the last batch was full, so that more is behind it.
    """

    def __init__(
        self,
        in_flight: int,
        *,
        stages: Stages,
        mailbox: Mailbox,
        rotation: Rotation,
        assignment: Assignment,
        ratio: RejectRatio,
        metrics: VersionMetrics,
        clock: Clock,
        slo: SloPlanner | None,
    ) -> None:
        self._stages = stages
        self._mailbox = mailbox
        self._rotation = rotation
        self._assignment = assignment
        self._ratio = ratio
        self._metrics = metrics
        self._clock = clock
        self._slo = slo
        self._pace = Pace()
        self.flooded = False
        self._adapts = in_flight == 1 and slo is None
        self._switching = SwitchInterval()
        self._room = threading.Semaphore(in_flight)
        self._to_infer: SimpleQueue[Work | None] = SimpleQueue()
        self._to_finish: SimpleQueue[Work | None] = SimpleQueue()
        self.lanes: tuple[Callable[[], None], ...] = (
            (self.compute,) if in_flight == 1 else (self.prepare, self.infer, self.finish)
        )

    @property
    def quick(self) -> bool:
        """Whether the poll thread may score as well."""
        return self._pace.quick

    def abandon(self) -> None:
        """Let the lanes end without a drain; the mailbox is closed already."""
        self._room.release()
        self._to_infer.put(None)
        self._to_finish.put(None)

    # -- one in flight -------------------------------------------------------------------------------------------

    def compute(self) -> None:
        """Take, prepare, infer and finish one batch after the other."""
        while (taken := self._mailbox.take()) is not None:
            self._score(taken)
            del taken
        self._rotation.close()

    def score_next(self) -> bool:
        """Take, prepare, infer and finish a batch, if one is ready. On the thread that borrowed the mailbox."""
        taken = self._mailbox.take_now()
        if taken is not None:
            self._score(taken)
        return taken is not None

    def _score(self, taken: Taken) -> None:
        if (work := self._prepared(taken)) is not None:
            self._stages.infer(work[0])
            self._finished(work)

    # -- several -------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Take and prepare, as far ahead as there is room."""
        while self._room.acquire() and (taken := self._mailbox.take()) is not None:
            work = self._prepared(taken)
            if work is not None:
                self._mailbox.before_engine(+1)
                self._to_infer.put(work)
            else:
                self._room.release()
            del taken, work
        self._to_infer.put(None)

    def infer(self) -> None:
        """Infer what was prepared."""
        while (work := self._to_infer.get()) is not None:
            self._stages.infer(work[0])
            self._mailbox.before_engine(-1)
            self._to_finish.put(work)
            del work
        self._to_finish.put(None)

    def finish(self) -> None:
        """Finish what was inferred."""
        while (work := self._to_finish.get()) is not None:
            self._finished(work)
            del work
            self._room.release()
        self._rotation.close()

    # -- both ----------------------------------------------------------------------------------------------------

    def _prepared(self, taken: Taken) -> Work | None:
        """The inputs of a batch; None when nothing of it is ours any more."""
        records, reason = taken
        self.flooded = reason in FULL
        self._switching.flooded(self._adapts and self.flooded)
        metrics = self._metrics.now
        metrics.batch_closed(reason)
        metrics.queue_wait_seconds.observe(self._clock.monotonic_s() - records.polled_s)
        positions = records.next_positions()
        if len(self._assignment.stale(positions, records.epochs)) == len(positions):
            return None
        return self._stages.prepare(records), self.flooded

    def _finished(self, work: Work) -> None:
        job, more_behind = work
        batch = self._stages.finish(job)
        if self._slo is not None:
            self._slo.scored(job.deployment, sum(leg.inferred for leg in batch.legs), batch.compute_s)
            more_behind = more_behind and self._slo.catching_up  # else the goal wants a commit now
        if self._adapts:
            self._pace.add(sum(leg.infer_s for leg in batch.legs), batch.compute_s)
        self._ratio.add(batch.tally)
        self._rotation.put(batch, more_behind=more_behind)
