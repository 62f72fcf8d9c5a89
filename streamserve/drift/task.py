"""What a label is, what it is compared with, and what counts as an error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from streamserve.batch import F64, Bools
from streamserve.config.drift_settings import LabelSettings

TaskKind = Literal["binary", "multiclass", "regression"]
UNKNOWN_CLASSES: Final = 100
"""Classes that are told apart when neither names nor a vector of probabilities say how many there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """The comparison of outputs float64[n, k] with labels float64[n].

    Attributes:
        kind: `binary`: the first output is the probability of 1, a label 0 or 1; `multiclass`: k outputs are the
            probabilities of k classes, or the only one is the number of the class, a label is the number of a class;
            `regression`: the first output and the label are numbers.
        classes: how many classes.
        names: their names, in order, for labels that are names; empty when they have none.
        threshold: from here on a probability counts as a prediction of 1.
        tolerance: regression: an error up to this is none to the detectors.
    """

    kind: TaskKind = "binary"
    classes: int = 2
    names: tuple[str, ...] = ()
    threshold: float = 0.5
    tolerance: float = 0.0

    @staticmethod
    def of(settings: LabelSettings, outputs: int) -> Task:
        """The task that the settings describe for a model with so many `outputs`."""
        names = tuple(settings.classes or ())
        classes = 2 if settings.task == "binary" else len(names) or (outputs if outputs > 1 else UNKNOWN_CLASSES)
        return Task(
            kind=settings.task,
            classes=classes,
            names=names,
            threshold=settings.threshold,
            tolerance=settings.tolerance,
        )

    def predicted(self, outputs: F64) -> F64:
        """What was predicted: the number of the class, or the number; NaN where an output is not finite."""
        finite: Bools = np.all(np.isfinite(outputs), axis=1)
        if self.kind == "multiclass" and outputs.shape[1] > 1:
            found = np.argmax(np.where(finite[:, None], outputs, 0.0), axis=1).astype(np.float64)
        elif self.kind == "binary":
            found = (np.where(finite, outputs[:, 0], 0.0) >= self.threshold).astype(np.float64)
        else:
            found = outputs[:, 0]
        return np.where(finite, found, np.nan)

    def errors(self, outputs: F64, labels: F64) -> F64:
        """1.0 where the prediction was wrong (or is no finite number), 0.0 where it was right: the detectors' food.

        Args:
            outputs: float64[n, k].
            labels: float64[n].

        Returns:
            float64[n].
        """
        predicted = self.predicted(outputs)
        allowed = self.tolerance if self.kind == "regression" else 0.0
        with np.errstate(invalid="ignore", over="ignore"):
            right = np.abs(predicted - labels) <= allowed
        return np.where(right, 0.0, 1.0)
