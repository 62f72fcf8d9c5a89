"""Which columns are sampled, and rows of them: features as they came, before defaults, and the model's outputs.

What was missing stays missing: NaN in number columns, None in texts.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np

from streamserve.batch import Column, EventBatch, PredictionBatch, Tensor
from streamserve.config.drift_settings import DriftSettings
from streamserve.config.settings import OutputSettings, PipelineSettings, VectorSettings
from streamserve.drift.schema import OUTPUT_PREFIX
from streamserve.ports import TensorSpec

_KEPT = frozenset({"f4", "f8", "i4", "i8", "b1"})
_WIDENED = {"f": "float32", "b": "bool", "i": "int64", "u": "int64"}


class SampledColumns:
    """The plan of a pipeline's sampled columns.

    Args:
        features: names of the fields.
        outputs: name of the column -> output of the model.
    """

    def __init__(self, features: Sequence[str], outputs: Mapping[str, str]) -> None:
        self._features = features
        self._outputs = outputs

    @staticmethod
    def of(settings: PipelineSettings, drift: DriftSettings, outputs: Sequence[TensorSpec]) -> SampledColumns:
        """The columns of a pipeline: all features that are not dropped, all outputs.

        Args:
            settings: the pipeline.
            drift: its `drift` block.
            outputs: of the model's signature.
        """
        features = settings.features
        names = [features.field] if isinstance(features, VectorSettings) else [feature.name for feature in features]
        kept = [name for name in names if drift.pii.get(name) != "drop"]
        return SampledColumns(kept, output_columns(settings.output, outputs))

    def take(self, predictions: PredictionBatch, at: Sequence[int]) -> dict[str, Column]:
        """Rows of all columns.

        Args:
            predictions: n events and what the model answered.
            at: positions in the events, ascending; of all n, the columns themselves are given.
        """
        index = None if len(at) == len(predictions) else np.array(at, dtype=np.intp)
        fields, outputs = predictions.events.fields, predictions.outputs
        columns: dict[str, Column] = {name: _feature(fields[name], at, index) for name in self._features}
        for name, output in self._outputs.items():
            columns[name] = _output(outputs[output], index)
        return columns

    def shape(self, predictions: PredictionBatch) -> list[tuple[int, ...]]:
        """What batches must share for their columns to be joined: the axes of outputs, which a model may vary."""
        return [predictions.outputs[output].shape[1:] for output in self._outputs.values()]


def output_columns(output: OutputSettings, outputs: Sequence[TensorSpec]) -> dict[str, str]:
    """Name of the column -> output of the model: what predictions hold, but for thresholds and lists of texts."""
    specs = {spec.name: spec for spec in outputs}
    names = {name: name for name in specs} if output.outputs is None else output.outputs
    return {
        OUTPUT_PREFIX + name: source
        for name, source in names.items()
        if specs[source].dtype != "str" or all(axis == 1 for axis in specs[source].shape[1:])
    }


def positions(events: EventBatch, rows: Sequence[int]) -> Sequence[int]:
    """Where rows of the origin, ascending, stand in the events that were made of it; all of them are there."""
    if len(events) == len(events.origin):
        return rows
    if len(rows) == len(events):
        return range(len(rows))
    return [bisect_left(events.row, row) for row in rows]


def _feature(column: Column, at: Sequence[int], index: Tensor | None) -> Column:
    """Rows of a field. Whole numbers with gaps (object) become float64."""
    if isinstance(column, list):
        return column if index is None else [column[i] for i in at]
    taken: Tensor = column if index is None else column[index]
    if taken.dtype == object:
        return np.array([np.nan if value is None else float(cast("int", value)) for value in taken.tolist()])
    return taken


def _output(values: Tensor, index: Tensor | None) -> Column:
    """Rows of an output: [s], [s, k], or a list of texts; more axes than two are flattened."""
    taken: Tensor = values if index is None else values[index]
    rows = len(taken)
    width = values.size // max(1, len(values))
    if width == 1:
        taken = taken.reshape(rows)
    elif taken.ndim != 2:
        taken = taken.reshape(rows, width)
    if taken.dtype.kind in "OUS":
        return [_text(value) for value in taken.tolist()]
    if taken.dtype.str[1:] in _KEPT:
        return taken
    return cast("Tensor", taken.astype("float64" if taken.dtype == np.uint64 else _WIDENED[taken.dtype.kind]))


def _text(value: object) -> str | None:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return None if value is None else str(value)
