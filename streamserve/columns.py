"""Columns of rows: pieces of one array as rows of different lengths, columns of several batches as one, of a part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from streamserve.batch import I64, Column, Headers, Tensor


def ragged(flat: Tensor, lengths: I64) -> Tensor:
    """Rows of different lengths: object[m] whose row i is the i-th of the pieces, `lengths[i]` long, of `flat`."""
    ends = lengths.cumsum().tolist()
    starts = [0, *ends[:-1]]
    return np.fromiter((flat[start:end] for start, end in zip(starts, ends, strict=False)), object, len(ends))


def joined(columns: Sequence[Column]) -> Column:
    """Columns of one kind as one, in order."""
    if isinstance(columns[0], list):
        return [value for column in columns for value in column]
    return np.concatenate([column for column in columns if not isinstance(column, list)])


def kind(column: Column) -> object:
    """What columns that can be joined have in common."""
    return list if isinstance(column, list) else (column.dtype, column.shape[1:])


@dataclass(frozen=True, slots=True)
class HeaderRows:
    """The header column of rows of a batch: always of the first batch, however often its rows were split."""

    whole: Callable[[], list[Headers | None]]
    start: int
    stop: int

    @classmethod
    def of(cls, headers: Callable[[], list[Headers | None]], start: int, stop: int) -> HeaderRows:
        if isinstance(headers, HeaderRows):
            return cls(headers.whole, headers.start + start, headers.start + stop)
        return cls(headers, start, stop)

    def __call__(self) -> list[Headers | None]:
        return self.whole()[self.start : self.stop]
