"""One partition of the samples topic that this process owns: its monitor, its publisher, and its rebuild.

The life of an object is one ownership: fence earlier owners, restore, rebuild, then chunks, labels and ticks one after
the other, and after the first failure nothing any more. Whatever fails, fencing included, ends it; the keeper may then
open a new one, which reads from the topics what was published and what was not.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import orjson

from streamserve.clock import Clock
from streamserve.kafka.reading import StoredRecord
from streamserve.sidecar.contracts import Document, Event, Monitor, TopicRole
from streamserve.sidecar.publisher import KIND_HEADER, MEMORY_KINDS, Publisher
from streamserve.sidecar.recovery import Recovery, SamplesTail, still_served
from streamserve.sidecar.shared_monitor import SharedMonitor
from streamserve.telemetry.logs import Log

CHECKPOINT_S = 3600.0
BATCH_EVENTS = 256
"""Events of a rebuild that share a transaction, about."""
BATCH_LABELS = 1000
MAX_REFERENCES = 64
"""Learned references kept for checkpoints."""
OWN_KIND = b"label_request"
"""Records of the samples topic that we wrote ourselves."""

T = TypeVar("T")


class Released(Exception):
    """The partition was given up meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What an owned partition is made of.

    Attributes:
        make_monitor: a monitor that knows nothing yet.
        publisher: publishes.
        recovery: reads what came before.
        closed: set when the partition is given up; ends the recovery.
        progress: called whenever something was merged or read.
    """

    make_monitor: Callable[[], Monitor]
    publisher: Publisher
    recovery: Recovery
    closed: threading.Event
    progress: Callable[[], None]


class OwnedPartition:
    """One ownership of one partition, on the event loop; what takes time is done in a thread of its own.

    Args:
        number: of the partition.
        parts: what it works with.
    """

    def __init__(self, number: int, parts: Parts, clock: Clock, log: Log) -> None:
        self.number = number
        self.next_offset = 0
        self.rebuild_s = 0.0
        self._published = 0
        self._left_out = 0
        self._failures = 0
        self._parts = parts
        self._clock = clock
        self._log = log.bind(samples_partition=number)
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"samples-{number}")
        self._turn = asyncio.Lock()
        self._ready = asyncio.Event()
        self._closed = parts.closed
        self._monitor = self._new_monitor()
        self._labels: dict[int, int] = {}
        self._memory: dict[tuple[str, bytes, str], tuple[Event, int]] = {}
        self._checkpoint_s = clock.monotonic_s()

    @property
    def monitor(self) -> Monitor | None:
        """The monitor, once it is rebuilt and as long as this is owned."""
        return self._monitor if self.ready else None

    @property
    def ready(self) -> bool:
        """Whether it takes what comes."""
        return self._ready.is_set() and not self._closed.is_set()

    async def open(self) -> None:
        """Take over and rebuild. Raises: StreamServeError, and whatever the monitor raises."""
        started_s = self._clock.monotonic_s()
        async with self._turn:
            tail = await self._aside(self._rebuild)
        if self._closed.is_set():
            raise Released
        self.next_offset, self._labels = tail.next_offset, tail.labels
        self.rebuild_s = self._clock.monotonic_s() - started_s
        self._ready.set()
        self._log.info("partition_rebuilt", next_offset=self.next_offset, seconds=round(self.rebuild_s, 3))

    def take_published(self) -> tuple[int, int]:
        """How many events were published since the last call, and how many left out as too large."""
        taken = self._published, self._left_out
        self._published = self._left_out = 0
        return taken

    async def settled(self) -> None:
        """Wait until it is ready or closed."""
        await self._ready.wait()

    async def chunk(self, offset: int, kind: bytes | None, value: bytes) -> None:
        """Merge a record of the samples topic; what the rebuild has seen is passed over. Raises: StreamServeError."""
        async with self._turn:
            if not self.ready or offset < self.next_offset:
                return
            await self._aside(lambda: self._publish_now(self._take_chunk(offset, kind, value, self._clock.epoch_ms())))
            self.next_offset = offset + 1
            self._parts.progress()

    async def labels(self, records: Sequence[StoredRecord]) -> None:
        """Take labels; those of the rebuild are passed over."""
        async with self._turn:
            if not self.ready:
                return
            fresh = [each for each in records if each.offset >= self._labels.get(each.partition, 0)]
            await self._aside(lambda: self._take_labels(fresh))

    async def checkpoint(self) -> None:
        """Repeat what a successor starts from, when it was long ago. Raises: StreamServeError."""
        async with self._turn:
            if self.ready and self._memory and self._clock.monotonic_s() - self._checkpoint_s > CHECKPOINT_S:
                self._checkpoint_s = self._clock.monotonic_s()
                told = {identity: told_ms for identity, (_, told_ms) in self._memory.items()}
                kept = still_served(self._memory, told, model=lambda identity: identity[1])
                self._memory = {identity: self._memory[identity] for identity in kept}
                remembered = list(self._memory.values())
                await self._aside(lambda: self._parts.publisher.checkpoint(remembered))

    def close(self) -> Future[None]:
        """Stop at once; nothing new is published any more. To be called once; never blocks.

        Returns:
            Done when the partition's thread is through with what it was doing.
        """
        self._closed.set()
        self._ready.set()
        left = self._executor.submit(self._parts.publisher.close)
        self._executor.shutdown(wait=False)
        return left

    def _publish_now(self, events: Sequence[Event]) -> None:
        if not events or self._closed.is_set():
            return
        left_out = self._parts.publisher.publish(events)
        self._published += len(events) - left_out
        self._left_out += left_out
        for event in events:
            if event.kind in MEMORY_KINDS:
                self._remember(event, str(getattr(event, "version", "")), self._clock.epoch_ms())

    def _remember(self, event: Event, version: str, told_ms: int) -> None:
        kind = event.kind
        identity = (kind, event.key, version if kind == "reference" else "")
        self._memory.pop(identity, None)
        references = [known for known in self._memory if known[0] == "reference"]
        if kind == "reference" and len(references) >= MAX_REFERENCES:
            del self._memory[references[0]]
        self._memory[identity] = (event, told_ms)

    def _rebuild(self) -> SamplesTail:
        """In the executor's thread."""
        parts, wall_ms = self._parts, self._clock.epoch_ms()
        parts.publisher.open()
        parts.progress()
        memory = parts.recovery.memory(wall_ms)
        parts.progress()
        for document, told_ms in zip(memory.documents, memory.told_ms, strict=True):
            event = _Remembered(document)
            self._remember(event, event.version, told_ms)
        tail = parts.recovery.samples(self._restore(memory.documents))
        pending: list[Event] = []
        labels: list[StoredRecord] = []
        for record in tail.records(wall_ms):
            parts.progress()
            if record.topic == parts.recovery.labels_topic:
                labels.append(record)
            if len(labels) >= BATCH_LABELS or (labels and record is not labels[-1]):
                self._take_labels(labels)
                labels = []
            if record.topic != parts.recovery.labels_topic:
                kind = dict(record.headers).get(KIND_HEADER)
                pending += self._take_chunk(record.offset, kind, record.value, record.timestamp_ms)
            if len(pending) >= BATCH_EVENTS:
                self._publish_now(pending)
                pending = []
        self._take_labels(labels)
        self._publish_now(pending)
        self._monitor.overview(self._clock.epoch_ms())  # what is shown while the first chunk is merged
        self._monitor.rebuilt(tail.labels)
        return tail

    def _new_monitor(self) -> SharedMonitor:
        return SharedMonitor(self._parts.make_monitor(), self._clock.epoch_ms())

    def _restore(self, documents: Sequence[Document]) -> int | None:
        """Where to rebuild from. Memory that makes no sense is told and left: better a page twice than none ever."""
        try:
            return self._monitor.restore(documents)
        except Exception as error:
            self._log.failure("memory_unusable", error, documents=len(documents))
            self._monitor = self._new_monitor()
            return None

    def _take_chunk(self, offset: int, kind: bytes | None, value: bytes | None, wall_ms: int) -> list[Event]:
        """What the monitor says. It never raises; should it all the same, one record is lost and not the rest."""
        if kind == OWN_KIND:
            return []
        try:
            return self._monitor.chunk(value, offset, wall_ms)
        except Exception as error:
            self._complain(error)
            return []

    def _take_labels(self, records: Sequence[StoredRecord]) -> None:
        if not records:
            return
        try:
            self._monitor.labels([(record.partition, record.offset, record.value) for record in records])
        except Exception as error:
            self._complain(error)

    def _complain(self, error: Exception) -> None:
        self._failures += 1
        if self._failures.bit_count() == 1:  # the first, the second, the fourth, ...
            self._log.failure("monitor_failed", error, times=self._failures)

    async def _aside(self, call: Callable[[], T]) -> T:
        """A blocking call in the partition's own thread. Raises: Released."""
        if self._closed.is_set():
            raise Released
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)


class _Remembered:
    """A record of an earlier owner, as an event that a checkpoint repeats."""

    topic_role: TopicRole = "reports"

    def __init__(self, document: Document) -> None:
        self._document = document
        self.kind = str(document.get("kind", ""))
        self.version = str(document.get("version", ""))
        self.key = str(document.get("model", "")).encode()

    def json(self) -> bytes:
        """The record's value."""
        return orjson.dumps(self._document)
