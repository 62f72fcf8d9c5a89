"""The samples topic read back: the rows of a model version in a range, each once.

Reads committed chunks without joining a group. Chunks that stand twice (at least once, a replay) are merged once, by
the same marks as the monitor's; what is no chunk, or another version's, is counted and left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from streamserve.batch import I64, U64, Bools
from streamserve.cli.drift_range import MARGIN_MS, Offsets, Range, Source
from streamserve.config.drift_topics import drift_topics
from streamserve.config.settings import PipelineSettings
from streamserve.drift.chunk import ChunkError, SampleChunk, decode
from streamserve.drift.gathered import Rows
from streamserve.drift.levels import draws, stream_seed
from streamserve.drift.marks import Marks

if TYPE_CHECKING:
    from streamserve.kafka.reading import StoredRecord, TopicReader


@dataclass(slots=True)
class Tally:
    """What was read.

    Attributes:
        chunks: of the version.
        broken: records that are no chunk.
        twice: rows that were seen before.
        others: rows of other versions.
        references: hash of the reference the worker had -> rows.
        rejects: stage, reason, feature -> records rejected by workers, of whole chunks in the range.
        consumed: records of these chunks, predicted or rejected.
    """

    chunks: int = 0
    broken: int = 0
    twice: int = 0
    others: Counter[str] = field(default_factory=Counter)
    references: Counter[str] = field(default_factory=Counter)
    rejects: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    consumed: int = 0


class Samples:
    """The samples of a model version.

    Args:
        settings: the pipeline.
        model, version: whose.
        wanted: which rows.
    """

    def __init__(self, settings: PipelineSettings, model: str, version: str, wanted: Range) -> None:
        self._settings = settings
        self._labels = settings.drift.labels if settings.drift else None
        self._model = model
        self._version = version
        self._wanted = wanted
        self._marks = Marks()
        self.topic = drift_topics(settings).samples
        self.tally = Tally()

    def parts(self, stop: Callable[[], bool]) -> Iterator[Rows]:
        """The rows, chunk by chunk. Raises: BrokerUnavailable, SourceError."""
        from streamserve.kafka.clients import reader_properties
        from streamserve.kafka.reading import TopicReader

        properties = reader_properties(self._settings, group=f"{self._settings.pipeline}.drift")
        with TopicReader(properties, self.topic) as reader:
            extents = reader.extents()
            since_ms = self._wanted.reads_from_ms
            starts = reader.positions("beginning" if since_ms is None else since_ms, extents)
            for partition, extent in extents.items():
                yield from self._partition(reader, partition, starts[partition], extent.high, stop)

    def _partition(
        self, reader: TopicReader, partition: int, start: int, end: int, stop: Callable[[], bool]
    ) -> Iterator[Rows]:
        """One partition; a model's chunks are all in one."""
        passed = _Passed(self._wanted)
        for record in reader.read({partition: start}, {partition: end}, stop):
            chunk = self._chunk(record)
            if chunk is None:
                continue
            yield from self._rows(chunk)
            if passed.note(chunk, record.timestamp_ms):
                return

    def _chunk(self, record: StoredRecord) -> SampleChunk | None:
        """The chunk of a record, if it is one of the version."""
        try:
            chunk = decode(record.value or b"")
        except ChunkError:
            self.tally.broken += 1
            return None
        if (chunk.pipeline, chunk.model) != (self._settings.pipeline, self._model):
            return None
        if chunk.version != self._version:
            self.tally.others[chunk.version] += len(chunk)
            return None
        return chunk

    def _rows(self, chunk: SampleChunk) -> Iterator[Rows]:
        fresh, fresh_spans = self._marks.take(chunk)
        tally = self.tally
        tally.chunks += 1
        tally.twice += int(len(chunk) - fresh.sum())
        inside = self._wanted.holds(chunk.event_time_ms) & self._in_offsets(chunk)
        if all(fresh_spans) and (inside.all() if len(chunk) else self._covers(chunk)):
            tally.consumed += sum(span.consumed for span in chunk.spans)
            for reject in chunk.rejects:
                tally.rejects[reject.stage, reject.reason, reject.feature] += reject.count
        index = np.flatnonzero(fresh & inside)
        tally.references[chunk.reference] += len(index)
        if len(index):
            yield Rows.of(chunk, self._labels).take(index)

    def _in_offsets(self, chunk: SampleChunk) -> Bools:
        offsets = self._wanted.offsets
        if not offsets:
            return np.ones(len(chunk), dtype=np.bool_)
        low, high = _bounds(chunk, offsets)
        inside: Bools = (chunk.offset >= low[chunk.span]) & (chunk.offset < high[chunk.span])
        return inside

    def _covers(self, chunk: SampleChunk) -> bool:
        """Whether a chunk without rows lies in the range: by its time of writing, and by its spans."""
        if self._wanted.offsets:
            low, high = _bounds(chunk, self._wanted.offsets)
            return all(a <= span.first and span.end <= b for span, a, b in zip(chunk.spans, low, high, strict=True))
        return bool(self._wanted.holds(np.array([chunk.written_ms]))[0])


def _bounds(chunk: SampleChunk, offsets: Offsets) -> tuple[I64, I64]:
    """First offset wanted and the one after the last, per span of a chunk; an empty range for other partitions."""
    pairs = [offsets.get((span.topic, span.partition), (0, 0)) for span in chunk.spans]
    return np.array([low for low, _ in pairs], np.int64), np.array([high for _, high in pairs], np.int64)


def row_draws(rows: Rows) -> U64:
    """The draws of sampled rows, uint64[n]: which coarser levels they belong to."""
    seeds = np.array([stream_seed(span.topic, span.partition) for span in rows.spans], dtype=np.uint64)
    return draws(seeds[rows.span], rows.offset)


class _Passed:
    """Whether all rows of a range were read before the end of a topic is reached.

    Of source offsets: every range was covered. Of a slice of time: only where chunks are written within the margin of
    their events' times and every source partition seen is past the end; a stream that is replayed or lags is read to
    the topic's end.
    """

    def __init__(self, wanted: Range) -> None:
        self._wanted = wanted
        self._ends: dict[Source, int] = {}
        self._times: dict[Source, int] = {}

    def note(self, chunk: SampleChunk, timestamp_ms: int) -> bool:
        """Take notice of a chunk. Returns: whether nothing more can come."""
        for span in chunk.spans:
            place = (span.topic, span.partition)
            self._ends[place] = max(span.end, self._ends.get(place, 0))
        offsets = self._wanted.offsets
        if offsets and all(self._ends.get(place, 0) >= end for place, (_, end) in offsets.items()):
            return True
        until_ms = self._wanted.until_ms
        if until_ms is None or not len(chunk):
            return False
        for number in np.unique(chunk.span).tolist():
            span = chunk.spans[number]
            self._times[span.topic, span.partition] = int(chunk.event_time_ms[chunk.span == number].min())
        live = abs(timestamp_ms - int(np.median(chunk.event_time_ms))) < MARGIN_MS
        return live and timestamp_ms >= until_ms + MARGIN_MS and min(self._times.values()) >= until_ms
