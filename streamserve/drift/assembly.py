"""Samples of a transaction to records of the samples topic: one chunk per model version, in the same transaction.

Runs in the write thread just before the flush, on what is current then: rows of partitions that have left are gone
from samples, predictions and offsets alike. A chunk that is larger than the topic takes is cut; a row too large by
itself is left out and counted, for the worker could never commit past it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, pairwise
from typing import NamedTuple, cast

import numpy as np

from streamserve.batch import (
    I64,
    Column,
    OutboundBatch,
    Reject,
    SampleBatch,
    SampleRecords,
    Tensor,
    TopicPartition,
)
from streamserve.drift.chunk import MAX_TIME_MS, RejectCount, SampleChunk, SampledColumn, Span, TextColumn, encode
from streamserve.drift.java_partition import java_partition
from streamserve.drift.personal import Personal

Part = tuple[SampleBatch, Sequence[Reject]]
"""The samples of a batch, and its rejects."""


class Assembly:
    """Makes sample chunks; used by one write thread.

    Args:
        topic: where chunks go.
        partitions: of that topic.
        max_bytes: largest record it takes, key and value.
        pipeline: its name.
        reference: hash of the reference beside the model version, or empty.
        personal: what is hashed.
    """

    def __init__(
        self, *, topic: str, partitions: int, max_bytes: int, pipeline: str, reference: str, personal: Personal
    ) -> None:
        self._topic = topic
        self._partitions = partitions
        self._max_bytes = max_bytes
        self._pipeline = pipeline
        self._reference = reference
        self._personal = personal
        self._places: dict[bytes, int] = {}

    def make(self, batches: Sequence[Part], now_ms: int) -> SampleRecords | None:
        """The chunks of a transaction's batches, in order; None when nothing was sampled and nothing rejected."""
        parts: list[_Message] = []
        for group in _alike(batches):
            chunk = self._chunk(group, now_ms)
            if len(chunk) or chunk.rejects:
                key = chunk.model.encode()
                parts += [_Message(key, *fitting) for fitting in cut(chunk, self._max_bytes - len(key))]
        if not parts:
            return None
        rows = sum(part.rows for part in parts)
        outbound = OutboundBatch(
            topic=self._topic,
            row=list(range(len(parts))),
            partition=[self._place(part.key) for part in parts],
            key=[part.key for part in parts],
            value=[part.value for part in parts],
        )
        return SampleRecords(outbound=outbound, rows=rows, left_out=sum(len(batch) for batch, _ in batches) - rows)

    def _place(self, key: bytes) -> int:
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = java_partition(key, self._partitions)
        return place

    def _chunk(self, group: Sequence[Part], now_ms: int) -> SampleChunk:
        batches = [batch for batch, _ in group]
        spans, numbers = _merged(batches)
        some = [(batch, number) for batch, number in zip(batches, numbers, strict=True) if len(batch)]
        full = [batch for batch, _ in some]
        personal, model = self._personal, batches[0].model
        counts = Counter((r.stage, r.reason, r.feature) for _, rejects in group for r in rejects)
        return SampleChunk(
            pipeline=self._pipeline,
            model=model.name,
            version=model.version,
            role=model.role,
            reference=self._reference,
            spans=spans,
            span=_joined([number[batch.span] for batch, number in some]).astype(np.uint32),
            offset=_joined([batch.offset for batch in full]),
            event_time_ms=_within(-MAX_TIME_MS, _joined([batch.event_time_ms for batch in full])),
            timestamp_ms=_within(-1, _joined([batch.timestamp_ms for batch in full])),
            level=_joined([np.full(len(batch), batch.level) for batch in full]).astype(np.uint8),
            id=personal.ids(list(chain.from_iterable(batch.id for batch in full))),
            entity=personal.entities(list(chain.from_iterable(batch.entity for batch in full))),
            columns=self._columns(full),
            rejects=tuple(RejectCount(*what, count) for what, count in sorted(counts.items())),
            written_ms=now_ms,
        )

    def _columns(self, batches: Sequence[SampleBatch]) -> dict[str, SampledColumn]:
        if len(batches) == 1:  # a quiet worker commits batch by batch
            columns = {name: _encoded(column) for name, column in batches[0].columns.items()}
        else:
            names = batches[0].columns if batches else ()
            columns = {name: _column([batch.columns[name] for batch in batches]) for name in names}
        for name in self._personal.hashed.intersection(columns):
            columns[name] = self._personal.column(name, columns[name])
        return columns


class _Message(NamedTuple):
    key: bytes
    value: bytes
    rows: int


def cut(chunk: SampleChunk, max_bytes: int) -> Iterator[tuple[bytes, int]]:
    """The chunk as messages of at most `max_bytes`, and the rows in each.

    A row that is too large alone is left out; what it stood for stays covered, if that fits.
    """
    data = encode(chunk)
    n = len(chunk)
    if len(data) <= max_bytes:
        yield data, n
    elif n > 1:
        parts = min(n, -(-len(data) // max(1, max_bytes)))
        bounds = np.linspace(0, n, parts + 1).astype(int).tolist()
        for start, stop in pairwise(bounds):
            yield from cut(chunk.rows(start, stop), max_bytes)
    elif n == 1:
        yield from cut(chunk.without_rows(), max_bytes)


def _alike(batches: Iterable[Part]) -> Iterator[list[Part]]:
    """Runs of batches of one model version whose columns fit together; batches without rows fit any."""
    group: list[Part] = []
    pattern: SampleBatch | None = None
    for part in batches:
        batch = part[0]
        if pattern is not None and not _fits(batch, pattern):
            yield group
            group, pattern = [], None
        group.append(part)
        if pattern is None or not len(pattern):
            pattern = batch
    if group:
        yield group


def _fits(batch: SampleBatch, pattern: SampleBatch) -> bool:
    if batch.model != pattern.model:
        return False
    return not len(batch) or not len(pattern) or _widths(batch) == _widths(pattern)


def _widths(batch: SampleBatch) -> dict[str, int]:
    """Of each column: -1 texts, 0 numbers, else the width of a vector."""
    return {
        name: -1 if isinstance(column, list) else column.ndim - 1 and column.shape[1]
        for name, column in batch.columns.items()
    }


def _merged(batches: Sequence[SampleBatch]) -> tuple[tuple[Span, ...], list[I64]]:
    """One span a partition, and for each batch the numbers of its spans among them."""
    first: dict[TopicPartition, int] = {}
    end: dict[TopicPartition, int] = {}
    consumed: Counter[TopicPartition] = Counter()
    for batch in batches:
        for span in batch.spans:
            first.setdefault(span.place, span.first)
            end[span.place] = span.end
            consumed[span.place] += span.consumed
    number = {place: i for i, place in enumerate(first)}
    spans = tuple(Span(*place, first[place], end[place], consumed[place]) for place in first)
    return spans, [np.array([number[span.place] for span in batch.spans], dtype=np.int64) for batch in batches]


def _joined(parts: list[I64]) -> I64:
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def _within(low: int, times: I64) -> I64:
    """Times within what a chunk may hold: a record's timestamp is whatever its producer said."""
    bounded: I64 = np.minimum(np.maximum(times, low), MAX_TIME_MS)
    return bounded


def _column(parts: list[Column]) -> SampledColumn:
    if isinstance(parts[0], list):
        return _encoded(list(chain.from_iterable(cast("list[list[str | None]]", parts))))
    return np.concatenate(cast("list[Tensor]", parts))


def _encoded(column: Column) -> SampledColumn:
    if not isinstance(column, list):
        return column
    texts = TextColumn.of(column)
    return TextColumn(codes=texts.codes, values=tuple(map(_writable, texts.values)))


def _writable(text: str | None) -> str | None:
    """The text with `?` for what UTF-8 cannot hold (a lone surrogate, which JSON can)."""
    return text if text is None or text.isascii() else text.encode("utf-8", "replace").decode()
