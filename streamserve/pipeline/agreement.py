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


class Answers(NamedTuple):
    """What a model said of rows of one origin; `outputs[name]` is array[len(rows), ...]."""

    rows: Sequence[int]
    outputs: Tensors

    @classmethod
    def joined(cls, parts: Sequence[tuple[int, PredictionBatch]]) -> Answers:
        """Several predictions as one, each with where the rows of its own origin begin in the joined one.

        Outputs that not all of them have in the same shape are left out.
        """
        batches = [batch for _, batch in parts]
        names = set.intersection(*(set(batch.outputs) for batch in batches)) if batches else set()
        columns = {name: [batch.outputs[name] for batch in batches] for name in names}
        return cls(
            [row + start for start, batch in parts for row in batch.events.row],
            {name: np.concatenate(each) for name, each in columns.items() if len({x.shape[1:] for x in each}) == 1},
        )


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
        return cls(output.decisions)

    def compare(self, one: Answers, other: Answers) -> list[OutputAgreement]:
        """Output by output, over the rows that both have."""
        mine, theirs = _common(one, other)
        pairs = ((name, mine[name], theirs[name]) for name in sorted(mine.keys() & theirs.keys()))
        return [
            self._compared(name, a, b) for name, a, b in pairs if len(a) and a.shape == b.shape and _kind(a) == _kind(b)
        ]

    def _compared(self, name: str, a: Tensor, b: Tensor) -> OutputAgreement:
        rows = len(a)
        if _kind(a) != "f":
            differs = (a != b).reshape(rows, -1).any(axis=1)
            return OutputAgreement(name, rows, 0.0, int(differs.sum()))
        x, y = _numbers(a), _numbers(b)
        apart = np.abs(x - y).sum(axis=1) / max(1, x.shape[1])
        decided = self._decided(name, x, y)
        return OutputAgreement(name, rows, float(np.nansum(apart)), int(decided.sum()) if decided is not None else 0)

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


def _common(one: Answers, other: Answers) -> tuple[Tensors, Tensors]:
    """The outputs of both for the rows that both have."""
    if one.rows == other.rows:
        return one.outputs, other.outputs
    _, i, j = np.intersect1d(np.array(one.rows), np.array(other.rows), assume_unique=True, return_indices=True)
    return (
        {name: values[i] for name, values in one.outputs.items()},
        {name: values[j] for name, values in other.outputs.items()},
    )


def _kind(values: Tensor) -> str:
    return "f" if values.dtype.kind == "f" else "t" if values.dtype.kind in "OUS" else "i"


def _numbers(values: Tensor) -> F64:
    return np.asarray(values, dtype=np.float64).reshape(len(values), -1)
