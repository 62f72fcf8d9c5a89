"""Performance before labels come, expected from calibrated probabilities, and corrected as they come.

The estimator is NannyML's confidence-based performance estimation (CBPE): a prediction of 1 whose calibrated
probability is c is a true positive with chance c and a false one with chance 1 - c, and so on; sums of chances are
expected counts. It holds as long as the calibration does: under drift of the inputs, not under drift of the concept.
The difference from what the labels then show is a measure of the latter, and a figure of its own: `gap`.

Source: NannyML, "How it works: performance estimation, CBPE"; J. Bialek et al., "Estimating Model Performance Under
Covariate Shift Without Labels", arXiv 2401.08348.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from streamserve.batch import F64
from streamserve.drift.calibration import Calibration
from streamserve.drift.intervals import normal_quantile
from streamserve.drift.performance import Performance
from streamserve.drift.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Realised minus expected accuracy, of the same rows.

    Attributes:
        value: the difference; below 0 the model does worse than its scores promise.
        low, high: confidence interval.
        p: chance of a difference as large, either way, when the calibration holds.
        rows: how many rows have a label.
    """

    value: float
    low: float
    high: float
    p: float
    rows: int


def scores_of(task: Task, outputs: F64) -> F64 | None:
    """What a calibration is fitted on and applied to: float64[n], or float64[n, K]; None when outputs are no scores."""
    if task.kind == "binary":
        return outputs[:, 0]
    return outputs if task.kind == "multiclass" and outputs.shape[1] == task.classes else None


def expect(task: Task, outputs: F64, weight: F64, calibration: Calibration) -> Performance:
    """The performance to be expected of n predictions, the same sums as with labels.

    Args:
        task: binary, or multiclass with a probability per class.
        outputs: float64[n, k].
        weight: float64[n], how many predictions each stands for.
        calibration: of the reference.

    Raises:
        ValueError: the outputs are no scores, or the calibration is of another number of classes.
    """
    scores = scores_of(task, outputs)
    if scores is None:
        raise ValueError(f"outputs of a {task.kind} task with shape {outputs.shape} are no scores of its classes")
    return Performance.of(task, outputs, calibration.apply(scores), weight)


def estimate(expected: Performance, expected_of_labelled: Performance, realised: Performance) -> Performance:
    """The best estimate for all predictions: what is realised where labels are, what is expected elsewhere.

    Args:
        expected: of all predictions of a window.
        expected_of_labelled: of those among them that have labels.
        realised: of the same, with their labels.
    """
    rest = expected.less(expected_of_labelled)
    for name, total in rest.sums.items():
        rest.sums[name] = max(total, 0.0)
    rest.table, rest.bins = np.maximum(rest.table, 0.0), np.maximum(rest.bins, 0.0)
    rest.add(realised)
    return rest


def gap(realised: Performance, expected: Performance, level: float = 0.95) -> Gap | None:
    """How far labels are from what was expected of the same rows.

    Given the chances q_i of a correct prediction, the number of correct ones has the variance sum w_i^2 q_i (1 - q_i);
    z is the difference over its root, p is two-sided and normal. The error of the calibration itself is not in it: it
    is small when the reference has many more labels than the window.

    Args:
        realised: sums with labels.
        expected: sums of the same rows with chances.
        level: confidence of the interval.

    Returns:
        None when there is no row, or no doubt.
    """
    total, variance = realised.sums["weight"], expected.sums["variance"]
    if total <= 0 or variance <= 0:
        return None
    value = (_correct(realised) - _correct(expected)) / total
    deviation = math.sqrt(variance) / total
    half = normal_quantile(level) * deviation
    return Gap(
        value=value,
        low=value - half,
        high=value + half,
        p=math.erfc(abs(value) / deviation / math.sqrt(2)),
        rows=round(realised.sums["rows"]),
    )


def _correct(performance: Performance) -> float:
    sums = performance.sums
    return sums["tp"] + sums["tn"] if performance.task.kind == "binary" else sums["correct"]
