"""MessagePack events: a map with text keys, one entry a field, typed as strictly as JSON.

Lengths that a value claims are believed only as far as its bytes go, so memory stays proportional to the
value. NaN and Inf, which MessagePack can carry, are no missing values: they are rejected as `non_finite`.

In a wide vector every number has the same size, 9 bytes as a double or 5 as a float, so the numbers need no parser.
They are cut out, a secret word takes their place, and what is left, a short event, is decoded by msgspec. When the
word comes back as the value of the vector's field, it was the field's value that was cut, whatever else the event
holds; and nobody can send the word who does not know it.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from operator import attrgetter
from typing import Annotated, Literal, cast

import msgspec
import numpy as np

from streamserve.codecs.columns import Unfit
from streamserve.codecs.layout import EVENT_TIME_MAX_MS, EVENT_TIME_MIN_MS, EventLayout, Int64
from streamserve.codecs.typed import TypedDecoder
from streamserve.codecs.wide import Packed, WideDecoder
from streamserve.config.settings import VectorSettings

WIDE_SIZE = 32
"""Vectors of at least this size are cut out. Microseconds an event, typed / cut out, one core of an AMD EPYC: 24
numbers 0.86 / 0.94, 32: 1.09 / 0.98, 64: 1.87 / 1.07, 784: 31 / 2.6 (`python -m benchmarks.stages crossover`)."""
_FLOAT, _DOUBLE = 0xCA, 0xCB
_CELLS = {tag: np.dtype([("tag", "u1"), ("number", number)]) for tag, number in ((_FLOAT, ">f4"), (_DOUBLE, ">f8"))}
"""Tag of a number -> its cell."""
_TIME = Annotated[int, msgspec.Meta(ge=EVENT_TIME_MIN_MS, le=EVENT_TIME_MAX_MS)]


def msgpack_decoder(layout: EventLayout, *, max_record_bytes: int) -> TypedDecoder | WideDecoder:
    """The decoder of MessagePack events that is faster for this layout."""
    decode = msgspec.msgpack.Decoder(layout.struct_type()).decode
    typed = TypedDecoder(layout, decode, format="MessagePack", max_record_bytes=max_record_bytes)
    if layout.vector is not None and layout.vector.size >= WIDE_SIZE:
        return WideDecoder(layout, MsgpackReader(layout, max_record_bytes=max_record_bytes), typed)
    return typed


class MsgpackReader:
    """A `Reader` of maps in which the vector is an array of numbers of one size.

    Args:
        layout: a layout with a vector.
        max_record_bytes: larger values are not usual.
    """

    def __init__(self, layout: EventLayout, *, max_record_bytes: int) -> None:
        spec = cast("VectorSettings", layout.vector)
        word = secrets.token_hex(8)
        encode = msgspec.msgpack.encode
        self._key = encode(spec.field)
        self._opening = self._key + encode([0] * spec.size)[: -spec.size]
        self._word = encode(word)
        self._decode = msgspec.msgpack.Decoder(_rest(layout, word)).decode
        self._others = [attrgetter(f"field_{number}") for number in range(1, len(layout.names))]
        self._lengths = {tag: cell.itemsize * spec.size for tag, cell in _CELLS.items()}
        self._max_record_bytes = max_record_bytes

    def read(self, values: Sequence[bytes | None], rows: range, columns: Sequence[list[object]]) -> tuple[Packed, ...]:
        """See `Reader`."""
        opening, word, decode, lengths = self._opening, self._word, self._decode, self._lengths
        until, past, limit = len(self._key), len(opening), self._max_record_bytes
        others = list(zip(self._others, columns, strict=True))
        found = {tag: Packed([], [], cell, tag) for tag, cell in _CELLS.items()}
        for i in rows:
            value = cast("bytes", values[i])
            try:
                at = value.index(opening)
                begin = at + past
                tag = value[begin]
                end = begin + lengths[tag]
                if not end <= len(value) <= limit:
                    raise Unfit
                event = decode(value[: at + until] + word + value[end:])
                for field, column in others:
                    column[i] = field(event)
            except Exception:  # noqa: S112 - a null value or any surprise at all: the typed decoder judges this record
                continue
            packed = found[tag]
            packed.rows.append(i)
            packed.vectors.append(value[begin:end])
        return tuple(found.values())


def _rest(layout: EventLayout, word: str) -> type[msgspec.Struct]:
    """The struct of an event whose vector is `word`; every field is there, and is what its role wants."""
    kinds: list[object] = [Literal[word]]
    kinds += [_TIME if at == layout.event_time else str | Int64 for at in range(1, len(layout.names))]
    fields = [(f"field_{i}", kind) for i, kind in enumerate(kinds)]
    return msgspec.defstruct(
        "Rest", fields, rename={f"field_{i}": name for i, name in enumerate(layout.names)}, gc=False
    )
