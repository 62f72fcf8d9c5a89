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
    ModelIdentity,
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
            partition=[java_partition(part.key, self._partitions) for part in parts],
            key=[part.key for part in parts],
            value=[part.value for part in parts],
        )
        return SampleRecords(outbound=outbound, rows=rows, left_out=sum(len(batch) for batch, _ in batches) - rows)

    def _chunk(self, group: Sequence[Part], now_ms: int) -> SampleChunk:
        batches = [batch for batch, _ in group]
        spans, numbers = _merged(batches)
        some = [(batch, number) for batch, number in zip(batches, numbers, strict=True) if len(batch)]
        full = [batch for batch, _ in some]
        personal, model = self._personal, batches[0].model
        counts = Counter((r.stage, r.reason, r.feature) for _, rejects in group for r in rejects)
        names = full[0].columns if full else ()
        return SampleChunk(
            pipeline=self._pipeline,
            model=model.name,
            version=model.version,
            role=model.role,
            reference=self._reference,
            spans=spans,
            span=_joined([number[batch.span] for batch, number in some]).astype(np.uint32),
            offset=_joined([batch.offset for batch in full]),
            event_time_ms=_joined([batch.event_time_ms for batch in full]).clip(-MAX_TIME_MS, MAX_TIME_MS),
            timestamp_ms=_joined([batch.timestamp_ms for batch in full]).clip(-1, MAX_TIME_MS),
            level=np.repeat(
                np.array([batch.level for batch in full], dtype=np.uint8), np.array([len(batch) for batch in full], int)
            ),
            id=personal.ids(list(chain.from_iterable(batch.id for batch in full))),
            entity=personal.entities(list(chain.from_iterable(batch.entity for batch in full))),
            columns={name: personal.column(name, _column([batch.columns[name] for batch in full])) for name in names},
            rejects=tuple(RejectCount(*what, count) for what, count in sorted(counts.items())),
            written_ms=now_ms,
        )


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
    """Runs of batches of one model version whose columns fit together."""
    group: list[Part] = []
    shape: _Shape | None = None
    for part in batches:
        own = _Shape.of(part[0])
        if group and not own.fits(cast("_Shape", shape)):
            yield group
            group, shape = [], None
        group.append(part)
        shape = own if shape is None or shape.columns is None else shape
    if group:
        yield group


class _Shape(NamedTuple):
    """What batches of one chunk must share; columns are None without rows."""

    model: ModelIdentity
    columns: tuple[tuple[str, int], ...] | None

    @staticmethod
    def of(batch: SampleBatch) -> _Shape:
        columns = tuple((name, _width(column)) for name, column in batch.columns.items())
        return _Shape(batch.model, columns if len(batch) else None)

    def fits(self, other: _Shape) -> bool:
        return self.model == other.model and (self.columns == other.columns or None in {self.columns, other.columns})


def _width(column: Column) -> int:
    """-1 texts, 0 numbers, else the width of a vector."""
    if isinstance(column, list):
        return -1
    return 0 if column.ndim == 1 else column.shape[1]


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


def _column(parts: list[Column]) -> SampledColumn:
    if isinstance(parts[0], list):
        texts = TextColumn.of(list(chain.from_iterable(cast("list[list[str | None]]", parts))))
        return TextColumn(codes=texts.codes, values=tuple(map(_writable, texts.values)))
    return parts[0] if len(parts) == 1 else np.concatenate(cast("list[Tensor]", parts))


def _writable(text: str | None) -> str | None:
    """The text with `?` for what UTF-8 cannot hold (a lone surrogate, which JSON can)."""
    return text if text is None or text.isascii() else text.encode("utf-8", "replace").decode()
