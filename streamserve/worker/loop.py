"""A worker slot: four threads in a line, from poll to commit. Read this first.

    poll ──mailbox──> compute ──outbox──> flush ──written──> commit ──> cache

* **poll** is the only thread that touches the consumer. It fills the mailbox, pauses when that stays full, and makes
  the calls that others need of the consumer. While the engine is quick it does the work of compute as well, so that an
  event is polled, scored and written by one thread (`_work_alone`).
* **compute** takes what has gathered, decodes, enriches, infers and encodes it (`pipeline.stages`), and writes it into
  the open transaction (`worker.writing`); with several batches in flight these are three threads (`worker.compute`).
* **flush** adds to a transaction what was sampled, and flushes it (`Rotation` says when).
* **commit** sends the offsets and commits, in order; then positions, cache and metrics follow.

A row whose partition left, or that was polled before an abort, is stale: its epoch differs, and it is dropped wherever
it is met. After a failure that starting over can mend, the commit thread brings the line to rest, has the sink abort,
and has the poll thread rewind every partition to its committed position. Any other failure ends the process; the next
life starts from the committed offsets. docs/delivery.md tells why.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from streamserve import failpoints
from streamserve.batch import TopicPartition
from streamserve.clock import Clock, Deadline
from streamserve.config.settings import DeliverySettings
from streamserve.errors import SinkError, StreamServeError
from streamserve.pipeline.assignment import Assignment
from streamserve.pipeline.ratio import RejectRatio
from streamserve.pipeline.slo import SloPlanner
from streamserve.pipeline.stages import ScoredBatch, Stages
from streamserve.ports import Sink, Source
from streamserve.telemetry.health import Health
from streamserve.telemetry.logs import Log
from streamserve.telemetry.metrics import WorkerMetrics
from streamserve.telemetry.versions import VersionMetrics
from streamserve.worker.account import account
from streamserve.worker.calls import PollCalls
from streamserve.worker.compute import Compute
from streamserve.worker.mailbox import Mailbox
from streamserve.worker.parts import CacheQueue, Follower, Knowledge, Sampler
from streamserve.worker.rotation import Rotation, Written
from streamserve.worker.switch_points import SwitchPoints
from streamserve.worker.writing import Writer

POLL_TIMEOUT_S = 0.05
FULL_WAIT_S = 0.25
"""How long the poll thread waits for room before it pauses the partitions (pausing drops what was prefetched)."""
ROOM_WAIT_S = 0.005
"""How long it waits while it works alone before it looks whether somebody needs the consumer."""
BORROW_WAIT_S = 0.05
"""How long it lets the mailbox run empty in order to work alone."""
REVOKE_TIMEOUT_S = 10.0
"""How long a revoke waits for what is in flight; far below max.poll.interval.ms."""
COMMIT_WATCHDOG_S = 120.0
"""A commit that takes longer ends the process: `commit_transaction` itself must not have a timeout."""
CALL_TIMEOUT_S = 60.0
MAX_ABORTS = 20
"""So many aborts in a row without a commit end the process."""
ABORT_PAUSES_S = (0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0)
"""Waits before the aborts of a row, the last one for all further: together longer than a hung member's session."""


class Worker:
    """Runs a slot until it is stopped or fails.

    Args:
        source, sink: the two ends.
        stages: the work of whoever scores.
        assignment: shared with the source.
        mailbox: between poll and compute.
        max_poll: most records of one poll.
        delivery: intervals and time-outs.
        calls: how others reach the poll thread.
        ratio: stops the worker when too many records are rejected.
        quarantine: what earlier crashes taught.
        cache: the cache thread's work, or None.
        sampler: takes samples for the drift monitor, or None.
        rollout: follows the rollout, or None; with it, `switch_points` says what was scored from where on.
        slo: learns how long batches and commits take, when there is a latency goal.
        in_flight: most batches between mailbox and outbox.
    """

    def __init__(
        self,
        *,
        source: Source,
        sink: Sink,
        stages: Stages,
        assignment: Assignment,
        mailbox: Mailbox,
        max_poll: int,
        delivery: DeliverySettings,
        calls: PollCalls,
        ratio: RejectRatio,
        quarantine: Knowledge,
        metrics: VersionMetrics,
        health: Health,
        clock: Clock,
        log: Log,
        cache: CacheQueue | None = None,
        sampler: Sampler | None = None,
        rollout: Follower | None = None,
        switch_points: SwitchPoints | None = None,
        slo: SloPlanner | None = None,
        in_flight: int = 1,
    ) -> None:
        self._source = source
        self._sink = sink
        self._assignment = assignment
        self._mailbox = mailbox
        self._max_poll = max_poll
        self._delivery = delivery
        self._calls = calls
        self._quarantine = quarantine
        self._versions = metrics
        self._health = health
        self._clock = clock
        self._log = log
        self._cache = cache
        self._rollout = rollout
        self._writer = Writer(
            sink,
            assignment,
            sampler=sampler,
            switch_points=switch_points,
            metrics=metrics,
            clock=clock,
            stopped=lambda: self._finished.is_set() or self._rotation.aborting,
        )
        self._rotation = Rotation.of(delivery, clock, self._writer.write, goal=slo is not None)
        self._slo = slo
        self._compute = Compute(
            in_flight,
            stages=stages,
            mailbox=mailbox,
            rotation=self._rotation,
            assignment=assignment,
            ratio=ratio,
            metrics=metrics,
            clock=clock,
            slo=slo,
        )
        self._draining, self._finished = threading.Event(), threading.Event()
        self._failure: BaseException | None = None
        self._alone, self._misses = False, 0
        self._aborts, self._newest_ms = 0, 0
        self._commit_began_s: float | None = None

    # -- life ----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Open, work, drain, close. Raises: the failure that ended it."""
        self._sink.open()
        self._source.open(self)
        threads = [self._thread(lane) for lane in (self._poll, *self._compute.lanes, self._flush, self._commit)]
        if self._cache is not None:
            threads.append(self._thread(self._cache.run))
        if self._rollout is not None:
            threads.append(self._thread(self._rollout.run, "rollout"))
        self._log.info("worker_started")
        self._watch()
        self._close(threads)
        if self._failure is not None:
            raise self._failure
        self._log.info("worker_stopped")

    def stop(self) -> None:
        """Drain and end. Safe in a signal handler."""
        self._draining.set()

    def fail(self, failure: BaseException) -> None:
        """End without a drain: what stands written may still be committed, nothing else."""
        if self._failure is None:
            self._failure = failure
        self._finished.set()
        self._draining.set()
        self._assignment.interrupt()
        self._mailbox.close(discard=True)
        self._compute.abandon()
        self._rotation.finish()

    @property
    def _metrics(self) -> WorkerMetrics:
        """The stable version's, which may change between two batches."""
        return self._versions.now

    def _thread(self, lane: Callable[[], None], name: str | None = None) -> threading.Thread:
        def body() -> None:
            try:
                lane()
            except BaseException as failure:
                self.fail(failure)

        thread = threading.Thread(target=body, name=name or lane.__name__.strip("_"), daemon=True)
        thread.start()
        return thread

    def _watch(self) -> None:
        """The main thread: waits for the end, bounds the drain, guards the commit."""
        deadline: Deadline | None = None
        while not self._finished.wait(0.2):
            if self._draining.is_set() and deadline is None:
                self._health.draining()
                self._log.info("draining", timeout_s=self._delivery.drain_timeout_s)
                deadline = Deadline.after(self._delivery.drain_timeout_s, self._clock)
            if deadline is not None and deadline.expired():
                self.fail(
                    StreamServeError(
                        f"draining took longer than {self._delivery.drain_timeout_s:.0f} s; what was not committed"
                        " will be processed again by the next worker"
                    )
                )
            began_s = self._commit_began_s
            if began_s is not None and self._clock.monotonic_s() - began_s > COMMIT_WATCHDOG_S:
                self._log.error("commit_watchdog", seconds=COMMIT_WATCHDOG_S)
                os._exit(1)

    def _close(self, threads: list[threading.Thread]) -> None:
        if self._cache is not None:
            if self._failure is None:
                self._cache.drain(Deadline.after(5.0, self._clock))
            self._cache.close()
        if self._rollout is not None:
            self._rollout.close(leaves=self._failure is None)
        deadline = Deadline.after(15.0, self._clock)
        for thread in threads:
            thread.join(deadline.remaining_s())
        self._sink.close()

    # -- poll ----------------------------------------------------------------------------------------------------

    def _poll(self) -> None:
        try:
            while not self._draining.is_set():
                self._health.tick()
                self._calls.serve()
                if self._alone:
                    self._work_alone()
                elif self._compute.quick and self._has_room(0) and self._mailbox.borrow(BORROW_WAIT_S):
                    self._pause(False)
                    self._alone, self._misses = True, 0
                elif self._mailbox.wait_room(FULL_WAIT_S):
                    self._pause(False)
                    self._fetch(self._max_poll, POLL_TIMEOUT_S)
                else:
                    self._pause(True)
                    self._fetch(1, POLL_TIMEOUT_S)
            self._work_together()
            self._mailbox.close()
            while not self._finished.is_set():
                self._calls.serve()
                time.sleep(0.005)
        except Exception as failure:
            self.fail(failure)
        finally:
            try:
                self._source.close()  # in any case: a member that is gone without a word holds its partitions
            finally:
                self._calls.close()  # last: leaving the group may still commit what stands written

    def _work_alone(self) -> None:
        """Poll, score and write a batch on this thread, once it would be written at once, or while they come full."""
        if not self._has_room(ROOM_WAIT_S):
            self._misses += 1
            if self._misses * ROOM_WAIT_S >= FULL_WAIT_S:
                self._work_together()
            return
        self._misses = 0
        ready_in_s = self._mailbox.ready_in_s()
        if ready_in_s != 0:
            patience_s = POLL_TIMEOUT_S if ready_in_s is None else min(POLL_TIMEOUT_S, ready_in_s)
            self._fetch(self._max_poll, 0 if self._rotation.flowing else patience_s)
        if self._alone and not self._compute.score_next():
            self._rotation.nothing_behind()
        if not self._compute.quick:
            self._work_together()

    def _has_room(self, timeout_s: float) -> bool:
        """Whether a batch would be written at once, or, while they come full, at least has room in the outbox."""
        return self._rotation.wait_room(timeout_s, wanted=not self._compute.flooded)

    def _work_together(self) -> None:
        """Leave scoring to the compute thread."""
        if self._alone:
            self._alone = False
            self._rotation.nothing_behind()
            self._mailbox.give_back()

    def _pause(self, paused: bool) -> None:
        (self._source.pause if paused else self._source.resume)()
        self._metrics.paused.set(paused)

    def _fetch(self, max_records: int, timeout_s: float) -> None:
        records = self._source.poll(max_records, timeout_s)
        if records is not None:
            self._mailbox.put(records)

    def on_assigned(self, partitions: Sequence[TopicPartition]) -> None:
        """Port `AssignmentListener`."""
        self._quarantine.reload()
        self._rebalanced("assigned", partitions)
        self._health.condition("group", met=True)

    def on_revoked(self, partitions: Sequence[TopicPartition]) -> None:
        """Port `AssignmentListener`: what is in flight of these may still be committed, within a bound."""
        self._work_together()  # others score what was polled while this thread waits
        deadline = Deadline.after(REVOKE_TIMEOUT_S, self._clock)
        while not self._assignment.wait_settled(partitions, 0.02):
            self._calls.serve(in_rebalance=True)
            if deadline.expired() or self._assignment.interrupted or self._finished.is_set():
                self._log.warning("revoked_in_flight", partitions=[f"{t}-{p}" for t, p in partitions])
                break
        self._rebalanced("revoked", partitions)

    def on_lost(self, partitions: Sequence[TopicPartition]) -> None:
        """Port `AssignmentListener`: nothing of these is committed any more."""
        self._rebalanced("lost", partitions)

    def _rebalanced(self, kind: str, partitions: Sequence[TopicPartition]) -> None:
        self._metrics.rebalanced(kind)  # type: ignore[arg-type]
        self._metrics.assigned_partitions.set(len(self._assignment.epochs))
        if self._cache is not None:
            (self._cache.assigned if kind == "assigned" else self._cache.revoked)(partitions)
        self._log.info(f"partitions_{kind}", partitions=[f"{topic}-{number}" for topic, number in partitions])

    def statistics(self, *, brokers_up: bool, lag: Mapping[TopicPartition, int] | None) -> None:
        """What the source's client knows, every few seconds."""
        self._health.brokers(reachable=brokers_up)
        self._metrics.inflight_batches.set(self._rotation.held)
        self._metrics.assigned_partitions.set(len(self._assignment.epochs))
        if lag is None:
            return
        behind = sum(lag.values())
        self._health.lag(behind)
        if self._slo is not None and not behind:
            self._slo.at_end()
        self._metrics.lag(lag)
        age_s = (self._clock.epoch_ms() - self._newest_ms) / 1000 if behind and self._newest_ms > 0 else 0.0
        self._metrics.consumer_lag_seconds.set(max(0.0, age_s))

    # -- flush ---------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        rotation = self._rotation
        while (written := rotation.take()) is not None:
            try:
                self._writer.flush(written)
                if written.closing:
                    rotation.hand_over(written)
            except StreamServeError as error:
                rotation.fail(error)
            del written  # a thread that waits keeps no records alive
            rotation.write_out()
        rotation.finish()

    # -- commit --------------------------------------------------------------------------------------------------

    def _commit(self) -> None:
        while True:
            try:
                written = self._rotation.next()
                if written is None:
                    break
                self._commit_one(written)
                del written
            except StreamServeError as error:
                if not error.retryable or self._finished.is_set():
                    raise
                self._start_over(error)
        self._finished.set()

    def _commit_one(self, written: Written) -> None:
        if written.transaction is None:
            self._rotation.settled(written)
            return
        # The order matters: metadata, then epochs, then offsets (docs/delivery.md, "Rebalance").
        metadata = self._source.metadata
        positions: dict[TopicPartition, int] = {}
        for batch in written.batches:
            if self._assignment.stale(batch.positions, batch.records.epochs):
                raise SinkError("a partition left while its rows were being written", retryable=True)
            positions.update(batch.positions)
        began_s = self._commit_began_s = self._clock.monotonic_s()
        try:
            written.transaction.commit(positions, metadata)
        finally:
            self._commit_began_s = None
        failpoints.reach("after_end_before_cache")
        self._aborts = 0
        self._metrics.commit_seconds.observe(self._clock.monotonic_s() - began_s)
        if self._slo is not None:
            self._slo.committed(time.perf_counter() - written.batches[0].ready_s)
        self._settle(written.batches)
        if written.samples is not None:
            self._metrics.sampled(written.samples)
        self._rotation.settled(written)

    def _settle(self, batches: list[ScoredBatch]) -> None:
        """After a commit: positions, cache, metrics."""
        for batch in batches:  # before all else: after a plain refusal these are the positions to go back to
            self._assignment.committed(batch.positions, batch.records.epochs)
        for batch in batches:
            self._quarantine.forget(batch.positions)
            if self._cache is not None and batch.cache is not None:
                self._cache.offer(batch.cache)
        if self._rollout is not None:
            self._rollout.settled(batches)
        self._newest_ms = batches[-1].records.timestamp_ms[-1]
        account(batches, self._metrics, self._clock.epoch_ms())
        self._health.progress()

    def _start_over(self, error: StreamServeError) -> None:
        """Abort everything written or queued, rewind, go on."""
        pause_s = ABORT_PAUSES_S[min(self._aborts, len(ABORT_PAUSES_S) - 1)]
        self._aborts += 1
        self._metrics.committed("aborted")
        self._log.warning("starting_over", error=str(error), aborts=self._aborts)
        if self._aborts > MAX_ABORTS:
            raise SinkError(f"{MAX_ABORTS} aborts in a row; the last one: {error}") from error
        self._assignment.interrupt()
        if not self._rotation.abort_and_wait(error, CALL_TIMEOUT_S):
            raise SinkError(f"writing did not come to rest within {CALL_TIMEOUT_S:.0f} s") from error
        self._finished.wait(pause_s)
        reread = False
        while True:
            try:
                reread |= not self._sink.recover()
                rewind = partial(self._source.rewind, reread=reread)
                moved = self._calls.run(rewind, timeout_s=CALL_TIMEOUT_S)
                if moved and self._cache is not None:
                    self._cache.request_repair()  # a commit took effect whose success never reached us
                break
            except StreamServeError as again:
                if not again.retryable or self._finished.is_set():
                    raise
                reread = True  # nobody here knows any more what the first attempt left
                self._log.warning("recovery_failed", error=str(again))
                time.sleep(1.0)
        self._rotation.resume()
