"""Predictions and labels of an experiment's arms, joined by event id, as outcomes.

Reads committed records of the predictions topic and of the labels topic, without joining any group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

import msgspec
import numpy as np

from streamserve.batch import ENTITY_HEADER
from streamserve.config.drift_settings import LabelSettings
from streamserve.config.drift_topics import drift_topics
from streamserve.config.settings import PipelineSettings
from streamserve.drift.labels import Label, LabelDecoder, MalformedLabel
from streamserve.drift.task import Task
from streamserve.errors import ConfigError
from streamserve.rollout.experiment import ArmTally

if TYPE_CHECKING:
    from streamserve.kafka.reading import Start, StoredRecord

Metric = Literal["accuracy", "brier", "absolute_error", "label", "value", "clicked"]
METRICS: tuple[str, ...] = get_args(Metric)
LESS_IS_BETTER = frozenset({"brier", "absolute_error"})
STABLE = "stable"


class _Prediction(msgspec.Struct, frozen=True):
    """What is needed of a prediction; the rest is left alone."""

    id: str
    version: str
    outputs: dict[str, object]
    role: str = ""
    experiment: str = ""
    arm: str = ""
    fallback: bool = False


@dataclass(frozen=True, slots=True)
class _Waiting:
    arm: str
    key: bytes
    score: np.ndarray[tuple[int], np.dtype[np.float64]]


@dataclass(slots=True)
class Outcomes:
    """What was found.

    Attributes:
        arms: name -> outcomes.
        versions: name -> model version.
        predictions: name -> how many, with a label or without.
        without_prediction: labels of ids that no arm predicted.
        malformed: labels that are none.
    """

    arms: dict[str, ArmTally] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    predictions: dict[str, int] = field(default_factory=dict)
    without_prediction: int = 0
    malformed: int = 0


class Joiner:
    """Joins an experiment's predictions with labels.

    Args:
        settings: the pipeline; must have `drift.labels`.
        experiment: its name; empty for a canary against the stable version.
        versions: arm -> version, where known: predictions of others are of another rollout and passed over.
        metric: what counts as the outcome; default accuracy, for a regression the absolute error.

    Raises:
        ConfigError: no labels are configured, or the metric does not fit the task.
    """

    def __init__(
        self,
        settings: PipelineSettings,
        experiment: str,
        metric: Metric | None,
        versions: Mapping[str, str] | None = None,
    ) -> None:
        labels = settings.drift.labels if settings.drift is not None else None
        if labels is None:
            raise ConfigError("there are no labels to compare the arms by: configure drift.labels")
        self._settings = settings
        self._experiment = experiment
        self._versions = versions or {}
        self._labels = labels
        self._output = _prediction_name(settings, labels)
        self.metric: Metric = metric or ("absolute_error" if labels.task == "regression" else "accuracy")
        _check_metric(self.metric, labels)
        self._waiting: dict[str, _Waiting] = {}
        self._task = Task.of(labels, 1)
        self._decoder = LabelDecoder(self._task)
        self.outcomes = Outcomes()

    def run(self, start: Start, stop: Callable[[], bool]) -> Outcomes:
        """Read both topics from `start` to their ends. Raises: BrokerUnavailable, SourceError."""
        topics = drift_topics(self._settings)
        for record in self._read(self._settings.output.topic, start, stop):
            entity = next((value for name, value in record.headers if name == ENTITY_HEADER), None)
            self.predicted(entity or record.key, record.value)
        for record in self._read(topics.labels or "", start, stop):
            self.labelled(record.value)
        return self.outcomes

    def predicted(self, key: bytes | None, value: bytes | None) -> None:
        """Take a record of the predictions topic; one of another experiment is passed over.

        Args:
            key: the entity, which decided the arm.
            value: the prediction.
        """
        try:
            found = msgspec.json.decode(value or b"", type=_Prediction)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return
        arm = found.arm if self._experiment else found.role
        if found.experiment != self._experiment or not arm or found.fallback:
            return  # a fallback is nobody's prediction
        if self._versions.get(arm, found.version) != found.version:
            return
        output = found.outputs.get(self._output) if self._output else next(iter(found.outputs.values()), None)
        score = _score(output)
        if not self._waiting:
            self._task = Task.of(self._labels, len(score))
            self._decoder = LabelDecoder(self._task)
        self._waiting[found.id] = _Waiting(arm, key or found.id.encode(), score)
        self.outcomes.versions.setdefault(arm, found.version)
        self.outcomes.predictions[arm] = self.outcomes.predictions.get(arm, 0) + 1
        self.outcomes.arms.setdefault(arm, ArmTally())

    def labelled(self, value: bytes | None) -> None:
        """Take a record of the labels topic; the first label of a prediction counts."""
        label = self._decoder.decode(value)
        if isinstance(label, MalformedLabel):
            self.outcomes.malformed += 1
            return
        waiting = self._waiting.pop(label.id, None)
        if waiting is None:
            self.outcomes.without_prediction += 1
            return
        outcome = self._outcome(waiting.score, label)
        if outcome is not None and np.isfinite(outcome):
            self.outcomes.arms[waiting.arm].add([waiting.key], np.array([outcome]))

    def _outcome(self, score: np.ndarray[tuple[int], np.dtype[np.float64]], label: Label) -> float | None:
        match self.metric:
            case "accuracy":
                return 1.0 - float(self._task.errors(score[None, :], np.array([label.label]))[0])
            case "brier":
                return float((score[0] - label.label) ** 2)
            case "absolute_error":
                return float(abs(score[0] - label.label))
            case "label":
                return label.label
            case "value":
                return label.value
            case "clicked":
                return None if label.clicked is None else float(label.clicked)

    def _read(self, topic: str, start: Start, stop: Callable[[], bool]) -> Iterator[StoredRecord]:
        from streamserve.kafka.clients import reader_properties
        from streamserve.kafka.reading import read_topic

        properties = reader_properties(self._settings, group=f"{self._settings.pipeline}.experiment")
        return read_topic(properties, topic, start, stop=stop)


def _prediction_name(settings: PipelineSettings, labels: LabelSettings) -> str:
    """The name in a prediction of the output that labels are compared with; empty for the first one."""
    if labels.output is None:
        return ""
    names = settings.output.outputs or {labels.output: labels.output}
    found = next((name for name, source in names.items() if source == labels.output), None)
    if found is None:
        raise ConfigError(f"output.outputs does not write {labels.output}, which drift.labels.output names")
    return found


def _check_metric(metric: Metric, labels: LabelSettings) -> None:
    wrong = (metric == "accuracy" and labels.task == "regression") or (metric == "brier" and labels.task != "binary")
    if wrong or (metric == "absolute_error" and labels.task != "regression"):
        raise ConfigError(f"{metric} is no metric of a {labels.task} task (drift.labels.task)")


def _score(output: object) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """An output as numbers; NaN for what is none."""
    values = output if isinstance(output, list) else [output]
    numbers = [float(x) if isinstance(x, int | float) else np.nan for x in values]
    return np.array(numbers or [np.nan], dtype=np.float64)
