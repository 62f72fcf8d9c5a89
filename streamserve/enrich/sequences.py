"""Sequences to rows of the model's dtype, still of different lengths.

All values of a column are checked at once, as one array; a look back from a position in it to row and position in the
row is made for what is wrong alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import numpy as np

from streamserve.batch import I64, Bools, Column, Reason, Tensor
from streamserve.columns import ragged
from streamserve.config.settings import FeatureSettings, SequenceSettings
from streamserve.enrich.findings import Findings
from streamserve.enrich.fit import Binding
from streamserve.enrich.numbers import float_bounds, integer_bounds, what_is_wrong
from streamserve.enrich.texts import OTHER, UNKNOWN, Codes


class SequenceInput:
    """An input that a sequence fills: object[m] of arrays of its dtype, at most `max_length` long."""

    def __init__(self, binding: Binding) -> None:
        self._index, self._feature = binding.members[0]
        self._sequence = cast("SequenceSettings", self._feature.sequence)
        self._values = _values(self._feature, binding.input.dtype)

    def tensor(self, fields: Mapping[str, Column], count: int, findings: Findings) -> Tensor:
        if not count:
            return np.empty(0, object)
        rows = [self._fitting(i, row, findings) for i, row in enumerate(cast("Tensor", fields[self._feature.name]))]
        lengths = np.fromiter(map(len, rows), np.int64, count)
        flat = np.concatenate(rows)
        converted, bad = self._values.of(flat)
        if bad is not None and bad.any():
            self._report(flat, lengths, bad, findings)
        return ragged(converted, lengths)

    def _fitting(self, position: int, row: Tensor | None, findings: Findings) -> Tensor:
        """The row, cut if it may be, or an empty one if something is wrong with its length."""
        sequence, name = self._sequence, self._feature.name
        if row is None:
            if sequence.missing == "reject":
                self._add(position, "missing_feature", f"{name} is missing", findings)
            return self._values.none
        length, longest = len(row), sequence.max_length
        if length > longest:
            if sequence.too_long == "reject":
                self._add(
                    position, "out_of_range", f"{name} has {length} values, at most {longest} are taken", findings
                )
                return self._values.none
            return row[:longest] if sequence.too_long == "keep_first" else row[-longest:]
        if length < sequence.min_length:
            detail = f"{name} has {length} values, at least {sequence.min_length} are needed"
            self._add(position, "out_of_range", detail, findings)
        return row

    def _report(self, flat: Tensor, lengths: I64, bad: Bools, findings: Findings) -> None:
        """The first value at fault of each row."""
        ends = lengths.cumsum()
        at = np.flatnonzero(bad)
        rows, first = np.unique(np.searchsorted(ends, at, side="right"), return_index=True)
        for row, place in zip(rows.tolist(), at[first].tolist(), strict=True):
            within = place - int(ends[row] - lengths[row])
            reason, detail = self._values.words(flat[place], f"{self._feature.name}[{within}]")
            self._add(row, reason, detail, findings)

    def _add(self, position: int, reason: Reason, detail: str, findings: Findings) -> None:
        findings.add(position, self._index, reason, detail, self._feature.name)


class _Numbers:
    """Numbers and bools to a number input."""

    def __init__(self, feature: FeatureSettings, dtype: str) -> None:
        self._feature = feature
        self._dtype = dtype
        bounds: tuple[float, float] = (float_bounds if dtype.startswith("float") else integer_bounds)(feature, dtype)
        self._low, self._high = bounds
        self.none: Tensor = np.empty(0, "float64" if feature.dtype.startswith("float") else "int64")

    def of(self, flat: Tensor) -> tuple[Tensor, Bools | None]:
        """The values in the input's dtype, and which of them are at fault."""
        values = cast("I64", flat)
        with np.errstate(over="ignore", invalid="ignore"):
            return values.astype(self._dtype), ~((values >= self._low) & (values <= self._high))

    def words(self, value: object, where: str) -> tuple[Reason, str]:
        """Why one is rejected."""
        number = float(cast("float", value)) if self.none.dtype.kind == "f" else int(cast("int", value))
        if math.isnan(number):
            return "non_finite", f"{where} = nan is not finite"
        return what_is_wrong(self._feature, number, self._dtype, where)


class _Coded:
    """Texts to their positions among the categories, in a number input."""

    def __init__(self, feature: FeatureSettings, dtype: str) -> None:
        self._codes = Codes(feature)
        self._dtype = dtype
        self.none: Tensor = np.empty(0, object)

    def of(self, flat: Tensor) -> tuple[Tensor, Bools | None]:
        found = np.fromiter(self._codes.of(flat.tolist()), np.int64, len(flat))
        return found.astype(self._dtype), found == UNKNOWN

    def words(self, value: object, where: str) -> tuple[Reason, str]:
        return "schema", self._codes.unknown_words(cast("str", value), where)


class _Texts:
    """Texts to a string input, held against the categories if there are any."""

    def __init__(self, feature: FeatureSettings) -> None:
        self._codes = Codes(feature)
        self._known = None if feature.categories is None else frozenset(feature.categories)
        self._other = feature.unknown == "other"
        self.none: Tensor = np.empty(0, object)

    def of(self, flat: Tensor) -> tuple[Tensor, Bools | None]:
        known = self._known
        if known is None or known.issuperset(texts := flat.tolist()):
            return flat, None
        strange = np.fromiter((text not in known for text in texts), np.bool_, len(texts))
        if not self._other:
            return flat, strange
        return np.where(strange, OTHER, flat).astype(object), None

    def words(self, value: object, where: str) -> tuple[Reason, str]:
        return "schema", self._codes.unknown_words(cast("str", value), where)


def _values(feature: FeatureSettings, dtype: str) -> _Numbers | _Coded | _Texts:
    if feature.dtype != "string":
        return _Numbers(feature, dtype)
    return _Texts(feature) if dtype == "str" else _Coded(feature, dtype)
