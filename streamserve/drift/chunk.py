"""Sample chunks: what a worker writes beside its predictions, in the same transaction, for `<p>.samples`.

A chunk is columnar and binary: which offsets of which source partitions it covers, and of the rows sampled among them
the position, time, id, key, features as they came (missing values left missing) and outputs; of the rejected rows the
counts. It is MessagePack around raw little-endian column bytes, so neither side touches a row.

`decode` trusts nothing: whatever bytes it is given, it returns a chunk whose columns fit each other, or raises
`ChunkError`, within time and memory proportional to the bytes.

A chunk that is larger than its topic takes is cut (`rows`): the parts tell the same spans bit by bit, so that whoever
drops what lies below its mark (`marks`) merges every row once, whichever parts come again.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Final, cast

import msgspec
import numpy as np
import numpy.typing as npt

from streamserve.batch import I64, Tensor

FORMAT: Final = 1
MAX_LEVEL: Final = 30
"""Rows of level 30 stand for 2^30 each: 10^9 a second are still sampled once."""
NUMBER_DTYPES: Final = frozenset({"<f4", "<f8", "<i4", "<i8", "|b1"})
_NATIVE: Final = {"f": "<f4", "d": "<f8", "i": "<i4", "l": "<i8", "?": "|b1"} if sys.byteorder == "little" else {}
"""`dtype.str` by `dtype.char`, which is there five times as fast; it is asked for every column of every chunk."""
MAX_WIDTH: Final = 1 << 24
"""Most numbers of one vector."""
_ROW_BYTES: Final = 4 + 3 * 8 + 1
MAX_TIME_MS: Final = 1 << 53

U8 = npt.NDArray[np.uint8]
U32 = npt.NDArray[np.uint32]

_Offset = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]


class ChunkError(ValueError):
    """Bytes that are no sample chunk; the message says what is wrong."""


class Span(msgspec.Struct, frozen=True, array_like=True):
    """Offsets of one source partition that a chunk covers.

    Attributes:
        topic, partition: the source.
        first: the first offset.
        end: the position after the last one.
        consumed: how many records of it were consumed, predicted or rejected.
    """

    topic: str
    partition: Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]
    first: _Offset
    end: _Offset
    consumed: _Count


class RejectCount(msgspec.Struct, frozen=True, array_like=True):
    """How many records were rejected for one reason."""

    stage: str
    reason: str
    feature: str
    count: _Count


@dataclass(frozen=True, slots=True, kw_only=True)
class TextColumn:
    """Texts as codes into their distinct values; None is a missing one.

    Attributes:
        codes: uint32[n].
        values: the distinct values, in order of first use.
    """

    codes: U32
    values: tuple[str | None, ...]

    @staticmethod
    def of(texts: Sequence[str | None]) -> TextColumn:
        """Encode a column of texts."""
        known: dict[str | None, int] = {}
        codes = [known.setdefault(text, len(known)) for text in texts]
        return TextColumn(codes=np.array(codes, dtype=np.uint32), values=tuple(known))

    def take(self, index: slice) -> TextColumn:
        """Some of the rows, and the values that occur in them."""
        used, codes = np.unique(self.codes[index], return_inverse=True)
        values = tuple(self.values[code] for code in used.tolist())
        return TextColumn(codes=codes.astype(np.uint32), values=values)

    def texts(self) -> list[str | None]:
        """The column of texts."""
        return [self.values[code] for code in self.codes.tolist()]


SampledColumn = Tensor | TextColumn
"""Numbers [n], a vector [n, size], or texts [n]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleChunk:
    """Samples of one transaction and model version; n sampled rows, in order of their offsets within each span.

    Attributes:
        pipeline, model, version, role: who predicted.
        reference: hash of the reference beside the model version, empty when there is none.
        spans: what is covered, whether sampled from or not.
        span: uint32[n], index into `spans`.
        offset, event_time_ms, timestamp_ms: int64[n]; `timestamp_ms` is the record's, -1 when it has none.
        level: uint8[n]; the row was kept as one of about 2^level.
        id: event ids.
        entity: entity keys (hashed or dropped when they are personal).
        columns: features under their names, NaN and None where missing; outputs as `output.<name>`.
        rejects: counts of rejected records.
        written_ms: wall clock of the worker.
    """

    pipeline: str
    model: str
    version: str
    role: str
    reference: str
    spans: tuple[Span, ...]
    span: U32
    offset: I64
    event_time_ms: I64
    timestamp_ms: I64
    level: U8
    id: list[str]
    entity: list[bytes | None]
    columns: Mapping[str, SampledColumn]
    rejects: tuple[RejectCount, ...]
    written_ms: int

    def __len__(self) -> int:
        return len(self.offset)

    def rows(self, start: int, stop: int) -> SampleChunk:
        """The rows from `start` up to `stop`, and the part of the spans that ends with them.

        Parts that follow each other have spans that do: a part ends at the offset of its successor's first row. Records
        consumed and rejected stay with the part that begins at row 0.
        """
        part = slice(start, stop)
        return replace(
            self,
            spans=self._spans_of(start, stop),
            span=self.span[part],
            offset=self.offset[part],
            event_time_ms=self.event_time_ms[part],
            timestamp_ms=self.timestamp_ms[part],
            level=self.level[part],
            id=self.id[part],
            entity=self.entity[part],
            columns={name: _take(column, part) for name, column in self.columns.items()},
            rejects=self.rejects if start == 0 else (),
        )

    def least_bytes(self) -> int:
        """What its columns take in a message, names and ids left out: known without writing it."""
        columns = self.columns.values()
        wide = sum(column.codes.nbytes if isinstance(column, TextColumn) else column.nbytes for column in columns)
        return wide + len(self) * _ROW_BYTES

    def without_rows(self) -> SampleChunk:
        """All but the rows: what they stood for is still covered, consumed and rejected."""
        return replace(self.rows(0, 0), spans=self.spans, rejects=self.rejects)

    def _spans_of(self, start: int, stop: int) -> tuple[Span, ...]:
        """Of each span the part between the boundaries that rows `start` and `stop` draw."""
        spans = []
        for number, span in enumerate(self.spans):
            mine = np.flatnonzero(self.span == number)
            offsets = self.offset[mine]
            first = span.first if start == 0 else _at(offsets, mine, start, span.end)
            end = span.end if stop >= len(self) else _at(offsets, mine, stop, span.end)
            spans.append(Span(span.topic, span.partition, first, end, span.consumed if start == 0 else 0))
        return tuple(spans)


def _at(offsets: I64, mine: npt.NDArray[np.intp], row: int, end: int) -> int:
    """The offset of the first of the rows `mine` from `row` on, or the end."""
    after = int(np.searchsorted(mine, row))
    return int(offsets[after]) if after < len(mine) else end


def _take(column: SampledColumn, part: slice) -> SampledColumn:
    return column.take(part) if isinstance(column, TextColumn) else column[part]


class _Column(msgspec.Struct, frozen=True, array_like=True):
    name: str
    dtype: str
    width: Annotated[int, msgspec.Meta(ge=0, le=MAX_WIDTH)]
    data: bytes
    values: list[str | None]


class _Wire(msgspec.Struct, frozen=True, kw_only=True):
    format: int
    pipeline: str
    model: str
    version: str
    role: str
    reference: str
    written_ms: Annotated[int, msgspec.Meta(ge=0, le=MAX_TIME_MS)]
    spans: list[Span]
    n: _Count
    span: bytes
    offset: bytes
    event_time_ms: bytes
    timestamp_ms: bytes
    level: bytes
    id: list[str]
    entity: list[bytes | None]
    columns: list[_Column]
    rejects: list[RejectCount]


_NO_VALUES: list[str | None] = []
_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(_Wire)


def encode(chunk: SampleChunk) -> bytes:
    """The chunk as one message."""
    return _ENCODER.encode(
        _Wire(
            format=FORMAT,
            pipeline=chunk.pipeline,
            model=chunk.model,
            version=chunk.version,
            role=chunk.role,
            reference=chunk.reference,
            written_ms=chunk.written_ms,
            spans=list(chunk.spans),
            n=len(chunk),
            span=chunk.span.astype("<u4", copy=False).tobytes(),
            offset=chunk.offset.astype("<i8", copy=False).tobytes(),
            event_time_ms=chunk.event_time_ms.astype("<i8", copy=False).tobytes(),
            timestamp_ms=chunk.timestamp_ms.astype("<i8", copy=False).tobytes(),
            level=chunk.level.tobytes(),
            id=chunk.id,
            entity=chunk.entity,
            columns=[_column(name, column) for name, column in chunk.columns.items()],
            rejects=list(chunk.rejects),
        )
    )


def _column(name: str, column: SampledColumn) -> _Column:
    if isinstance(column, TextColumn):
        return _Column(name, "text", 0, column.codes.astype("<u4", copy=False).tobytes(), list(column.values))
    dtype = column.dtype
    name_of_dtype = _NATIVE.get(dtype.char) if dtype.isnative else None
    if name_of_dtype is None:
        column = column.astype(dtype.newbyteorder("<"))
        name_of_dtype = column.dtype.str
    return _Column(name, name_of_dtype, 0 if column.ndim == 1 else column.shape[1], column.tobytes(), _NO_VALUES)


def decode(data: bytes) -> SampleChunk:
    """Read a message. Raises: ChunkError."""
    try:
        wire = _DECODER.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ChunkError(f"not a sample chunk: {error}") from error
    if wire.format != FORMAT:
        raise ChunkError(f"format {wire.format}; this release reads {FORMAT}")
    n = wire.n
    if len(wire.id) != n or len(wire.entity) != n:
        raise ChunkError(f"{n} rows, but {len(wire.id)} ids and {len(wire.entity)} keys")
    names = [column.name for column in wire.columns]
    if len(set(names)) < len(names):
        raise ChunkError("two columns of one name")
    chunk = SampleChunk(
        pipeline=wire.pipeline,
        model=wire.model,
        version=wire.version,
        role=wire.role,
        reference=wire.reference,
        spans=tuple(wire.spans),
        span=cast("U32", _numbers("span", wire.span, "<u4", n)),
        offset=cast("I64", _numbers("offset", wire.offset, "<i8", n)),
        event_time_ms=cast("I64", _numbers("event_time_ms", wire.event_time_ms, "<i8", n)),
        timestamp_ms=cast("I64", _numbers("timestamp_ms", wire.timestamp_ms, "<i8", n)),
        level=cast("U8", _numbers("level", wire.level, "|u1", n)),
        id=wire.id,
        entity=wire.entity,
        columns={column.name: _sampled(column, n) for column in wire.columns},
        rejects=tuple(wire.rejects),
        written_ms=wire.written_ms,
    )
    _check(chunk)
    return chunk


def _sampled(column: _Column, n: int) -> SampledColumn:
    if column.dtype == "text":
        codes = cast("U32", _numbers(column.name, column.data, "<u4", n))
        if n and int(codes.max()) >= len(column.values):
            raise ChunkError(f"column {column.name} has a code beyond its {len(column.values)} values")
        return TextColumn(codes=codes, values=tuple(column.values))
    if column.dtype not in NUMBER_DTYPES:
        raise ChunkError(f"column {column.name} has the dtype {column.dtype!r}")
    if column.width == 0:
        return _numbers(column.name, column.data, column.dtype, n)
    return _numbers(column.name, column.data, column.dtype, n * column.width).reshape(n, column.width)


def _numbers(name: str, data: bytes, dtype: str, n: int) -> Tensor:
    wanted = n * np.dtype(dtype).itemsize
    if len(data) != wanted:
        raise ChunkError(f"column {name} has {len(data)} bytes instead of {wanted}")
    if dtype == "|b1":
        return cast("Tensor", np.frombuffer(data, dtype=np.uint8) != 0)
    return cast("Tensor", np.frombuffer(data, dtype=dtype))


def _check(chunk: SampleChunk) -> None:
    """The parts fit each other."""
    for span in chunk.spans:
        if span.first > span.end:
            raise ChunkError(f"{span.topic}-{span.partition} covers {span.first} up to {span.end}")
    if not len(chunk):
        return
    if int(chunk.span.max()) >= len(chunk.spans):
        raise ChunkError(f"a row of span {int(chunk.span.max())}, but there are {len(chunk.spans)}")
    if int(chunk.level.max()) > MAX_LEVEL:
        raise ChunkError(f"a row of level {int(chunk.level.max())}, the highest is {MAX_LEVEL}")
    for name, times in (("event_time_ms", chunk.event_time_ms), ("timestamp_ms", chunk.timestamp_ms)):
        if int(times.max()) > MAX_TIME_MS or int(times.min()) < -MAX_TIME_MS:
            raise ChunkError(f"{name} holds what is no time in milliseconds")
    first = np.array([span.first for span in chunk.spans])[chunk.span]
    end = np.array([span.end for span in chunk.spans])[chunk.span]
    if not ((chunk.offset >= first) & (chunk.offset < end)).all():
        raise ChunkError("a row lies outside its span")
