"""Rows of decoded fields to the columns of an `EventBatch`, and what may be wrong with a row that decoded.

`assemble` is the hot path: it turns whole columns at once and raises `Unfit` when any row needs a closer
look; `problem` is that closer look, row by row. Both apply the same rules: whatever `problem` lets pass,
`assemble` takes.

Columns: float features are float64 with NaN for missing. Integer and bool features are int64; with missing
values float64 (NaN) as long as every value is exact there, else an object array with None, which is rare and
slow. Strings are lists with None. A sequence is object[m]: in each row an array of float64, int64 or text, or None
where it is missing. A NaN that was *sent* is no missing value: it is rejected here as
`non_finite`, except within a vector or a sequence, where the enricher sees it. A vector is float32 or float64[m, size].
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NamedTuple, cast

import numpy as np

from streamserve.batch import F32, F64, Column, EventBatch, Reason, RecordBatch, Reject, Tensor
from streamserve.codecs.layout import EVENT_TIME_MAX_MS, EVENT_TIME_MIN_MS, FLOAT_DTYPES, EventLayout
from streamserve.columns import ragged
from streamserve.config.settings import VectorSettings

Row = tuple[object, ...]
"""The fields of one event in the order of `EventLayout.names`."""
EXACT_IN_FLOAT64 = 2**53
_SEQUENCE_DTYPES: dict[str, type] = {"float32": np.float64, "float64": np.float64, "string": object}


class Unfit(Exception):
    """Some row of the batch has a problem; `problem` says which and what."""


class Trouble(NamedTuple):
    """Why a row is rejected."""

    reason: Reason
    detail: str
    feature: str = ""

    def at(self, row: int) -> Reject:
        return Reject(row=row, stage="decode", reason=self.reason, detail=self.detail, feature=self.feature)


def assemble(
    layout: EventLayout, records: RecordBatch, kept: list[int], columns: Sequence[Sequence[object]]
) -> EventBatch:
    """The events of decoded `columns`, one per name of the layout; row `i` of each is record `kept[i]`.

    Raises:
        Unfit: `problem` finds something in at least one row.
    """
    fields: dict[str, Column] = {}
    if layout.vector is not None:
        vectors = cast("Sequence[list[float] | None]", columns[0])
        fields[layout.vector.field] = vector_column(layout.vector, vectors)
    floats = iter(_float_columns([columns[position] for position in layout.floats]) if layout.floats else ())
    for position, feature in enumerate(layout.features):
        column = columns[position]
        if feature.sequence is not None:
            sequences = cast("Sequence[list[object] | None]", column)
            fields[feature.name] = sequence_column(feature.dtype, sequences)
        elif feature.dtype == "string":
            fields[feature.name] = cast("list[str | None]", list(column))
        elif feature.dtype in FLOAT_DTYPES:
            fields[feature.name] = next(floats)
        else:
            fields[feature.name] = _integer_column(column)
    return with_roles(layout, records, kept, fields, columns)


def with_roles(
    layout: EventLayout,
    records: RecordBatch,
    kept: list[int],
    fields: dict[str, Column],
    columns: Sequence[Sequence[object]],
) -> EventBatch:
    """An `EventBatch` whose id, key and time are the `columns` that have these roles; one per name of the layout.

    Raises:
        Unfit: see `event_batch`.
    """
    return event_batch(
        records,
        kept,
        fields,
        ids=None if layout.id is None else columns[layout.id],
        keys=None if layout.key is None else columns[layout.key],
        times=None if layout.event_time is None else columns[layout.event_time],
    )


def event_batch(
    records: RecordBatch,
    kept: list[int],
    fields: dict[str, Column],
    *,
    ids: Sequence[object] | None = None,
    keys: Sequence[object] | None = None,
    times: Sequence[object] | None = None,
) -> EventBatch:
    """An `EventBatch` whose id, key and time are these columns, or the record's own where they are None.

    Raises:
        Unfit: an id, key or time is missing or out of range.
    """
    whole = len(kept) == len(records)
    if ids is None:
        defaults = _default_ids(records)
        id_column = defaults if whole else [defaults[i] for i in kept]
    else:
        id_column = _text_column(ids)
    if keys is None:
        entity = records.key if whole else [records.key[i] for i in kept]
    else:
        entity = [text.encode() for text in _text_column(keys)]
    if times is None:
        event_time_ms = records.timestamp_ms if whole else [records.timestamp_ms[i] for i in kept]
    else:
        event_time_ms = _time_column(times)
    return EventBatch(
        origin=records,
        row=kept,
        id=id_column,
        entity=entity,
        event_time_ms=event_time_ms,
        fields=fields,
    )


def _default_ids(records: RecordBatch) -> list[str]:
    """`topic-partition-offset` of every record, most often of one partition."""
    places = records.next_positions()
    if len(places) == 1:
        prefix = next(f"{topic}-{partition}-" for topic, partition in places)
        return [f"{prefix}{offset}" for offset in records.offset]
    place = zip(records.topic, records.partition, records.offset, strict=True)
    return [f"{topic}-{partition}-{offset}" for topic, partition, offset in place]


def problem(layout: EventLayout, row: Row) -> Trouble | None:
    """What is wrong with one decoded row, or None: the vector or features first, then id, key and time."""
    if layout.vector is not None:
        trouble = vector_problem(layout.vector, cast("list[float] | None", row[0]))
        if trouble is not None:
            return trouble
    for position, feature in enumerate(layout.features):
        value = row[position]
        if isinstance(value, float) and value != value:  # noqa: PLR0124 - the test for NaN
            return Trouble("non_finite", f"{feature.name} = nan is not finite", feature.name)
    for role, at in (("event id", layout.id), ("entity key", layout.key), ("event time", layout.event_time)):
        if at is not None and row[at] is None:
            return Trouble("schema", f"{layout.names[at]} is missing: it is the {role}")
    if layout.event_time is not None:
        time_ms = cast("int", row[layout.event_time])
        if not EVENT_TIME_MIN_MS <= time_ms <= EVENT_TIME_MAX_MS:
            name = layout.names[layout.event_time]
            return Trouble("schema", f"{name} = {time_ms} is no time in epoch milliseconds (years 1 to 9999)")
    return None


def vector_column(spec: VectorSettings, vectors: Sequence[list[float] | None]) -> F32 | F64:
    """The vectors as one array[m, size] in the feature's dtype. Raises: Unfit."""
    pack = struct.Struct(f"={spec.size}{'f' if spec.dtype == 'float32' else 'd'}").pack
    try:
        packed = bytearray().join([pack(*vector) for vector in cast("Sequence[list[float]]", vectors)])
    except (struct.error, TypeError, OverflowError) as error:  # another length, None, beyond float32
        raise Unfit from error
    block: F32 | F64 = np.frombuffer(packed, spec.dtype).reshape(-1, spec.size)
    return block


def vector_problem(spec: VectorSettings, vector: list[float] | None) -> Trouble | None:
    """What is wrong with the vector of one event, or None."""
    if vector is None:
        return Trouble("missing_feature", f"{spec.field} is missing", spec.field)
    if len(vector) != spec.size:
        detail = f"{spec.field} holds {len(vector)} numbers, {spec.size} expected"
        return Trouble("schema", detail, spec.field)
    if spec.dtype == "float32":
        with np.errstate(over="ignore", invalid="ignore"):
            over = np.isinf(np.asarray(vector, np.float64).astype(np.float32)) & np.isfinite(vector)
        if over.any():
            at = int(over.argmax())
            detail = f"{spec.field}[{at}] = {vector[at]!r} is beyond float32"
            return Trouble("out_of_range", detail, spec.field)
    return None


def sequence_column(dtype: str, sequences: Sequence[list[object] | None]) -> Tensor:
    """The sequences as object[m] of arrays, which are views of one array; None where one is missing."""
    lengths = np.fromiter((len(sequence or ()) for sequence in sequences), np.int64, len(sequences))
    flat: Tensor = np.fromiter(
        cast("Iterator[float]", chain.from_iterable(sequence or () for sequence in sequences)),
        _SEQUENCE_DTYPES.get(dtype, np.int64),
        int(lengths.sum()),
    )
    column = ragged(flat, lengths)
    missing = [i for i, sequence in enumerate(sequences) if sequence is None]
    if missing:
        column[missing] = np.array([None])
    return column


def _float_columns(columns: Sequence[Sequence[object]]) -> F64:
    """Columns of floats as float64[k, m], NaN where None was. Raises: Unfit for a NaN that was sent."""
    count = sum(map(len, columns))
    numbers = cast("Iterator[float]", chain.from_iterable(columns))
    try:
        block: F64 = np.frombuffer(bytearray(struct.pack(f"{count}d", *numbers)))
    except struct.error:  # None
        numbers = cast("Iterator[float]", chain.from_iterable(columns))
        block = np.fromiter(numbers, np.float64, count)
    missing = np.isnan(block)
    if missing.any() and int(missing.sum()) != sum(column.count(None) for column in columns):
        raise Unfit
    return block.reshape(len(columns), -1)


def _integer_column(column: Sequence[object]) -> Tensor:
    try:
        return np.fromiter(cast("Sequence[int]", column), np.int64, len(column))
    except TypeError:  # a missing value
        values = cast("list[int]", [value for value in column if value is not None])
    if not values or (max(values) <= EXACT_IN_FLOAT64 and min(values) >= -EXACT_IN_FLOAT64):
        return np.fromiter(cast("Sequence[float]", column), np.float64, len(column))
    exact = np.empty(len(column), object)
    exact[:] = column
    return exact


def _text_column(column: Sequence[object]) -> list[str]:
    kinds = set(map(type, column))
    if type(None) in kinds:
        raise Unfit
    if kinds <= {str}:
        return cast("list[str]", list(column))
    return [str(value) for value in column]


def _time_column(column: Sequence[object]) -> list[int]:
    if None in column:
        raise Unfit
    times = cast("list[int]", list(column))
    if times and (min(times) < EVENT_TIME_MIN_MS or max(times) > EVENT_TIME_MAX_MS):
        raise Unfit
    return times
