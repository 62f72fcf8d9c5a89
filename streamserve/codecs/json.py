"""JSON events: flat objects by msgspec's typed decoder, wide vectors by simdjson.

Both ways accept and reject exactly the same bytes. The wide way takes only what is plainly usual: an object
without nested objects, one array, every wanted field once, ids of plain types. Anything else, and any error,
falls back to the typed decoder for that one record, which has the last word. So duplicate keys (the last
wins), escaped field names, integers beyond 64 bits, a byte order mark and every malformed value are judged in
one place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import msgspec
import numpy as np
import simdjson

from streamserve.batch import F32, F64, EventBatch, RecordBatch, Reject
from streamserve.codecs.columns import Trouble, Unfit, event_batch
from streamserve.codecs.layout import EVENT_TIME_MAX_MS, EVENT_TIME_MIN_MS, INT64_MAX, INT64_MIN, EventLayout
from streamserve.codecs.typed import TypedDecoder
from streamserve.config.settings import VectorSettings

WIDE_SIZE = 40
"""Vectors of at least this size are read by simdjson. Microseconds an event, msgspec / simdjson, six digits a
number, one core of an AMD EPYC with AVX-512: 16 numbers 1.1 / 1.7, 32: 1.8 / 2.0, 48: 2.5 / 2.2, 784: 58 / 13
(`benchmarks/stages.py --crossover`)."""


def json_decoder(layout: EventLayout, *, max_record_bytes: int) -> TypedDecoder | WideJsonDecoder:
    """The decoder of JSON events that is faster for this layout."""
    decode = msgspec.json.Decoder(layout.struct_type()).decode
    typed = TypedDecoder(layout, decode, format="JSON", max_record_bytes=max_record_bytes, describe=_describe)
    if layout.vector is not None and layout.vector.size >= WIDE_SIZE:
        return WideJsonDecoder(layout, typed, max_record_bytes=max_record_bytes)
    return typed


class WideJsonDecoder:
    """A `Decoder` of events with one wide vector. One thread at a time: the parser's memory is reused.

    Args:
        layout: a layout with a vector.
        typed: the typed decoder of the same layout, for records that are not plainly usual.
        max_record_bytes: larger values are rejected as `too_large`.
    """

    def __init__(self, layout: EventLayout, typed: TypedDecoder, *, max_record_bytes: int) -> None:
        self._layout = layout
        self._spec = cast("VectorSettings", layout.vector)
        self._others = [
            _Other(name, at != layout.event_time, *_bounds(layout, at))
            for at, name in enumerate(layout.names)
            if at > 0
        ]
        self._typed = typed
        self._max_record_bytes = max_record_bytes
        self._parser = simdjson.Parser()

    def decode(self, records: RecordBatch) -> tuple[EventBatch, list[Reject]]:
        count = len(records)
        vectors = np.empty((count, self._spec.size), self._spec.dtype)
        columns: list[list[object]] = [[None] * count for _ in self._others]
        rejects: list[Reject] = []
        with np.errstate(over="raise", invalid="ignore"):
            unusual = self._read(records.value, vectors, columns)
        for i in unusual:
            row = self._typed.row(records.value[i])
            if isinstance(row, Trouble):
                rejects.append(row.at(i))
                continue
            vectors[i] = row[0]
            for column, value in zip(columns, row[1:], strict=True):
                column[i] = value
        kept = list(range(count))
        if rejects:
            bad = {reject.row for reject in rejects}
            kept = [i for i in kept if i not in bad]
            vectors = vectors[kept]
            columns = [[column[i] for i in kept] for column in columns]
        layout, every = self._layout, [None, *columns]
        events = event_batch(
            records,
            kept,
            {self._spec.field: vectors},
            ids=None if layout.id is None else every[layout.id],
            keys=None if layout.key is None else every[layout.key],
            times=None if layout.event_time is None else every[layout.event_time],
        )
        return events, rejects

    def _read(self, values: list[bytes | None], vectors: F32 | F64, columns: list[list[object]]) -> list[int]:
        """Fill the rows of plainly usual records, checked; returns the rows of the others, untouched."""
        parse = cast("Callable[[bytes], Any]", self._parser.parse)  # a view of simdjson's memory
        frombuffer, float64 = np.frombuffer, np.float64
        field, size, limit = self._spec.field, self._spec.size, self._max_record_bytes
        others = list(zip(self._others, columns, strict=True))
        known = len(self._layout.names)
        unusual: list[int] = []
        document = array = None
        for i, value in enumerate(cast("list[bytes]", values)):
            try:
                # One "{", at the start, and one "[": nothing is nested (simdjson flattens arrays).
                if value.rfind(b"{") or value.find(b"[") != value.rfind(b"[") or len(value) > limit:
                    raise Unfit
                document = parse(value)
                if len(document) != known:
                    _no_duplicates(document, self._layout.names)
                array = document[field]
                if len(array) != size:
                    raise Unfit
                for other, column in others:
                    found = document[other.name]
                    if type(found) is str:
                        if not other.text:
                            raise Unfit
                    elif type(found) is not int or not other.low <= found <= other.high:
                        raise Unfit
                    column[i] = found
                vectors[i] = frombuffer(array.as_buffer(of_type="d"), float64)
            except Exception:
                # A null value or any surprise at all: the typed decoder judges this record.
                unusual.append(i)
            document = array = None  # the parser refuses to go on while one of its views lives
        return unusual


class _Other(NamedTuple):
    """A field beside the vector: whether it may be text, and between which integers it lies."""

    name: str
    text: bool
    low: int
    high: int


def _bounds(layout: EventLayout, at: int) -> tuple[int, int]:
    if at == layout.event_time:
        return EVENT_TIME_MIN_MS, EVENT_TIME_MAX_MS
    return INT64_MIN, INT64_MAX


def _no_duplicates(document: Mapping[str, object], names: tuple[str, ...]) -> None:
    """Raises: Unfit if a wanted field is there twice: simdjson would take the first, not the last."""
    keys = list(document.keys())
    if any(keys.count(name) != 1 for name in names):
        raise Unfit


def _describe(value: bytes) -> str:
    """What these bytes are, if they are a known mistake for JSON in UTF-8."""
    if value.startswith(b"\xef\xbb\xbf"):
        return "it starts with a byte order mark; send UTF-8 without one"
    if value.startswith((b"\xff\xfe", b"\xfe\xff")) or value[1:2] == b"\0" or value[:1] == b"\0":
        return "it looks like UTF-16 or UTF-32; send UTF-8"
    return ""
