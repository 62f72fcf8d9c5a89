"""How well a model did, as sums over rows: additive, so that parts and panes merge in any order.

`Performance` holds the sums of one set of rows (a window, a segment, a version); `metrics` reads figures from them.
The truth of a row may be a label, or the calibrated chance of each (see `expected`): every sum is linear in it.

Rows whose output or truth is not finite are counted as `unusable` and nothing else. Sums are float64; those of whole
weights are exact up to 2^53.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np

from streamserve.batch import F64, I64, Bools
from streamserve.drift.packed import Packed, floats, pack
from streamserve.drift.task import Task, TaskKind

_LADDER: F64 = np.geomspace(1e-6, 1 / 128, 33)[:-1]
SCORE_EDGES: F64 = np.concatenate([_LADDER, np.arange(1, 128) / 128, 1 - _LADDER[::-1]])
"""Inner edges of the 192 cells of a score: 1/128 wide, and finer towards 0 and 1, where rare classes have theirs."""
RELIABILITY_BINS: Final = 16
_EPSILON: Final = float(np.finfo(np.float64).eps)
_LARGEST: Final = 1e70
"""Errors are counted as no larger, so that no sum of fourth powers overflows."""
_BUSINESS: Final = ("value_n", "value", "value2", "click_n", "clicks")
_ALL: Final = ("rows", "weight", "weight2", "unusable", *_BUSINESS)
FIELDS: Final[dict[TaskKind, tuple[str, ...]]] = {
    "binary": (*_ALL, "tp", "fp", "fn", "tn", "loss", "loss2", "brier", "brier2", "variance"),
    "multiclass": (*_ALL, "correct", "scored", "loss", "loss2", "variance"),
    "regression": (*_ALL, "error", "absolute", "square", "square2"),
}
"""The sums of each task: rows, their weights, squared weights, unusable rows; value and clicks with their weights;
then, each times the weight: hits and misses, log loss, Brier score, (absolute, squared) errors, squares of these for
intervals; `variance`: of the number of correct predictions, given the chances (0 with labels)."""


class _Document(msgspec.Struct, frozen=True, kw_only=True):
    kind: TaskKind
    sums: dict[str, float]
    table: Packed
    bins: Packed


@dataclass(slots=True, eq=False)
class Performance:
    """Sums over rows.

    Attributes:
        task: what was compared.
        sums: the sums named in `FIELDS`.
        table: float64[2, 192]: weight of negatives and positives per score cell (binary); float64[3, K]: hits,
            predictions and truths per class (multiclass); float64[0, 0] (regression).
        bins: float64[3, 16]: by score (multiclass: by the largest), in equal steps from 0 to 1: weight, weighted
            scores, weighted truths (multiclass: hits).
    """

    task: Task
    sums: dict[str, float]
    table: F64
    bins: F64

    @staticmethod
    def empty(task: Task) -> Performance:
        """No rows."""
        shapes = {"binary": (2, len(SCORE_EDGES) + 1), "multiclass": (3, task.classes), "regression": (0, 0)}
        return Performance(
            task, dict.fromkeys(FIELDS[task.kind], 0.0), np.zeros(shapes[task.kind]), np.zeros((3, RELIABILITY_BINS))
        )

    @staticmethod
    def of(
        task: Task, outputs: F64, truth: F64, weight: F64, *, value: F64 | None = None, clicked: F64 | None = None
    ) -> Performance:
        """The sums of n rows.

        Args:
            task: what is compared.
            outputs: float64[n, k], see `Task`.
            truth: float64[n], labels; or chances: float64[n] of 1 (binary), float64[n, K] of each class.
            weight: float64[n], how many rows each stands for.
            value: float64[n], numbers of the business, NaN where there is none.
            clicked: float64[n], 1, 0, or NaN where it is not known.
        """
        predicted = task.predicted(outputs)
        known: Bools = np.isfinite(truth if truth.ndim == 1 else truth.sum(axis=1))
        usable = np.isfinite(predicted) & known
        if task.kind == "multiclass":
            usable &= _is_class(predicted, task.classes)
            usable &= truth.ndim == 2 or _is_class(truth, task.classes)
        sums = {"unusable": float(len(usable) - np.count_nonzero(usable)), **_business(weight, value, clicked)}
        outputs, truth, weight, predicted = outputs[usable], truth[usable], weight[usable], predicted[usable]
        sums |= _sums(rows=np.ones(len(weight)), weight=weight, weight2=weight**2)
        found = Performance.empty(task)
        if not len(weight):
            found.sums |= sums  # counting nothing would make tables of integers
        elif task.kind == "binary":
            sums |= _binary(outputs[:, 0], predicted, truth, weight)
            found.table = _score_table(outputs[:, 0], truth, weight)
            found.bins = _reliability(outputs[:, 0], truth, weight)
        elif task.kind == "multiclass":
            chances = truth if truth.ndim == 2 else (truth[:, None] == np.arange(task.classes)).astype(np.float64)
            classes = predicted.astype(np.int64)
            right = chances[np.arange(len(chances)), classes]
            sums |= _multiclass(task, outputs, chances, right, weight)
            found.table = _class_table(classes, chances, right, weight)
            if outputs.shape[1] == task.classes:
                found.bins = _reliability(outputs.max(axis=1, initial=0.0), right, weight)
        else:
            sums |= _regression(predicted, truth, weight)
        found.sums |= sums
        return found

    def add(self, other: Performance) -> None:
        """Take in the sums of other rows. Raises: ValueError when they are of another task."""
        self._fit(other)
        for name in self.sums:
            self.sums[name] += other.sums[name]
        self.table += other.table
        self.bins += other.bins

    def less(self, other: Performance) -> Performance:
        """The sums without those of rows that are among them; up to rounding. Raises: ValueError."""
        self._fit(other)
        sums = {name: self.sums[name] - other.sums[name] for name in self.sums}
        return Performance(self.task, sums, self.table - other.table, self.bins - other.bins)

    def copy(self) -> Performance:
        """The same, to be added to on its own."""
        return Performance(self.task, dict(self.sums), self.table.copy(), self.bins.copy())

    @property
    def n_effective(self) -> float:
        """Rows of equal weight that would be as sure: (sum w)^2 / sum w^2 (Kish, "Survey Sampling", 1965)."""
        return self.sums["weight"] ** 2 / self.sums["weight2"] if self.sums["weight2"] > 0 else 0.0

    def _fit(self, other: Performance) -> None:
        if self.task.kind != other.task.kind or self.table.shape != other.table.shape:
            raise ValueError(f"performance of a {self.task.kind} and a {other.task.kind} task")

    def to_document(self) -> dict[str, object]:
        """JSON; the task is not in it but its kind."""
        read = _Document(kind=self.task.kind, sums=self.sums, table=pack(self.table), bins=pack(self.bins))
        document: dict[str, object] = msgspec.to_builtins(read)
        return document

    @staticmethod
    def from_document(document: dict[str, object], task: Task) -> Performance:
        """The sums of a document. Raises: ValueError when it is of another task, or none."""
        read, found = msgspec.convert(document, _Document), Performance.empty(task)
        table, bins = floats(read.table), floats(read.bins)
        if read.kind != task.kind or set(read.sums) != set(found.sums):
            raise ValueError(f"performance of a {read.kind} task, not of a {task.kind} one")
        if table.shape != found.table.shape or bins.shape != found.bins.shape:
            raise ValueError(f"performance with tables of shape {table.shape} and {bins.shape}")
        return Performance(task, {name: float(read.sums[name]) for name in found.sums}, table, bins)


def _is_class(numbers: F64, classes: int) -> Bools:
    with np.errstate(invalid="ignore"):
        is_class: Bools = (numbers >= 0) & (numbers < classes) & (numbers == np.floor(numbers))
    return is_class


def _sums(**columns: F64) -> dict[str, float]:
    return {name: float(column.sum()) for name, column in columns.items()}


def _business(weight: F64, value: F64 | None, clicked: F64 | None) -> dict[str, float]:
    sums: dict[str, float] = {}
    if value is not None:
        given = np.isfinite(value)
        number, mine = np.clip(value[given], -_LARGEST, _LARGEST), weight[given]
        sums |= _sums(value_n=mine, value=mine * number, value2=mine * number**2)
    if clicked is not None:
        given = np.isfinite(clicked)
        sums |= _sums(click_n=weight[given], clicks=weight[given] * clicked[given])
    return sums


def _binary(scores: F64, predicted: F64, truth: F64, weight: F64) -> dict[str, float]:
    chance = np.clip(scores, 0.0, 1.0)
    hit, miss = weight * truth, weight * (1 - truth)
    yes, no = predicted == 1, predicted == 0
    right = np.where(yes, truth, 1 - truth)
    loss_of_1, loss_of_0 = -np.log(np.maximum(chance, _EPSILON)), -np.log(np.maximum(1 - chance, _EPSILON))
    return _sums(
        tp=hit[yes],
        fp=miss[yes],
        fn=hit[no],
        tn=miss[no],
        loss=hit * loss_of_1 + miss * loss_of_0,
        loss2=hit * loss_of_1**2 + miss * loss_of_0**2,
        brier=hit * (1 - chance) ** 2 + miss * chance**2,
        brier2=hit * (1 - chance) ** 4 + miss * chance**4,
        variance=weight**2 * right * (1 - right),
    )


def _score_table(scores: F64, truth: F64, weight: F64) -> F64:
    """Weight of negatives and positives per score cell, float64[2, 192]."""
    cell, cells = np.searchsorted(SCORE_EDGES, scores, side="right"), len(SCORE_EDGES) + 1
    negative = np.bincount(cell, weights=weight * (1 - truth), minlength=cells)
    return np.stack([negative, np.bincount(cell, weights=weight * truth, minlength=cells)])


def _multiclass(task: Task, outputs: F64, truth: F64, right: F64, weight: F64) -> dict[str, float]:
    sums = _sums(correct=weight * right, variance=weight**2 * right * (1 - right))
    if outputs.shape[1] != task.classes:
        return sums
    losses = -np.log(np.clip(outputs, _EPSILON, 1.0))
    first, second = (truth * losses).sum(axis=1), (truth * losses**2).sum(axis=1)
    return sums | _sums(scored=weight, loss=weight * first, loss2=weight * second)


def _class_table(predicted: I64, truth: F64, right: F64, weight: F64) -> F64:
    """Weight of hits, predictions and truths per class, float64[3, K]."""
    classes = truth.shape[1]
    hits = np.bincount(predicted, weights=weight * right, minlength=classes)
    return np.stack([hits, np.bincount(predicted, weights=weight, minlength=classes), weight @ truth])


def _regression(predicted: F64, truth: F64, weight: F64) -> dict[str, float]:
    with np.errstate(over="ignore"):
        error = np.clip(predicted - truth, -_LARGEST, _LARGEST)
    return _sums(
        error=weight * error,
        absolute=weight * np.abs(error),
        square=weight * error**2,
        square2=weight * error**4,
    )


def _reliability(scores: F64, truth: F64, weight: F64) -> F64:
    """Weight, weighted scores and weighted truths per step of the score, float64[3, 16]."""
    chance = np.clip(scores, 0.0, 1.0)
    step = np.minimum((chance * RELIABILITY_BINS).astype(np.int64), RELIABILITY_BINS - 1)
    columns = (weight, weight * chance, weight * truth)
    return np.stack([np.bincount(step, weights=column, minlength=RELIABILITY_BINS) for column in columns])
