"""Number features, bools and coded categories to float and integer inputs.

Float inputs are gathered in float64[m, k] and compared with their bounds at once: the bounds include the
dtype's own, so one comparison finds missing (NaN), infinite, out of range and too large for float32. Integer
inputs are gathered column by column in int64, so that nothing passes through a float that does not hold it
exactly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import numpy as np

from streamserve.batch import F64, I64, Bools, Column, Reason, Tensor
from streamserve.config.settings import FeatureSettings
from streamserve.enrich.findings import Findings, number_text
from streamserve.enrich.fit import Binding
from streamserve.enrich.texts import MISSING, UNKNOWN, Codes

_INTEGER_BOUNDS = {"int32": (-(2**31), 2**31 - 1), "int64": (-(2**63), 2**63 - 1), "bool": (0, 1)}
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_FLOAT64_MAX = float(np.finfo(np.float64).max)


class FloatInput:
    """A float32 or float64 input: float[m, k], or float[m] for one of a single axis."""

    def __init__(self, binding: Binding) -> None:
        self._members = [_Member(index, feature) for index, feature in binding.members]
        self._dtype = binding.input.dtype
        self._flat = len(binding.input.shape) == 1
        bounds = [float_bounds(feature, binding.input.dtype) for _, feature in binding.members]
        self._low = np.array([low for low, _ in bounds])
        self._high = np.array([high for _, high in bounds])

    def tensor(self, fields: Mapping[str, Column], count: int, findings: Findings) -> Tensor:
        block = np.empty((count, len(self._members)))
        for j, member in enumerate(self._members):
            block[:, j] = member.floats(fields[member.name], findings)
        fine = (block >= self._low) & (block <= self._high)
        if not fine.all():
            for j, member in enumerate(self._members):
                for i in np.flatnonzero(~fine[:, j]).tolist():
                    member.report(i, block[i, j].item(), findings, self._dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            tensor = block.astype(self._dtype, copy=False)
        return tensor[:, 0] if self._flat else tensor


class IntegerInput:
    """An int32, int64 or bool input: [m, k], or [m] for one of a single axis."""

    def __init__(self, binding: Binding) -> None:
        self._members = [_Member(index, feature) for index, feature in binding.members]
        self._dtype = binding.input.dtype
        self._flat = len(binding.input.shape) == 1
        self._bounds = [integer_bounds(feature, binding.input.dtype) for _, feature in binding.members]

    def tensor(self, fields: Mapping[str, Column], count: int, findings: Findings) -> Tensor:
        tensor = np.empty((count, len(self._members)), self._dtype)
        for j, (member, (low, high)) in enumerate(zip(self._members, self._bounds, strict=True)):
            values, missing = member.integers(fields[member.name], findings)
            fine = (values >= low) & (values <= high)
            if missing is not None:
                fine &= ~missing
            if not fine.all():
                for i in np.flatnonzero(~fine).tolist():
                    absent = missing is not None and bool(missing[i])
                    member.report(i, math.nan if absent else values[i].item(), findings, self._dtype)
            tensor[:, j] = values.astype(self._dtype)
        return tensor[:, 0] if self._flat else tensor


class _Member:
    """One feature of a number input: its default, its codes, its words for what is wrong."""

    def __init__(self, index: int, feature: FeatureSettings) -> None:
        self._index = index
        self._feature = feature
        self.name = feature.name
        self._codes = Codes(feature) if feature.dtype == "string" else None

    def floats(self, column: Column, findings: Findings) -> F64:
        """The column in float64[m], defaults filled in, NaN where missing (or reported already)."""
        if self._codes is not None:
            codes = self._coded(column, findings)
            return np.where(codes < 0, np.nan, codes)
        values = cast("Tensor", column).astype(np.float64, copy=False)
        if self._feature.default is not None:
            missing = np.isnan(values)
            if missing.any():
                return np.where(missing, float(self._feature.default), values)
        return values

    def integers(self, column: Column, findings: Findings) -> tuple[I64, Bools | None]:
        """The column in int64[m], defaults filled in, and where it is missing (None: nowhere)."""
        if self._codes is not None:
            codes = self._coded(column, findings)
            return codes, codes < 0
        array = cast("Tensor", column)
        if array.dtype == np.int64:
            return cast("I64", array), None
        missing = _absent(array)
        values = np.where(missing, 0, array).astype(np.int64)
        if self._feature.default is None:
            return values, missing
        values[missing] = int(self._feature.default)
        return values, None

    def report(self, position: int, value: float, findings: Findings, dtype: str) -> None:
        """Note what is wrong with a value outside its bounds; NaN is missing."""
        reason, detail = what_is_wrong(self._feature, value, dtype, self.name)
        findings.add(position, self._index, reason, detail, self.name)

    def _coded(self, column: Column, findings: Findings) -> I64:
        """Category positions; MISSING is left to the caller, UNKNOWN is reported here."""
        codes = cast("Codes", self._codes)
        texts = cast("list[str | None]", column)
        found = np.fromiter(codes.of(texts), np.int64, len(texts))
        if (found == UNKNOWN).any():
            for i in np.flatnonzero(found == UNKNOWN).tolist():
                detail = codes.unknown_words(cast("str", texts[i]), self.name)
                findings.add(i, self._index, "schema", detail, self.name)
            found[found == UNKNOWN] = MISSING
        return found


def _absent(column: Tensor) -> Bools:
    if column.dtype == object:
        return np.fromiter((value is None for value in column.tolist()), np.bool_, len(column))
    return np.isnan(cast("F64", column))


def float_bounds(feature: FeatureSettings, dtype: str) -> tuple[float, float]:
    """The least and the largest value of a feature that a float input takes."""
    largest = _FLOAT32_MAX if dtype == "float32" else _FLOAT64_MAX
    low, high = (-largest, largest) if feature.min is None else (max(feature.min, -largest), largest)
    high = high if feature.max is None else min(feature.max, largest)
    if feature.dtype == "int32":
        own_low, own_high = _INTEGER_BOUNDS["int32"]
        return max(low, own_low), min(high, own_high)
    return low, high


def integer_bounds(feature: FeatureSettings, dtype: str) -> tuple[int, int]:
    """The least and the largest value of a feature that an integer or bool input takes."""
    low, high = _INTEGER_BOUNDS[dtype]
    if feature.dtype in _INTEGER_BOUNDS:
        own_low, own_high = _INTEGER_BOUNDS[feature.dtype]
        low, high = max(low, own_low), min(high, own_high)
    if feature.min is not None:
        low = max(low, min(math.ceil(feature.min), high))
    if feature.max is not None:
        high = min(high, max(math.floor(feature.max), low))
    return low, high


def what_is_wrong(feature: FeatureSettings, value: float, dtype: str, name: str) -> tuple[Reason, str]:
    """Why a value outside its bounds is rejected; NaN is missing.

    Args:
        feature: whose value it is.
        value: the value.
        dtype: of the input.
        name: what to call the value.
    """
    if math.isnan(value):
        return "missing_feature", f"{name} is missing and has no default"
    if math.isinf(value):
        return "non_finite", f"{name} = {value} is not finite"
    text = number_text(value)
    if feature.min is not None and value < feature.min:
        return "out_of_range", f"{name} = {text} is below its minimum {number_text(feature.min)}"
    if feature.max is not None and value > feature.max:
        return "out_of_range", f"{name} = {text} is above its maximum {number_text(feature.max)}"
    own = feature.dtype if feature.dtype == "int32" else dtype
    return "out_of_range", f"{name} = {text} is beyond {own}"
