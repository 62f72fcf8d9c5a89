"""Sampled rows to cells: which bin or category every value of every watched column falls into.

`watched` says which columns a chunk gives; `Cells` places rows by a reference. A value whose type is not the
reference's (a text where numbers were) is UNSEEN, a column that is not there is MISSING: nothing raises.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from streamserve.batch import F64, I64, Tensor
from streamserve.config.drift_settings import LabelSettings
from streamserve.drift.chunk import SampledColumn, TextColumn
from streamserve.drift.reference import ColumnReference
from streamserve.drift.schema import MISSING, OTHER, OUTPUT_PREFIX, UNSEEN, MonitoredColumn, Origin, element

CLASS = OUTPUT_PREFIX + "class"
CONFIDENCE = OUTPUT_PREFIX + "confidence"


def derived(columns: Mapping[str, SampledColumn], labels: LabelSettings | None) -> dict[str, SampledColumn]:
    """The columns, and the class and the confidence that a classifier's output implies.

    From a vector output the position (or the name) and the value of its largest element; from a single probability,
    where labels say that it is one, which side of the threshold it lies on and the larger of p and 1 - p.
    """
    found = dict(columns)
    if CLASS in found or CONFIDENCE in found:
        return found
    for name, column in columns.items():
        if not name.startswith(OUTPUT_PREFIX) or isinstance(column, TextColumn):
            continue
        if column.ndim == 2 and column.shape[1] > 1:
            top = column.argmax(axis=1)
            names = labels.classes if labels is not None and labels.classes else None
            width = column.shape[1]
            values = tuple(names[i] if names and i < len(names) else str(i) for i in range(width))
            found[CLASS] = TextColumn(codes=top.astype(np.uint32), values=values)
            found[CONFIDENCE] = column.max(axis=1)
            return found
        if labels is not None and labels.task == "binary" and name == probability_name(labels, columns):
            chance = _floats(column).reshape(-1)
            with np.errstate(invalid="ignore"):
                found[CLASS] = TextColumn(codes=(chance >= labels.threshold).astype(np.uint32), values=("0", "1"))
            found[CONFIDENCE] = np.maximum(chance, 1 - chance)
            return found
    return found


def probability_name(labels: LabelSettings, columns: Mapping[str, SampledColumn]) -> str | None:
    """The column of the output that labels are compared with."""
    if labels.output is not None:
        return OUTPUT_PREFIX + labels.output
    outputs = [name for name in columns if name.startswith(OUTPUT_PREFIX) and name not in {CLASS, CONFIDENCE}]
    return outputs[0] if outputs else None


def watched(columns: Mapping[str, SampledColumn]) -> list[MonitoredColumn]:
    """What can be watched in these columns, vectors element by element."""
    found = []
    for name, column in columns.items():
        origin: Origin = "output" if name.startswith(OUTPUT_PREFIX) else "feature"
        if isinstance(column, TextColumn):
            found.append(MonitoredColumn(name=name, kind="categorical", origin=origin))
        elif column.ndim == 1:
            found.append(MonitoredColumn(name=name, kind="numeric", origin=origin))
        else:
            width = column.shape[1]
            names = [name] if width == 1 else [element(name, i) for i in range(width)]
            found += [MonitoredColumn(name=each, kind="numeric", origin=origin) for each in names]
    return found


def numbers(columns: Mapping[str, SampledColumn], name: str) -> F64:
    """A number column by its watched name, float64[n]."""
    column = columns.get(name)
    if column is None and name.endswith("]"):
        base, _, index = name[:-1].rpartition("[")
        vector = columns[base]
        if not isinstance(vector, TextColumn) and vector.ndim == 2:
            return _floats(vector[:, int(index)])
    if column is None or isinstance(column, TextColumn):
        raise KeyError(name)
    return _floats(column if column.ndim == 1 else column[:, 0])


def _floats(column: Tensor) -> F64:
    return column.astype(np.float64, copy=False)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a reference's columns come from: `count` of them from `at` on, by one column of a chunk."""

    source: str
    at: int
    count: int


class Cells:
    """Places rows into the cells of F columns."""

    def __init__(self, columns: tuple[ColumnReference, ...]) -> None:
        self._columns = columns
        self._edges = [np.array(column.edges) for column in columns]
        self._codes = [_category_codes(column) for column in columns]
        self._places = _places(columns)

    def of(self, columns: Mapping[str, SampledColumn], n: int) -> tuple[I64, F64]:
        """The cell of every row and column, and the numbers themselves.

        Returns:
            int64[n, F], and float64[n, F] with NaN where a value is no finite number.
        """
        codes = np.full((n, len(self._columns)), MISSING, dtype=np.int64)
        values = np.full((n, len(self._columns)), np.nan)
        for place in self._places:
            column = columns.get(place.source)
            if column is None:
                continue
            if self._columns[place.at].kind == "categorical":
                codes[:, place.at] = self._categories(place.at, column)
            elif isinstance(column, TextColumn):
                absent = np.array([value is None for value in column.values] or [True])
                codes[:, place.at] = np.where(absent[column.codes], MISSING, UNSEEN)
            else:
                self._numbers(place, column, codes, values)
        return codes, values

    def _numbers(self, place: _Place, column: Tensor, codes: I64, values: F64) -> None:
        block = _floats(column).reshape(len(column), -1)
        if block.shape[1] < place.count:
            return  # a shorter vector than the reference's: missing
        part = slice(place.at, place.at + place.count)
        block = block[:, : place.count]
        values[:, part] = block
        for j in range(place.count):
            codes[:, place.at + j] = np.searchsorted(self._edges[place.at + j], block[:, j])
        finite = np.isfinite(block)
        if not finite.all():
            codes[:, part] = np.where(finite, codes[:, part], np.where(np.isnan(block), MISSING, UNSEEN))
            values[:, part] = np.where(finite, block, np.nan)

    def _categories(self, at: int, column: SampledColumn) -> I64:
        known = self._codes[at]
        beyond = UNSEEN if self._columns[at].known_all else OTHER
        if isinstance(column, TextColumn):
            table = [MISSING if value is None else known.get(value, beyond) for value in column.values]
            return np.array(table or [MISSING], dtype=np.int64)[column.codes]
        flat = column if column.ndim == 1 else column[:, 0]
        missing = np.isnan(_floats(flat))
        texts = [category_text(value) for value in flat.tolist()]
        found = np.array([known.get(text, beyond) for text in texts], dtype=np.int64)
        return np.where(missing, MISSING, found)


def category_text(value: object) -> str:
    """How a number is named as a category: 3.0 is `3`."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _category_codes(column: ColumnReference) -> dict[str, int]:
    named = {name: i for i, name in enumerate(column.categories)}
    return {**dict.fromkeys(column.known, OTHER), **named}


def _places(columns: tuple[ColumnReference, ...]) -> list[_Place]:
    """Runs of elements of one vector become one place."""
    places: list[_Place] = []
    for at, column in enumerate(columns):
        base, bracket, index = column.name.rpartition("[")
        if bracket and index == "0]":
            places.append(_Place(base, at, 1))
        elif bracket and places and places[-1].source == base and index == f"{places[-1].count}]":
            places[-1] = _Place(base, places[-1].at, places[-1].count + 1)
        else:
            places.append(_Place(column.name, at, 1))
    return places
