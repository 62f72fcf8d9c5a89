"""What a new owner of a samples partition reads before it goes on: memory first, then the samples since.

Memory is the newest state of every model and the references learned from traffic, records of the reports topic. A
checkpoint repeats all of it once an hour, so that the end of the topic is enough; where there is none, everything is
read. Then the samples from the offset that the state names up to the end, and labels of the last `wait_s`, merged by
time. Blocking, with clients of its own; read only.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import orjson

from streamserve.config.drift_topics import DriftTopics
from streamserve.config.settings import PipelineSettings
from streamserve.errors import SourceError
from streamserve.kafka.clients import Properties, reader_properties
from streamserve.kafka.reading import Extent, StoredRecord, TopicReader
from streamserve.sidecar.publisher import CHECKPOINT_HEADER, KIND_HEADER, MEMORY_KINDS, PARTITION_HEADER, TOLD_HEADER

MEMORY_SPANS_S = (2 * 3600.0, 24 * 3600.0)
"""How far back memory is looked for before everything is read; a checkpoint is written every hour."""
KEEP_MS = 2 * 24 * 3600 * 1000
"""Memory so much older than the newest is of a model that is not served any more; going on from there would mean to
read all samples since."""
FIRST_START_S = 24 * 3600.0
"""Without any memory, samples older than this are no news."""
BROKERS_AWAY_S = 60.0
"""Brokers may be away for so long during a rebuild."""

UNSTABLE_S = 60.0
"""Transactions of others may stay open for so long before a takeover is given up; their own timeout is 30 s."""

Identity = TypeVar("Identity", bound=Hashable)
Stop = Callable[[], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What an earlier owner left.

    Attributes:
        documents: states and references, oldest first.
        told_ms: when each was published first.
        records: how many records were read to find them.
    """

    documents: list[dict[str, object]]
    told_ms: list[int]
    records: int


class Recovery:
    """Reads what is needed to take over one partition.

    Args:
        settings: the pipeline.
        topics: by name.
        partition: of the samples topic.
        stop: asked often; True ends the reading early.
    """

    def __init__(self, settings: PipelineSettings, topics: DriftTopics, partition: int, stop: Stop) -> None:
        self._topics = topics
        self._partition = partition
        self._stop = stop
        self._properties: Properties = reader_properties(settings, group=f"{settings.pipeline}.sidecar.reader")
        self._labels_s = settings.drift.labels.wait_s if settings.drift and settings.drift.labels else 0.0

    @property
    def labels_topic(self) -> str | None:
        """Where labels come from."""
        return self._topics.labels

    def memory(self, wall_ms: int) -> Memory:
        """What the last owner left; it must be fenced. Raises: BrokerUnavailable, SourceError."""
        with TopicReader(self._properties, self._topics.reports, patience_s=BROKERS_AWAY_S) as reader:
            extents = self._settled(reader)
            for span_s in MEMORY_SPANS_S:
                start = reader.positions(wall_ms - round(span_s * 1000), extents)
                found, complete = self._collect(reader, start, extents)
                if complete or start == {partition: extent.low for partition, extent in extents.items()}:
                    return found
            found, _ = self._collect(reader, reader.positions("beginning", extents), extents)
        return found

    def _settled(self, reader: TopicReader) -> dict[int, Extent]:
        """What the topic holds once all that is there now is decided.

        Another partition's transaction that is open holds back the last stable offset, and behind it may stand what
        the last owner has committed.
        """
        everything = {**self._properties, "isolation.level": "read_uncommitted"}
        with TopicReader(everything, self._topics.reports, patience_s=BROKERS_AWAY_S) as uncommitted:
            written = uncommitted.extents()
        give_up_s = time.monotonic() + UNSTABLE_S
        while not self._stop():
            stable = reader.extents()
            if all(stable[partition].high >= extent.high for partition, extent in written.items()):
                return stable
            if time.monotonic() > give_up_s:
                raise SourceError(
                    f"a transaction on {self._topics.reports} stays open for more than {UNSTABLE_S:.0f} s; find its"
                    " producer with `kafka-transactions.sh find-hanging`",
                    retryable=True,
                    topic=self._topics.reports,
                )
            time.sleep(0.05)
        return {partition: Extent(extent.low, extent.low) for partition, extent in written.items()}

    def _collect(
        self, reader: TopicReader, start: Mapping[int, int], extents: Mapping[int, Extent]
    ) -> tuple[Memory, bool]:
        """Memory of our partition in a span, and whether a checkpoint was among it."""
        newest: dict[tuple[object, ...], tuple[int, dict[str, object]]] = {}
        told: dict[tuple[object, ...], int] = {}
        complete, records = False, 0
        for record in reader.read(start, {partition: extent.high for partition, extent in extents.items()}, self._stop):
            records += 1
            headers = dict(record.headers)
            if headers.get(PARTITION_HEADER) != b"%d" % self._partition:
                continue
            if (headers.get(KIND_HEADER) or b"").decode(errors="replace") not in MEMORY_KINDS:
                continue
            complete = complete or headers.get(CHECKPOINT_HEADER) == b"first"
            document = _document(record.value)
            if document is None:
                continue
            identity = _identity(document)
            if identity not in newest or newest[identity][0] <= record.timestamp_ms:
                newest.pop(identity, None)  # so that the order of the dictionary is the order in time
                newest[identity] = (record.timestamp_ms, document)
                told[identity] = _told_ms(headers, record.timestamp_ms)
        kept = still_served(newest, told, model=lambda identity: identity[1])
        documents = [newest[each][1] for each in kept]
        return Memory(documents=documents, told_ms=[told[each] for each in kept], records=records), complete

    def samples(self, start: int | None) -> SamplesTail:
        """The samples from an offset (None: of the last day) to what is the end now, and labels since `wait_s`."""
        return SamplesTail(self._properties, self._topics, self._partition, start, self._labels_s, self._stop)


class SamplesTail:
    """Iterates over samples and labels, by time; afterwards tells how far it came.

    Attributes:
        next_offset: position in the samples partition after what was read.
        labels: position per labels partition, likewise.
    """

    def __init__(
        self,
        properties: Properties,
        topics: DriftTopics,
        partition: int,
        start: int | None,
        labels_s: float,
        stop: Stop,
    ) -> None:
        self.next_offset = 0
        self.labels: dict[int, int] = {}
        self._properties = properties
        self._topics = topics
        self._partition = partition
        self._start = start
        self._labels_s = labels_s
        self._stop = stop

    def records(self, wall_ms: int) -> Iterator[StoredRecord]:
        """The records. Raises: BrokerUnavailable, SourceError."""
        with TopicReader(self._properties, self._topics.samples, patience_s=BROKERS_AWAY_S) as samples:
            extent = samples.extents()[self._partition]
            if self._start is None:
                begin = samples.positions(wall_ms - round(FIRST_START_S * 1000), {self._partition: extent})
            else:
                begin = {self._partition: max(extent.low, min(self._start, extent.high))}
            self.next_offset = extent.high
            chunks = samples.read(begin, {self._partition: extent.high}, self._stop)
            if self._topics.labels is None:
                yield from chunks
                return
            with TopicReader(self._properties, self._topics.labels, patience_s=BROKERS_AWAY_S) as labels:
                extents = labels.extents()
                self.labels = {partition: extent.high for partition, extent in extents.items()}
                since = labels.positions(wall_ms - round(self._labels_s * 1000), extents)
                told = labels.read(since, self.labels, self._stop)
                yield from heapq.merge(chunks, told, key=lambda record: record.timestamp_ms)


def _document(value: bytes | None) -> dict[str, object] | None:
    try:
        document = orjson.loads(value or b"")
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) else None


def still_served(
    memory: Iterable[Identity], told_ms: Mapping[Identity, int], *, model: Callable[[Identity], object]
) -> list[Identity]:
    """The part of the memory that is of models which anything was told of lately.

    Args:
        memory: by identity, in any order, which is kept.
        told_ms: when each was published first.
        model: of an identity.
    """
    newest: dict[object, int] = {}
    for identity, at_ms in told_ms.items():
        newest[model(identity)] = max(at_ms, newest.get(model(identity), at_ms))
    since_ms = max(newest.values(), default=0) - KEEP_MS
    return [identity for identity in memory if newest[model(identity)] >= since_ms]


def _told_ms(headers: Mapping[str, bytes | None], otherwise_ms: int) -> int:
    """When a record was published first."""
    text = headers.get(TOLD_HEADER) or b""
    return int(text) if text.isdigit() and len(text) < 16 else otherwise_ms


def _identity(document: Mapping[str, object]) -> tuple[object, ...]:
    """States replace each other per model, references per version."""
    if document.get("kind") == "reference":
        return ("reference", document.get("model"), document.get("version"))
    return ("state", document.get("model"))
