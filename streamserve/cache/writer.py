"""The cache thread's work: what was committed in Kafka goes to the cache, and nobody waits for it.

Owns the queue between the commit and the cache, which keeps the newest entry per key and is bounded, the
batches written from it, and the circuit breaker. An outage of the cache costs the Kafka path nothing: `offer`
returns at once, entries wait and are written after healing. When more keys or bytes wait than the queue holds,
entries are lost and the queue says so (`Repair.request`): the tail of the prediction topic is then read again.
The same after an outage of more than `OUTAGE_S`: a failover may have shown itself in time-outs only. A write
that timed out may or may not have happened; it is written again, which is harmless, since every write is a
compare-and-set by version. After a write entries gather for a moment, unless a whole batch waits: under load most
predictions of a busy key are overtaken before they would be sent, and cost neither side a write.

Whatever is raised on the cache thread counts as a failure of the cache: the thread goes on, and the worker with it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import Protocol

from streamserve.batch import CacheBatch
from streamserve.cache.breaker import Backoff, Breaker, State
from streamserve.clock import Clock, Deadline
from streamserve.errors import CacheError, StreamServeError
from streamserve.ports import Cache

IDLE_S = 0.5
"""Longest sleep of the cache thread; `offer` wakes it."""
GATHER_S = 0.02
"""From one write to the next while less than a batch waits; an entry that finds the thread idle is written at once."""
OUTAGE_S = 1.0
"""After a longer outage another server may answer, one that lacks what the former had confirmed: Sentinel and
clusters need seconds to promote a replica, and a passing overload of the same server is mostly shorter."""
QUEUE_BYTES = 64 << 20
"""Most bytes of keys, versions and documents that wait, whatever `cache.queue_size` allows."""

_Queue = dict[bytes, tuple[bytes, bytes, int]]
"""Version, document and number of the offer that brought the key in, per key, oldest first."""


class Repair(Protocol):
    """What mends the cache from the prediction topic, on the cache thread: `repair.TailRepair`."""

    def request(self) -> None:
        """Entries were lost: everything since the markers must be read again. Any thread."""
        ...

    def step(self, queue: Settled) -> bool:
        """Do a little of what there is to do. Returns: whether there is more at once. Raises: CacheError."""
        ...

    def close(self) -> None: ...


class Settled(Protocol):
    """Asks the writer's queue how far it has come."""

    def ticket(self) -> int | None:
        """A number for everything offered so far; None while lost entries wait for a repair."""
        ...

    def settled(self, ticket: int) -> bool:
        """Whether everything offered before that ticket is in the cache."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WriterMetrics:
    """Where the writer counts; the defaults drop everything.

    Attributes:
        written: entries written.
        skipped: entries the cache had newer ones of.
        errors: failed calls.
        seconds: duration of each write.
        failed: the error, once each time the breaker leaves `closed`.
        healed: called when it closes again.
    """

    written: Callable[[int], None] = lambda _: None
    skipped: Callable[[int], None] = lambda _: None
    errors: Callable[[int], None] = lambda _: None
    seconds: Callable[[float], None] = lambda _: None
    failed: Callable[[StreamServeError], None] = lambda _: None
    healed: Callable[[], None] = lambda: None


class CacheWriter:
    """The queue before a cache and the loop that empties it.

    `offer` may be called by any thread; `run` (or `step`, in tests) by one thread, the only one that uses the
    cache.

    Args:
        cache: the cache; closed at the end of `run`.
        queue_size: most keys that wait, `cache.queue_size`.
        clock: for waits and durations.
        metrics: where to count.
        repair: mends the cache from the topic, or None.
        upkeep: called before each step, whether the cache answers or not.
        batch_keys: most entries of one write.
        queue_bytes: most bytes that wait.
        backoff, random: of the circuit breaker.
    """

    def __init__(
        self,
        cache: Cache,
        *,
        queue_size: int,
        clock: Clock,
        metrics: WriterMetrics | None = None,
        repair: Repair | None = None,
        upkeep: Callable[[], None] = lambda: None,
        batch_keys: int = 1000,
        queue_bytes: int = QUEUE_BYTES,
        backoff: Backoff | None = None,
        random: Random | None = None,
    ) -> None:
        self._cache = cache
        self._queue_size = queue_size
        self._clock = clock
        self._metrics = metrics or WriterMetrics()
        self._repair = repair
        self._upkeep = upkeep
        self._batch_keys = batch_keys
        self._queue_bytes = queue_bytes
        self._breaker = Breaker(backoff or Backoff(), clock, random or Random())  # noqa: S311 - jitter
        self._changed = threading.Condition()
        self._inbox: list[CacheBatch] = []
        self._inbox_entries = self._inbox_bytes = 0
        self._offers = 0
        self._waiting: _Queue = {}
        self._waiting_bytes = 0
        self._taken: _Queue = {}
        self._taken_bytes = 0
        self._away_since_s: float | None = None
        self._lost = 0
        self._needs_repair = False
        self._closing = threading.Event()
        self._wrote_s = -GATHER_S

    @property
    def state(self) -> State:
        """State of the circuit breaker."""
        return self._breaker.state

    @property
    def lost(self) -> int:
        """Entries that the queue had no room for, in all; a repair brings them back."""
        return self._lost

    @property
    def needs_repair(self) -> bool:
        """Whether entries were lost and no repair has been asked for yet."""
        return self._needs_repair

    def offer(self, entries: CacheBatch) -> None:
        """Hand over committed entries. Never blocks, never raises, forgets nothing without `needs_repair`."""
        if not len(entries):
            return
        with self._changed:
            self._offers += 1
            self._inbox.append(entries)
            self._inbox_entries += len(entries)
            self._inbox_bytes += sum(map(len, entries.document))
            if self._inbox_entries > self._queue_size or self._inbox_bytes > self._queue_bytes:
                self._absorb()
            self._changed.notify_all()

    def run(self) -> None:
        """Write until `close`; the body of the cache thread."""
        try:
            while not self._closing.is_set():
                wait_s = self.step()
                if wait_s > 0:
                    self._rest(wait_s)
        finally:
            for part in (self._repair, self._cache):
                if part is not None:
                    self._close(part)

    def step(self) -> float:
        """Write a batch, if there is one, and mend a little. Returns: seconds to wait for the next one."""
        try:
            self._upkeep()
            wait_s = self._breaker.wait_s()
            if wait_s > 0:
                return min(wait_s, IDLE_S)
            self._write()
            self._after_outage()  # before markers are written: they would tell the new server that all is there
            more = self._mend()
        except Exception as error:  # clients raise more than they document, and the worker must not end by it
            return self._failed(error)
        self._away_since_s = None
        if self._breaker.state != "closed":
            self._breaker.succeeded()
            self._metrics.healed()
        return 0.0 if more or len(self._waiting) >= self._batch_keys else IDLE_S

    def drain(self, deadline: Deadline) -> bool:
        """Wait until everything offered is in the cache. Returns: whether it is, in time."""
        with self._changed:
            while not self._settled_all():
                if deadline.expired() or self._closing.is_set():
                    return False
                self._changed.wait(min(deadline.remaining_s(), IDLE_S))
            return True

    def close(self) -> None:
        """End `run` soon; what waits is dropped (the next owner repairs the tail). Any thread, idempotent."""
        with self._changed:
            self._closing.set()
            self._changed.notify_all()

    def ticket(self) -> int | None:
        with self._changed:
            return None if self._needs_repair else self._offers

    def settled(self, ticket: int) -> bool:
        with self._changed:
            self._absorb()
            fronts = (next(iter(queue.values()), None) for queue in (self._taken, self._waiting))
            return all(front is None or front[2] > ticket for front in fronts)

    def _rest(self, wait_s: float) -> None:
        """Sleep until there is something to write, or for `wait_s`; then let more gather behind the last write."""
        with self._changed:
            ready = (self._inbox or self._waiting) and self._breaker.state == "closed"
            if not ready and not self._closing.is_set():
                self._changed.wait(wait_s)
        gather_s = self._wrote_s + GATHER_S - self._clock.monotonic_s()
        if gather_s > 0:
            self._closing.wait(gather_s)

    def _failed(self, error: Exception) -> float:
        """Count a failure. Returns: seconds to wait."""
        self._metrics.errors(1)
        if self._breaker.state == "closed":
            self._metrics.failed(_known(error))
        if self._away_since_s is None:
            self._away_since_s = self._clock.monotonic_s()
        self._breaker.failed()
        return min(self._breaker.wait_s(), IDLE_S)

    def _after_outage(self) -> None:
        """Ask for a repair when the cache was away for so long that another server may be there."""
        now_s = self._clock.monotonic_s()
        if self._repair is not None and self._away_since_s is not None and now_s - self._away_since_s > OUTAGE_S:
            self._away_since_s = now_s  # asked; another outage of the same length asks again
            self._repair.request()

    def _close(self, part: Cache | Repair) -> None:
        try:
            part.close()
        except Exception as error:
            self._metrics.failed(_known(error))

    def _settled_all(self) -> bool:
        return not (self._inbox or self._waiting or self._taken)

    def _absorb(self) -> None:
        """Inbox to queue, newest version per key. A key keeps its place, so the front is the oldest."""
        waiting = self._waiting
        room = self._queue_bytes - self._taken_bytes - self._waiting_bytes
        number = self._offers - len(self._inbox)
        for entries in self._inbox:
            number += 1
            for key, version, document in zip(entries.key, entries.version, entries.document, strict=True):
                known = waiting.get(key)
                if known is None:
                    more_bytes = len(key) + len(version) + len(document)
                elif version > known[0]:
                    more_bytes = len(document) - len(known[1])
                else:
                    continue
                if (known is None and len(waiting) >= self._queue_size) or more_bytes > room:
                    self._lost += 1
                    self._needs_repair = True
                else:
                    waiting[key] = (version, document, number if known is None else known[2])
                    room -= more_bytes
        self._waiting_bytes = self._queue_bytes - self._taken_bytes - room
        self._inbox = []
        self._inbox_entries = self._inbox_bytes = 0

    def _write(self) -> None:
        """Write the front of the queue, if there is one. Raises: CacheError, and keeps it."""
        batch = self._take()
        if not len(batch):
            return
        began_s = self._clock.monotonic_s()
        written = self._cache.write(batch)
        self._wrote_s = self._clock.monotonic_s()
        self._metrics.seconds(self._wrote_s - began_s)
        self._metrics.written(written)
        self._metrics.skipped(len(batch) - written)
        with self._changed:
            self._taken = {}
            self._taken_bytes = 0
            self._changed.notify_all()

    def _take(self) -> CacheBatch:
        """What a failed write left, else the front of the queue; it stays in `_taken` until it is written."""
        with self._changed:
            self._absorb()
            if not self._taken:
                if len(self._waiting) <= self._batch_keys:
                    self._taken, self._waiting = self._waiting, {}
                    self._taken_bytes, self._waiting_bytes = self._waiting_bytes, 0
                else:
                    front = list(islice(self._waiting, self._batch_keys))
                    self._taken = {key: self._waiting.pop(key) for key in front}
                    self._taken_bytes = sum(len(k) + len(v) + len(d) for k, (v, d, _) in self._taken.items())
                    self._waiting_bytes -= self._taken_bytes
            taken = self._taken
        columns = list(taken.values())
        return CacheBatch(
            row=list(range(len(columns))),
            key=list(taken),
            version=[version for version, _, _ in columns],
            document=[document for _, document, _ in columns],
        )

    def _mend(self) -> bool:
        """A step of the repair. Returns: whether it has more to do at once. Raises: CacheError."""
        if self._repair is None:
            return False
        roomy = len(self._waiting) <= self._queue_size // 2 and self._waiting_bytes <= self._queue_bytes // 2
        if self._needs_repair and roomy:
            self._needs_repair = False  # first, so that a loss from here on asks again
            self._repair.request()
        return self._repair.step(self)


def _known(error: Exception) -> StreamServeError:
    """The error, or ours around one that nobody foresaw."""
    if isinstance(error, StreamServeError):
        return error
    wrapped = CacheError(f"the cache's work failed in a way it should not: {error!r}; please report it", retryable=True)
    wrapped.__cause__ = error
    return wrapped
