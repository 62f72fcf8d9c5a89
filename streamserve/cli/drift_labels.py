"""Labels of a reference's rows: the calibration of the model's scores, and how well it did on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np

from streamserve.batch import F64, Bools
from streamserve.config.drift_settings import LabelSettings
from streamserve.drift.calibration import Calibration
from streamserve.drift.cells import probability_name
from streamserve.drift.chunk import SampledColumn, TextColumn
from streamserve.drift.metrics import metrics
from streamserve.drift.performance import Performance
from streamserve.drift.task import Task
from streamserve.errors import ContractError

_TRUTH = {"true": 1.0, "false": 0.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What labels tell of a model.

    Attributes:
        calibration: of its scores; None for a number that is predicted, and when no row has a label.
        performance: metric -> value.
        rows: how many rows have a label that is one.
        unusable: rows whose label is none.
        known: bool[n], rows whose label is one.
        errors: float64[rows], 1 where the prediction was wrong.
    """

    calibration: Calibration | None
    performance: dict[str, float]
    rows: int
    unusable: int
    known: Bools
    errors: F64


def judge(columns: Mapping[str, SampledColumn], labels: Sequence[object], settings: LabelSettings | None) -> Judged:
    """Compare outputs with labels.

    Args:
        columns: n rows.
        labels: n values, None where nothing is known.
        settings: the pipeline's `drift.labels`; without, one probability or a vector of them is a classifier's.

    Raises:
        ContractError: there is no such output, or it holds no numbers.
    """
    outputs = _outputs(columns, settings)
    task = Task.of(settings or _guessed(outputs), outputs.shape[1])
    truth = np.array([_number(label, task) for label in labels])
    known: Bools = np.isfinite(truth) & np.isfinite(outputs).all(axis=1)
    given = sum(label is not None for label in labels)
    scores, truth = outputs[known], truth[known]
    if not len(truth):
        return Judged(calibration=None, performance={}, rows=0, unusable=given, known=known, errors=np.zeros(0))
    calibration = None
    if task.kind == "binary":
        calibration = Calibration.fit(scores[:, 0], truth)
    elif task.kind == "multiclass" and scores.shape[1] > 1:
        calibration = Calibration.fit(scores, truth)
    sums = Performance.of(task, scores, truth, np.ones(len(truth)))
    performance = {name: float(f"{metric.value:.6g}") for name, metric in metrics(sums).items()}
    return Judged(
        calibration=calibration,
        performance=performance,
        rows=len(truth),
        unusable=given - len(truth),
        known=known,
        errors=task.errors(scores, truth),
    )


def _outputs(columns: Mapping[str, SampledColumn], settings: LabelSettings | None) -> F64:
    """The output that labels are compared with, float64[n, k]."""
    name = probability_name(settings or LabelSettings(), columns)
    column = columns.get(name or "")
    if column is None:
        raise ContractError(f"the rows have no {name or 'output'} to compare labels with (drift.labels.output)")
    if isinstance(column, TextColumn):
        raise ContractError(f"{name} holds texts; labels are compared with numbers (drift.labels.output)")
    return column.reshape(len(column), -1).astype(np.float64)


def _guessed(outputs: F64) -> LabelSettings:
    if outputs.shape[1] > 1:
        return LabelSettings(task="multiclass")
    inside = outputs[np.isfinite(outputs)]
    return LabelSettings(task="binary" if ((inside >= 0) & (inside <= 1)).all() else "regression")


def _number(label: object, task: Task) -> float:
    """A label as the task has it; NaN for what is none."""
    if isinstance(label, str):
        if label in task.names:
            return float(task.names.index(label))
        if task.kind == "binary" and label.lower() in _TRUTH:
            return _TRUTH[label.lower()]
        try:
            label = float(label)
        except ValueError:
            return np.nan
    if not isinstance(label, int | float) or not isfinite(label):
        return np.nan
    if task.kind != "regression" and (label != int(label) or not 0 <= label < task.classes):
        return np.nan
    return float(label)
