"""Events with a wide vector: the numbers of many rows are converted at once, and no Python float is made of any.

How an event's bytes become packed numbers is a reader's business, one a format. A reader takes only what is plainly
usual; every other record, and every record at which anything fails, is left to the typed decoder of the same layout,
which has the last word. So both accept and reject exactly the same bytes, for the same reasons.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, cast

import numpy as np

from streamserve.batch import F32, F64, Bools, Column, EventBatch, RecordBatch, Reject
from streamserve.codecs.columns import Trouble, with_roles
from streamserve.codecs.layout import EventLayout
from streamserve.codecs.typed import TypedDecoder
from streamserve.config.settings import VectorSettings

CHUNK_BYTES = 1 << 19
"""Rows are read and converted in chunks of about so many bytes of numbers, which the processor's cache still holds; a
batch of 512 rows of 784 numbers at once took twice the time."""


class Packed(NamedTuple):
    """Vectors of rows, as bytes.

    Attributes:
        rows: of the batch, ascending.
        vectors: as many cells a row as the vector has numbers.
        cell: what a cell is: a float, or a structure of `tag` and `number`.
        tag: what every `tag` must be, or the row is not usual after all.
    """

    rows: list[int]
    vectors: list[bytes]
    cell: np.dtype[np.generic]
    tag: int = 0


class Reader(Protocol):
    """Reads the records of one format."""

    def read(self, values: Sequence[bytes | None], rows: range, columns: Sequence[list[object]]) -> tuple[Packed, ...]:
        """The vectors of plainly usual records among `rows`.

        Args:
            values: of the whole batch.
            rows: those to read.
            columns: of the fields beside the vector, in the order of the layout; filled at the rows that are returned,
                and maybe at others.
        """
        ...


class WideDecoder:
    """A `Decoder` of events with one wide vector. One thread at a time: readers may reuse their memory.

    Args:
        layout: a layout with a vector.
        reader: of the format.
        typed: the typed decoder of the same layout and format.
    """

    def __init__(self, layout: EventLayout, reader: Reader, typed: TypedDecoder) -> None:
        self._layout = layout
        self._spec = cast("VectorSettings", layout.vector)
        self._reader = reader
        self._typed = typed
        self._step = max(1, CHUNK_BYTES // (8 * self._spec.size))

    def decode(self, records: RecordBatch) -> tuple[EventBatch, list[Reject]]:
        count = len(records)
        vectors = np.empty((count, self._spec.size), self._spec.dtype)
        columns: list[list[object]] = [[None] * count for _ in self._layout.names[1:]]
        unusual = set(range(count))
        for first in range(0, count, self._step):
            rows = range(first, min(first + self._step, count))
            for packed in self._reader.read(records.value, rows, columns):
                unusual.difference_update(_converted(packed, vectors))
        rejects: list[Reject] = []
        for i in sorted(unusual):
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
        fields: dict[str, Column] = {self._spec.field: vectors}
        return with_roles(self._layout, records, kept, fields, [(), *columns]), rejects  # the vector has no other role


def _converted(packed: Packed, vectors: F32 | F64) -> list[int]:
    """Fill these rows of `vectors`. Returns: those that are filled; the others have a cell that is not usual."""
    rows = packed.rows
    if not rows:
        return rows
    numbers: Any = np.frombuffer(b"".join(packed.vectors), packed.cell).reshape(len(rows), -1)
    fine: Bools | np.bool_ = np.True_
    if packed.cell.names is not None:
        fine = (numbers["tag"] == packed.tag).all(axis=1)
        numbers = numbers["number"]
    try:
        with np.errstate(over="raise", invalid="ignore"):
            made = numbers.astype(vectors.dtype)
    except FloatingPointError:  # beyond float32
        with np.errstate(over="ignore", invalid="ignore"):
            made = numbers.astype(vectors.dtype)
        fine = fine & ~(np.isinf(made) & np.isfinite(numbers)).any(axis=1)
    together = rows[-1] - rows[0] < len(rows)
    vectors[slice(rows[0], rows[-1] + 1) if together else rows] = made
    if fine.all():
        return rows
    return [row for row, good in zip(rows, cast("list[bool]", fine.tolist()), strict=True) if good]
