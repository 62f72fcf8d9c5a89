"""Rows that are watched on their own: one segment per value of a feature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streamserve.config.drift_settings import SegmentSettings
from streamserve.drift.cells import category_text, numbers
from streamserve.drift.chunk import SampledColumn, TextColumn
from streamserve.drift.reference import ColumnReference

ALL = ""
"""The segment of all rows."""

Index = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Split:
    feature: str
    protected: bool
    names: Mapping[str, str]  # value -> segment


class Segments:
    """The segments of one model version: fixed values, given or the most frequent ones of its reference."""

    def __init__(self, settings: Sequence[SegmentSettings], columns: Sequence[ColumnReference]) -> None:
        by_name = {column.name: column for column in columns}
        self._splits = []
        for setting in settings:
            values = setting.values or _frequent(by_name.get(setting.feature), setting.top)
            names = {value: f"{setting.feature}={value}" for value in values}
            self._splits.append(_Split(feature=setting.feature, protected=setting.protected, names=names))

    @property
    def names(self) -> list[str]:
        """All segments; that of all rows first."""
        return [ALL, *(name for split in self._splits for name in split.names.values())]

    @property
    def protected(self) -> list[list[str]]:
        """Segments to be compared for fairness, one list per protected feature."""
        return [list(split.names.values()) for split in self._splits if split.protected]

    def codes(self, columns: Mapping[str, SampledColumn], n: int) -> Index:
        """Per row and segmented feature the position of its segment in `names`, 0 where it is in none: int[n, s]."""
        names = {name: i for i, name in enumerate(self.names)}
        found = np.zeros((n, max(len(self._splits), 1)), dtype=np.intp)
        for name, rows in self.of(columns, n)[1:]:
            split = next(i for i, each in enumerate(self._splits) if name in each.names.values())
            found[rows, split] = names[name]
        return found

    def of(self, columns: Mapping[str, SampledColumn], n: int) -> list[tuple[str, Index]]:
        """Rows of every segment that has any, that of all rows first."""
        found: list[tuple[str, Index]] = [(ALL, np.arange(n))]
        for split in self._splits:
            column = columns.get(split.feature)
            if column is None or not n:
                continue
            if isinstance(column, TextColumn):
                names = [split.names.get(value or "") for value in column.values]
                codes = column.codes.astype(np.int64)
            else:
                distinct, codes = np.unique(numbers(columns, split.feature), return_inverse=True)
                names = [split.names.get(category_text(value)) for value in distinct.tolist()]
            for code, name in enumerate(names):
                if name is not None:
                    rows = np.flatnonzero(codes == code)
                    if len(rows):
                        found.append((name, rows))
        return found


def _frequent(column: ColumnReference | None, top: int) -> list[str]:
    """The most frequent values of a reference's column."""
    if column is None:
        return []
    if column.kind == "categorical":
        return column.categories[:top]
    used = len(column.edges) + 1
    ranked = sorted(range(used), key=lambda cell: (-column.counts[cell], cell))
    return [category_text(column.centers[cell]) for cell in ranked[:top]]
