"""The tail of the prediction topic is read again where the cache may lack it.

Owns the repair markers: hash `repair:<pipeline>`, field `<topic>-<partition>` of the *input*, value the
offset of the prediction partition below which the cache has everything that was made of that input. (By
input, since several inputs, owned by different workers, may share a prediction partition.) When a partition
is assigned, entries of its former owner may never have reached the cache, so everything since the marker is
written again; the same after entries were lost or the server was exchanged. It is bounded in records: what
lies beyond is left to `streamserve cache rebuild`, and the marker then stays. It is bounded in time, too, and
where only the time was too short the marker moves to what was read and the rest follows after `retry_s`.

How a marker moves on: at time T the end of what is decided (committed or aborted) is noted; `grace_s` later
every commit before T has been offered to the queue; once all that was offered by then is written, everything
below the noted end is in the cache. `grace_s` must therefore exceed the longest time between a commit at the
broker and its `offer`: the commit watchdog's deadline. Markers and entries share one server's replication
stream, so a replica that was promoted has no marker ahead of its entries; on a cluster they lie on different
servers, and after a failover there only a rebuild is sure.

Runs on the cache thread, a little a step (`writer.CacheWriter`); `assigned`, `revoked` and `request` may be
called by any thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from streamserve.batch import TopicPartition
from streamserve.cache.prediction_log import PredictionLog
from streamserve.cache.rebuild import MarkedCache
from streamserve.cache.writer import Settled
from streamserve.clock import Clock, Deadline
from streamserve.errors import BrokerUnavailable, SourceError, StreamServeError


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairLimits:
    """How much a repair may do.

    Attributes:
        max_records: of one partition; the newest are read.
        max_s: of one repair, as long as brokers answer; longer than `transaction.timeout.ms`, for which a dead
            worker's transaction may hide what comes after it.
        mark_every_s: between two moves of the markers.
        grace_s: longest time between a commit and its `offer`; more than the 120 s after which the worker's commit
            watchdog ends it (`worker.loop.COMMIT_WATCHDOG_S`), or a marker could pass what a hanging commit will offer.
        retry_s: wait after the topic could not be read, or not to its end in time.
        poll_records, poll_s: of one step; the queue waits meanwhile.
    """

    max_records: int = 100_000
    max_s: float = 120.0
    mark_every_s: float = 10.0
    grace_s: float = 130.0
    retry_s: float = 5.0
    poll_records: int = 1000
    poll_s: float = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairReport:
    """What a repair did.

    Attributes:
        records: read.
        written: entries written.
        incomplete: input partitions whose tail is longer than what a repair may read.
        unfinished: input partitions that will be read on, since the time was too short.
    """

    records: int
    written: int
    incomplete: tuple[TopicPartition, ...]
    unfinished: tuple[TopicPartition, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    """Ends of what was committed at `at_s`, and the queue's ticket, taken `grace_s` later."""

    at_s: float
    ends: dict[TopicPartition, int]
    ticket: int | None = None


class TailRepair:
    """Keeps the markers of the owned partitions and repairs what lies beyond them; see the module.

    Args:
        log: the prediction topic, for this object alone.
        cache: the cache of the writer; used on its thread.
        clock: for waits.
        limits: bounds.
        done: told after each repair.
        failed: told when the topic could not be read; it is tried again.
    """

    def __init__(
        self,
        log: PredictionLog,
        cache: MarkedCache,
        *,
        clock: Clock,
        limits: RepairLimits | None = None,
        done: Callable[[RepairReport], None] = lambda _: None,
        failed: Callable[[StreamServeError], None] = lambda _: None,
    ) -> None:
        self._log = log
        self._cache = cache
        self._clock = clock
        self._limits = limits or RepairLimits()
        self._done = done
        self._failed = failed
        self._lock = threading.Lock()
        self._changes: list[tuple[bool, tuple[TopicPartition, ...]]] = []
        self._requested = False
        self._pending: set[TopicPartition] = set()
        self._reading: dict[TopicPartition, int | None] = {}  # where its tail begins, None where the range begins later
        self._complete: set[TopicPartition] = set()
        self._incomplete: set[TopicPartition] = set()
        self._deadline = Deadline(0.0, clock)
        self._not_before_s = clock.monotonic_s()
        self._records = self._written = 0
        self._candidate: _Candidate | None = None
        self._mark_at_s = clock.monotonic_s()

    @property
    def complete(self) -> frozenset[TopicPartition]:
        """Input partitions of which the cache has every prediction but those under way."""
        return frozenset(self._complete)

    def assigned(self, partitions: Iterable[TopicPartition]) -> None:
        """These input partitions are ours from now on: repair their tails. Any thread."""
        with self._lock:
            self._changes.append((True, tuple(partitions)))

    def revoked(self, partitions: Iterable[TopicPartition]) -> None:
        """These input partitions are no longer ours. Any thread."""
        with self._lock:
            self._changes.append((False, tuple(partitions)))

    def request(self) -> None:
        """Entries were lost, or the server may be another one: repair every owned partition. Any thread."""
        with self._lock:
            self._requested = True

    def step(self, queue: Settled) -> bool:
        """A little of the work: plan a repair, read and write some of it, or move the markers.

        Returns: whether there is more to do at once.

        Raises:
            CacheError: the cache is away; call again later.
        """
        self._apply_changes()
        if self._clock.monotonic_s() < self._not_before_s:
            return False
        try:
            if self._reading:
                self._read_some()
            elif self._pending:
                self._plan()
            else:
                self._mark(queue)
        except (SourceError, BrokerUnavailable) as error:
            self._wait()
            if isinstance(error, BrokerUnavailable):
                self._deadline = Deadline.after(self._limits.max_s, self._clock)  # their absence is not our slowness
            self._failed(error)
            return False
        except StreamServeError:
            raise
        except Exception:
            self._wait()  # so that a defect here does not keep the queue from being written
            raise
        return bool(self._reading or self._pending)

    def close(self) -> None:
        self._log.close()

    def _wait(self) -> None:
        self._not_before_s = self._clock.monotonic_s() + self._limits.retry_s

    def _apply_changes(self) -> None:
        with self._lock:
            changes, self._changes = self._changes, []
            requested, self._requested = self._requested, False
        for arrived, partitions in changes:
            for tp in partitions:
                for group in (self._pending, self._complete, self._incomplete):
                    group.discard(tp)
                if arrived:
                    self._pending.add(tp)
        if requested:
            self._pending |= self._complete | self._incomplete | self._reading.keys()
            self._complete.clear()
            self._incomplete.clear()
        if changes or requested:
            left = {tp for arrived, partitions in changes if not arrived for tp in partitions}
            self._pending |= self._reading.keys() - left
            self._reading = {}
            self._candidate = None

    def _plan(self) -> None:
        """Turn to the tails of everything pending."""
        marks = self._cache.read_marks(self._pending)
        ranges: dict[TopicPartition, tuple[int, int]] = {}
        wanted: dict[TopicPartition, int] = {}
        for tp in self._pending:
            home = self._log.home(tp)
            low, end = self._log.bounds(home)
            wanted[tp] = min(max(low, marks.get(tp, low)), end)
            start = max(wanted[tp], end - self._limits.max_records)
            known = ranges.get(home, (start, end))
            ranges[home] = (min(known[0], start), end)
        reading = {tp: first if ranges[self._log.home(tp)][0] <= first else None for tp, first in wanted.items()}
        self._log.read(ranges)
        self._reading = reading
        self._pending = set()
        self._records = self._written = 0
        self._deadline = Deadline.after(self._limits.max_s, self._clock)

    def _read_some(self) -> None:
        chunk = self._log.poll(self._limits.poll_records, self._limits.poll_s)
        self._records += chunk.records
        if len(chunk.entries):
            try:
                self._written += self._cache.write(chunk.entries)
            except Exception:
                self._pending |= self._reading.keys()  # what was polled is gone: read it again
                self._reading = {}
                raise
        finished = self._log.finished
        homes = {tp: self._log.home(tp) for tp in self._reading}
        open_homes = sorted(set(homes.values()) - finished)
        if open_homes and not self._deadline.expired():
            return
        if open_homes:
            self._log.bounds(open_homes[0])  # polling says nothing of brokers that are away; this raises
        self._end()

    def _end(self) -> None:
        """Sort what was read: to its end, in part, or with a gap before it."""
        finished, positions = self._log.finished, self._log.positions
        places = {tp: self._log.home(tp) for tp in self._reading}
        whole = {tp: first for tp, first in self._reading.items() if first is not None}
        repaired = {tp for tp in whole if places[tp] in finished}
        unfinished = whole.keys() - repaired
        self._incomplete |= self._reading.keys() - whole.keys()
        self._complete |= repaired
        self._pending |= unfinished
        self._reading = {}
        if unfinished:
            self._wait()
        self._cache.write_marks({tp: max(first, positions[places[tp]]) for tp, first in whole.items()})
        self._done(
            RepairReport(
                records=self._records,
                written=self._written,
                incomplete=tuple(sorted(self._incomplete)),
                unfinished=tuple(sorted(unfinished)),
            )
        )

    def _mark(self, queue: Settled) -> None:
        """Move the markers on; see the module."""
        now_s = self._clock.monotonic_s()
        candidate = self._candidate
        if candidate is None:
            if self._complete and now_s >= self._mark_at_s:
                ends = {tp: self._log.stable_end(self._log.home(tp)) for tp in self._complete}
                self._candidate = _Candidate(at_s=now_s, ends=ends)
        elif candidate.ticket is None:
            if now_s >= candidate.at_s + self._limits.grace_s:
                ticket = queue.ticket()
                self._candidate = None if ticket is None else _Candidate(at_s=now_s, ends=candidate.ends, ticket=ticket)
        elif queue.settled(candidate.ticket):
            self._cache.write_marks(candidate.ends)
            self._candidate = None
            self._mark_at_s = now_s + self._limits.mark_every_s
