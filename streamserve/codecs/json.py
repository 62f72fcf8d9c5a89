"""JSON events: flat objects by msgspec's typed decoder, wide vectors by simdjson.

Both ways accept and reject exactly the same bytes. The wide way takes only what is plainly usual: an object
without nested objects, one array, every wanted field once, ids of plain types. Anything else, and any error,
falls back to the typed decoder for that one record, which has the last word. So duplicate keys (the last
wins), escaped field names, integers beyond 64 bits, a byte order mark and every malformed value are judged in
one place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import msgspec
import numpy as np
import simdjson

from streamserve.codecs.columns import Unfit
from streamserve.codecs.layout import EVENT_TIME_MAX_MS, EVENT_TIME_MIN_MS, INT64_MAX, INT64_MIN, EventLayout
from streamserve.codecs.typed import TypedDecoder
from streamserve.codecs.wide import Packed, WideDecoder
from streamserve.config.settings import VectorSettings

WIDE_SIZE = 40
"""Vectors of at least this size are read by simdjson. Microseconds an event, msgspec / simdjson, six digits a
number, one core of an AMD EPYC with AVX-512: 16 numbers 0.8 / 1.2, 32: 1.3 / 1.4, 48: 1.8 / 1.7, 128: 4.5 / 2.8
(`python -m benchmarks.stages crossover`)."""
_DOUBLE = np.dtype(np.float64)


def json_decoder(layout: EventLayout, *, max_record_bytes: int) -> TypedDecoder | WideDecoder:
    """The decoder of JSON events that is faster for this layout."""
    decode = msgspec.json.Decoder(layout.struct_type()).decode
    typed = TypedDecoder(layout, decode, format="JSON", max_record_bytes=max_record_bytes, describe=_describe)
    if layout.vector is not None and layout.vector.size >= WIDE_SIZE:
        return WideDecoder(layout, JsonReader(layout, max_record_bytes=max_record_bytes), typed)
    return typed


class JsonReader:
    """A `Reader` of objects without nested objects, with one array, every wanted field once, and ids of plain types.

    Args:
        layout: a layout with a vector.
        max_record_bytes: larger values are not usual.
    """

    def __init__(self, layout: EventLayout, *, max_record_bytes: int) -> None:
        self._names = layout.names
        self._spec = cast("VectorSettings", layout.vector)
        self._others = [
            _Other(name, at != layout.event_time, *_bounds(layout, at))
            for at, name in enumerate(layout.names)
            if at > 0
        ]
        self._max_record_bytes = max_record_bytes
        self._parser = simdjson.Parser()

    def read(self, values: Sequence[bytes | None], rows: range, columns: Sequence[list[object]]) -> tuple[Packed, ...]:
        """See `Reader`."""
        parse = cast("Callable[[bytes], Any]", self._parser.parse)  # a view of simdjson's memory
        field, size, limit = self._spec.field, self._spec.size, self._max_record_bytes
        others = list(zip(self._others, columns, strict=True))
        known = len(self._names)
        usual: list[int] = []
        vectors: list[bytes] = []
        document = array = None
        for i in rows:
            value = cast("bytes", values[i])
            try:
                # One "{", at the start, and one "[": nothing is nested (simdjson flattens arrays).
                if value.rfind(b"{") or value.find(b"[") != value.rfind(b"[") or len(value) > limit:
                    raise Unfit
                document = parse(value)
                if len(document) != known:
                    _no_duplicates(document, self._names)
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
                vectors.append(array.as_buffer(of_type="d"))
                usual.append(i)
            except Exception:
                del vectors[len(usual) :]  # a null value or any surprise at all: the typed decoder judges this record
            document = array = None  # the parser refuses to go on while one of its views lives
        return (Packed(usual, vectors, _DOUBLE),)


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
