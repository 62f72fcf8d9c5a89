"""How far two models agree about the same records: what is told of a shadow, batch by batch.

Numbers are compared by their distance; what is decided (a threshold, the largest of several scores, a whole number, a
truth value, a text) by whether it is the same. Pure, and cheap enough to be done for every batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from streamserve.batch import F64, Bools, PredictionBatch, Tensor, Tensors
from streamserve.config.settings import OutputSettings


class OutputAgreement(NamedTuple):
    """Two models' answers for one output.

    Attributes:
        output: its name in the model.
        rows: rows compared.
        difference: sum over the rows of the mean absolute difference of their numbers; 0 where there are none.
        disagreements: rows in which another decision would be taken.
    """

    output: str
    rows: int
    difference: float
    disagreements: int


@dataclass(frozen=True, slots=True)
class Agreement:
    """Compares predictions.

    Attributes:
        thresholds: model output -> where its decision changes.
    """

    thresholds: Mapping[str, float]

    @classmethod
    def of(cls, output: OutputSettings) -> Agreement:
        """With the thresholds of the settings."""
        sources = output.outputs or {}
        return cls(
            {
                sources.get(name, name): threshold if isinstance(threshold, int | float) else threshold.at
                for name, threshold in output.threshold.items()
            }
        )

    def compare(self, one: Sequence[PredictionBatch], other: PredictionBatch) -> list[OutputAgreement]:
        """Output by output, over the rows of one origin that both have.

        Args:
            one: what was predicted, in parts.
            other: what another model says.
        """
        found: dict[str, OutputAgreement] = {}
        for part in one:
            mine, theirs = _common(part, other)
            for name in mine.keys() & theirs.keys():
                a, b = mine[name], theirs[name]
                if len(a) and a.shape == b.shape and _kind(a) == _kind(b):
                    found[name] = _sum(found.get(name), self._compared(name, a, b))
        return [found[name] for name in sorted(found)]

    def _compared(self, name: str, a: Tensor, b: Tensor) -> OutputAgreement:
        rows = len(a)
        if _kind(a) != "f":
            differs = (a != b).reshape(rows, -1).any(axis=1)
            return OutputAgreement(name, rows, 0.0, int(differs.sum()))
        x, y = _numbers(a), _numbers(b)
        apart = np.abs(x - y).mean(axis=1) if x.shape[1] else np.zeros(rows)
        decided = self._decided(name, x, y)
        return OutputAgreement(
            name, rows, float(np.nan_to_num(apart).sum()), int(decided.sum()) if decided is not None else 0
        )

    def _decided(self, name: str, x: F64, y: F64) -> Bools | None:
        """Rows with another decision; None where nothing is decided."""
        at = self.thresholds.get(name)
        if at is not None:
            crossed: Bools = ((x >= at) != (y >= at)).any(axis=1)
            return crossed
        if x.shape[1] > 1:
            largest: Bools = x.argmax(axis=1) != y.argmax(axis=1)
            return largest
        return None


def _common(one: PredictionBatch, other: PredictionBatch) -> tuple[Tensors, Tensors]:
    """The outputs of both for the rows that both have."""
    a, b = one.events.row, other.events.row
    if a == b:
        return one.outputs, other.outputs
    _, i, j = np.intersect1d(np.array(a), np.array(b), assume_unique=True, return_indices=True)
    return (
        {name: values[i] for name, values in one.outputs.items()},
        {name: values[j] for name, values in other.outputs.items()},
    )


def _kind(values: Tensor) -> str:
    return "f" if values.dtype.kind == "f" else "t" if values.dtype.kind in "OUS" else "i"


def _numbers(values: Tensor) -> F64:
    return np.asarray(values, dtype=np.float64).reshape(len(values), -1)


def _sum(before: OutputAgreement | None, more: OutputAgreement) -> OutputAgreement:
    if before is None:
        return more
    return OutputAgreement(
        more.output,
        before.rows + more.rows,
        before.difference + more.difference,
        before.disagreements + more.disagreements,
    )
