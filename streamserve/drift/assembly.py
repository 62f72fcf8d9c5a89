"""Selected rows of several batches to chunks, and a chunk to messages that its topic takes.

One chunk a model version, however its batches alternate with those of other versions. A chunk that is too large is cut;
a row too large by itself is left out, for the worker could never commit past it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple, TypeVar

import numpy as np

from streamserve.batch import I64, Column, Reject, TopicPartition
from streamserve.drift.chunk import MAX_TIME_MS, RejectCount, SampleChunk, SampledColumn, Span, TextColumn, encode
from streamserve.drift.personal import Personal
from streamserve.drift.sampled_columns import SampledColumns, SampledRows, positions
from streamserve.drift.selection import Selection, Spans

T = TypeVar("T")
Part = tuple[Selection, Sequence[Reject]]
"""What is selected of a batch, and its rejects."""


class VersionPlan(NamedTuple):
    """What a model version's chunks hold.

    Attributes:
        columns: what is taken of a row.
        reference: hash of the reference beside the version, or empty.
    """

    columns: SampledColumns
    reference: str


class Assembly:
    """Makes chunks.

    Args:
        pipeline: its name.
        plans: by model version.
        personal: what of it is hashed.
        dropped: of `id` and `key` what is not taken.
    """

    def __init__(
        self,
        *,
        pipeline: str,
        plans: Callable[[str], VersionPlan],
        personal: Personal,
        dropped: Collection[str] = (),
    ) -> None:
        self._pipeline = pipeline
        self._plans = plans
        self._personal = personal
        self._with_id = "id" not in dropped
        self._with_key = "key" not in dropped

    def chunks(
        self, selections: Sequence[Selection], rejects: Sequence[Sequence[Reject]], level: int, now_ms: int
    ) -> Iterator[SampleChunk]:
        """The chunks of a transaction, by version and then in order; none of nothing.

        Records of which none was drawn are covered too, for whoever counts what was consumed.

        Args:
            selections: what is sampled of each batch.
            rejects: of each batch.
            level: about one row in 2^level was selected.
            now_ms: the worker's wall clock.
        """
        for version, parts in _by_version(zip(selections, rejects, strict=True)).items():
            plan = self._plans(version)
            for start, stop in _alike([selection for selection, _ in parts], plan.columns):
                chunk = self._chunk(plan, parts[start:stop], level, now_ms)
                if len(chunk) or chunk.rejects or any(span.consumed for span in chunk.spans):
                    yield chunk

    def _chunk(self, plan: VersionPlan, parts: Sequence[Part], level: int, now_ms: int) -> SampleChunk:
        spans = _merged([selection for selection, _ in parts])
        rows = _Rows({place: number for number, place in enumerate(spans)}, plan.columns)
        for selection, _ in parts:
            if selection.rows:
                rows.add(selection)
        model = parts[0][0].batch.predictions.model
        counts = Counter((reject.stage, reject.reason, reject.feature) for _, each in parts for reject in each)
        n = len(rows.offset)
        return SampleChunk(
            pipeline=self._pipeline,
            model=model.name,
            version=model.version,
            role=model.role,
            reference=plan.reference,
            spans=tuple(spans.values()),
            span=np.array(rows.span, dtype=np.uint32),
            offset=np.array(rows.offset, dtype=np.int64),
            event_time_ms=_times(rows.event_time_ms, -MAX_TIME_MS),
            timestamp_ms=_times(rows.timestamp_ms, -1),
            level=np.full(n, level, dtype=np.uint8),
            id=self._personal.ids(rows.id) if self._with_id else [""] * n,
            entity=self._personal.entities(rows.entity) if self._with_key else [None] * n,
            columns=self._written(rows.sampled.columns()),
            rejects=tuple(RejectCount(*what, count) for what, count in sorted(counts.items())),
            written_ms=now_ms,
        )

    def _written(self, columns: dict[str, Column]) -> dict[str, SampledColumn]:
        written = {name: _texts(column) if isinstance(column, list) else column for name, column in columns.items()}
        for name in self._personal.hashed.intersection(written):
            written[name] = self._personal.column(name, written[name])
        return written


def _by_version(parts: Iterable[Part]) -> dict[str, list[Part]]:
    """The parts of each model version, in order."""
    found: dict[str, list[Part]] = {}
    for part in parts:
        found.setdefault(part[0].batch.predictions.model.version, []).append(part)
    return found


def _alike(selections: Sequence[Selection], columns: SampledColumns) -> Iterator[tuple[int, int]]:
    """Runs of batches of one role whose columns can be joined; those without rows fit any."""
    start, role, shape = 0, None, None
    for number, (batch, _, rows) in enumerate(selections):
        own_role = batch.predictions.model.role
        own_shape = columns.shape(batch.predictions) if rows else None
        parts = own_shape is not None and shape is not None and own_shape != shape
        if number > start and (own_role != role or parts):
            yield start, number
            start, shape = number, None
        role, shape = own_role, shape or own_shape
    if selections:
        yield start, len(selections)


def cut(chunk: SampleChunk, max_bytes: int) -> Iterator[tuple[bytes, int]]:
    """The chunk as messages of at most `max_bytes`, and the rows in each.

    A row that is too large alone is left out; what it stood for stays covered, if that fits.
    """
    n, size = len(chunk), chunk.least_bytes()
    if size <= max_bytes or n < 2:
        data = encode(chunk)
        if len(data) <= max_bytes:
            yield data, n
            return
        size = len(data)
    if n > 1:
        parts = min(n, -(-size // max(1, max_bytes)))
        bounds = np.linspace(0, n, parts + 1).astype(int).tolist()
        for start, stop in pairwise(bounds):
            yield from cut(chunk.rows(start, stop), max_bytes)
    elif n == 1:
        yield from cut(chunk.without_rows(), max_bytes)


class _Rows:
    """Sampled rows of several batches, column by column.

    Args:
        numbers: of the spans.
        columns: what is taken of a row.
    """

    def __init__(self, numbers: Mapping[TopicPartition, int], columns: SampledColumns) -> None:
        self._numbers = numbers
        self.span: list[int] = []
        self.offset: list[int] = []
        self.event_time_ms: list[int] = []
        self.timestamp_ms: list[int] = []
        self.id: list[str] = []
        self.entity: list[bytes | None] = []
        self.sampled = SampledRows(columns)

    def add(self, selection: Selection) -> None:
        """Append the selected rows of a batch, of which there are some."""
        predictions, rows = selection.batch.predictions, selection.rows
        events = predictions.events
        records = events.origin
        at = positions(events, rows)
        if len(selection.spans) == 1:
            self.span += [self._numbers[place] for place in selection.spans] * len(rows)
        else:
            places = zip(_picked(records.topic, rows), _picked(records.partition, rows), strict=True)
            self.span += [self._numbers[TopicPartition(*place)] for place in places]
        self.offset += _picked(records.offset, rows)
        self.event_time_ms += _picked(events.event_time_ms, at)
        self.timestamp_ms += _picked(records.timestamp_ms, rows)
        self.id += _picked(events.id, at)
        self.entity += _picked(events.entity, at)
        self.sampled.add(predictions, at)


def _merged(selections: Sequence[Selection]) -> Spans:
    """One span a partition: consecutive batches of it put together."""
    merged: Spans = {}
    for selection in selections:
        for place, span in selection.spans.items():
            first = merged.get(place)
            if first is None:
                merged[place] = span
            else:
                consumed = first.consumed + span.consumed
                merged[place] = Span(span.topic, span.partition, first.first, span.end, consumed)
    return merged


def _picked(column: list[T], rows: Sequence[int]) -> list[T]:
    """The items of a list at `rows`, ascending; the list itself when that is all of it."""
    return column if len(rows) == len(column) else [column[row] for row in rows]


def _times(times: list[int], low: int) -> I64:
    """Times within what a chunk may hold: a record's timestamp is whatever its producer said."""
    bounded: I64 = np.minimum(np.maximum(np.array(times, dtype=np.int64), low), MAX_TIME_MS)
    return bounded


def _texts(texts: list[str | None]) -> TextColumn:
    column = TextColumn.of(texts)
    return TextColumn(codes=column.codes, values=tuple(map(_writable, column.values)))


def _writable(text: str | None) -> str | None:
    """The text with `?` for what UTF-8 cannot hold (a lone surrogate, which JSON can)."""
    return text if text is None or text.isascii() else text.encode("utf-8", "replace").decode()
