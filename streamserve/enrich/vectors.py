"""One vector field to the input it fills: a check of the extremes, and a reshape."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import numpy as np

from streamserve.batch import F32, F64, Column, Tensor
from streamserve.config.settings import VectorSettings
from streamserve.enrich.findings import Findings, number_text


class VectorInput:
    """float[m, size], or [m, *axes] for an input of more axes whose product is the size."""

    def __init__(self, vector: VectorSettings, shape: tuple[int, ...]) -> None:
        self._vector = vector
        self._axes = shape[1:] if len(shape) > 2 else (vector.size,)
        largest = float(np.finfo(vector.dtype).max)
        # In the vector's own precision: a float32 0.1 is not above a maximum of 0.1.
        bounds = [
            -largest if vector.min is None else vector.min,
            largest if vector.max is None else vector.max,
        ]
        self._low, self._high = np.clip(bounds, -largest, largest).astype(vector.dtype).tolist()

    def tensor(self, fields: Mapping[str, Column], count: int, findings: Findings) -> Tensor:
        vectors = cast("F32 | F64", fields[self._vector.field])
        # Extremes are NaN when any number is, and a comparison with NaN is false.
        if count and not (vectors.min().item() >= self._low and vectors.max().item() <= self._high):
            fine = (vectors >= self._low) & (vectors <= self._high)
            for i in np.flatnonzero(~fine.all(axis=1)).tolist():
                at = int((~fine[i]).argmax())
                self._report(i, at, vectors[i, at].item(), findings)
        return np.ascontiguousarray(vectors).reshape(count, *self._axes)

    def _report(self, position: int, at: int, value: float, findings: Findings) -> None:
        spec, where = self._vector, f"{self._vector.field}[{at}]"
        if not math.isfinite(value):
            findings.add(position, 0, "non_finite", f"{where} = {value} is not finite", spec.field)
            return
        text = number_text(value)
        if spec.min is not None and value < spec.min:
            detail = f"{where} = {text} is below the minimum {number_text(spec.min)}"
        else:
            detail = f"{where} = {text} is above the maximum {number_text(cast('float', spec.max))}"
        findings.add(position, 0, "out_of_range", detail, spec.field)
