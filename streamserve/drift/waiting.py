"""Rows that wait under an id: found by id in constant time, left in order of arrival, stored as columns.

A row costs 8 bytes a column, its id, and an entry of a dict. Rows that left leave holes, which are closed when the
columns are full; so memory follows the rows that are there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from streamserve.batch import F64, I64, Bools
from streamserve.drift.packed import Packed, floats, integers, pack

Columns = dict[str, F64 | I64]
"""Of equal length; one of them is `arrived`, int64[n], which never descends over all rows ever added."""
_SMALLEST = 1024


class _Document(msgspec.Struct, frozen=True):
    ids: list[str]
    columns: dict[str, Packed]


class Waiting:
    """Columns of rows, by id.

    Args:
        empty: the columns, without rows: their names, dtypes and widths.
    """

    def __init__(self, empty: Mapping[str, F64 | I64]) -> None:
        self.columns: Columns = {name: np.zeros((0, *column.shape[1:]), column.dtype) for name, column in empty.items()}
        self._ids: list[str] = []
        self._at: dict[str, int] = {}
        self._here: Bools = np.zeros(0, dtype=np.bool_)
        self._start = 0

    def __len__(self) -> int:
        return len(self._at)

    def find(self, id: str) -> int | None:
        """Position of a row in `columns`, good until the next `append`."""
        return self._at.get(id)

    def append(self, ids: Sequence[str], columns: Mapping[str, F64 | I64]) -> None:
        """Add rows, whose ids are not there yet. Raises: ValueError when a column has another shape than the first."""
        for name, column in self.columns.items():
            if columns[name].shape != (len(ids), *column.shape[1:]):
                raise ValueError(
                    f"column {name} of shape {columns[name].shape} for {len(ids)} rows of {column.shape[1:]}"
                )
        first, end = len(self._ids), len(self._ids) + len(ids)
        if end > len(self._here):
            self._make_room(len(ids))
            first, end = len(self._ids), len(self._ids) + len(ids)
        for name, column in self.columns.items():
            column[first:end] = columns[name]
        self._here[first:end] = True
        self._ids.extend(ids)
        self._at.update(zip(ids, range(first, end), strict=True))

    def take(self, rows: I64) -> Columns:
        """A copy of these rows."""
        return {name: column[rows] for name, column in self.columns.items()}

    def ids(self, rows: I64) -> list[str]:
        """The ids of these rows."""
        return [self._ids[row] for row in rows.tolist()]

    def remove(self, rows: I64) -> None:
        """Let these rows go."""
        self._here[rows] = False
        for event in self.ids(rows):
            del self._at[event]
        ahead = self._here[self._start : len(self._ids)]
        self._start += int(np.argmax(ahead)) if self._at else len(ahead)

    def older_than(self, arrived: int) -> I64:
        """Rows that arrived before a time, oldest first."""
        stop = self._start + int(np.searchsorted(self.columns["arrived"][self._start : len(self._ids)], arrived))
        return self._start + np.flatnonzero(self._here[self._start : stop]).astype(np.int64)

    def oldest(self, count: int) -> I64:
        """The first `count` rows to have arrived, or all."""
        count = min(count, len(self))
        stop = self._start + count
        while int(np.count_nonzero(self._here[self._start : stop])) < count:
            stop += stop - self._start
        return self._start + np.flatnonzero(self._here[self._start : stop]).astype(np.int64)[:count]

    def oldest_arrived(self) -> int | None:
        """When the oldest row arrived; None without rows."""
        return int(self.columns["arrived"][self._start]) if len(self) else None

    def _make_room(self, more: int) -> None:
        """Close the holes, and take as much room again as the rows need."""
        rows = np.flatnonzero(self._here[: len(self._ids)]).astype(np.int64)
        size = max(_SMALLEST, 2 * (len(rows) + more))
        self._ids = self.ids(rows)
        self._at = {event: at for at, event in enumerate(self._ids)}
        for name, column in self.columns.items():
            grown = np.zeros((size, *column.shape[1:]), column.dtype)
            grown[: len(rows)] = column[rows]
            self.columns[name] = grown
        self._here = np.zeros(size, dtype=np.bool_)
        self._here[: len(rows)] = True
        self._start = 0

    def to_document(self) -> dict[str, object]:
        """JSON."""
        rows = self.oldest(len(self))
        columns = {name: pack(column) for name, column in self.take(rows).items()}
        document: dict[str, object] = msgspec.to_builtins(_Document(self.ids(rows), columns))
        return document

    @staticmethod
    def from_document(document: object) -> Waiting:
        """Rows of a document. Raises: ValueError."""
        read = msgspec.convert(document, _Document)
        columns: Columns = {
            name: integers(packed) if packed.dtype == "<i8" else floats(packed) for name, packed in read.columns.items()
        }
        if len(set(read.ids)) != len(read.ids):
            raise ValueError("an id twice")
        waiting = Waiting(columns)
        waiting.append(read.ids, columns)
        return waiting
