"""Which columns are sampled, and rows of them: features as they came, before defaults, and the model's outputs.

What was missing stays missing: NaN in number columns, None in texts. Of a sequence its length is sampled. Wide
pipelines have hundreds of columns and a transaction tens of batches, so float features, which are float64 in every
batch, are put together in one call.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from typing import Final, cast

import numpy as np

from streamserve.batch import Column, EventBatch, PredictionBatch, Tensor
from streamserve.config.drift_settings import DriftSettings
from streamserve.config.settings import Features, OutputSettings, PipelineSettings, VectorSettings
from streamserve.drift.schema import OUTPUT_PREFIX, length_of
from streamserve.ports import TensorSpec

FLOATS: Final = frozenset({"float32", "float64"})
"""Dtypes of features whose field every decoder gives as float64[m]."""
_KEPT = frozenset({"f4", "f8", "i4", "i8", "b1"})
_WIDENED = {"f": "float32", "b": "bool", "i": "int64", "u": "int64"}


class SampledColumns:
    """The plan of a pipeline's sampled columns.

    Args:
        features: names of the fields.
        floats: those of them that are float64[m] in every batch.
        lengths: name of the column -> field of a sequence whose length it holds.
        outputs: name of the column -> output that is written.
    """

    def __init__(
        self,
        features: Sequence[str],
        outputs: Mapping[str, str],
        *,
        floats: Collection[str] = (),
        lengths: Mapping[str, str] | None = None,
    ) -> None:
        self.lengths = lengths or {}
        self.names = [*features, *self.lengths, *outputs]
        self.floats = [name for name in features if name in floats]
        self.others = [name for name in features if name not in floats]
        self.outputs = outputs

    @staticmethod
    def of(settings: PipelineSettings, drift: DriftSettings, outputs: Sequence[TensorSpec]) -> SampledColumns:
        """The columns of a pipeline: all features that are not dropped, all outputs.

        Args:
            settings: the pipeline.
            drift: its `drift` block.
            outputs: of the model's signature.
        """
        features, written = settings.features, output_columns(settings.output, outputs)
        kept = [name for name in _feature_names(features) if drift.pii.get(name) != "drop"]
        if isinstance(features, VectorSettings):
            return SampledColumns(kept, written)
        sequences = {each.name for each in features if each.sequence is not None}
        return SampledColumns(
            [name for name in kept if name not in sequences],
            written,
            floats=[each.name for each in features if each.dtype in FLOATS],
            # What is personal in a sequence is not told by a hash of it, so nothing of it is sampled.
            lengths={length_of(name): name for name in kept if name in sequences and name not in drift.pii},
        )

    def take(self, predictions: PredictionBatch, at: Sequence[int]) -> dict[str, Column]:
        """Rows of one batch, column by column.

        Args:
            predictions: n events and what the model answered.
            at: positions in the events, ascending.
        """
        rows = SampledRows(self)
        rows.add(predictions, at)
        return rows.columns()

    def shape(self, predictions: PredictionBatch) -> list[tuple[int, ...]]:
        """What batches must share for their rows to be joined: the axes of outputs, which a model may vary."""
        return [predictions.outputs[output].shape[1:] for output in self.outputs.values()]


class SampledRows:
    """Rows of several batches on their way into columns.

    Args:
        plan: which columns.
    """

    def __init__(self, plan: SampledColumns) -> None:
        self._plan = plan
        self._floats: list[list[Column]] = []
        self._others: dict[str, list[Column]] = {name: [] for name in (*plan.others, *plan.lengths, *plan.outputs)}
        self._count = 0

    def add(self, predictions: PredictionBatch, at: Sequence[int]) -> None:
        """Append rows of a batch; see `SampledColumns.take`."""
        plan, fields, outputs = self._plan, predictions.events.fields, predictions.outputs
        index = None if len(at) == len(predictions) else np.array(at, dtype=np.intp)
        if index is None:
            self._floats.append([fields[name] for name in plan.floats])
        else:
            self._floats.append([cast("Tensor", fields[name])[index] for name in plan.floats])
        for name in plan.others:
            self._others[name].append(_feature(fields[name], at, index))
        for name, field in plan.lengths.items():
            self._others[name].append(_lengths(cast("Tensor", fields[field]), at))
        for name, output in plan.outputs.items():
            self._others[name].append(_output(outputs[output], index))
        self._count += len(at)

    def columns(self) -> dict[str, Column]:
        """All rows, column by column, in the order of the plan; nothing when there are none."""
        n = self._count
        if not n:
            return {}
        found = {name: _joined(parts) for name, parts in self._others.items()}
        if self._plan.floats:
            parts = [part for column in zip(*self._floats, strict=True) for part in column]
            joined = np.concatenate(cast("list[Tensor]", parts))
            found |= {name: joined[i * n : (i + 1) * n] for i, name in enumerate(self._plan.floats)}
        return {name: found[name] for name in self._plan.names}


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


def _feature_names(features: Features) -> list[str]:
    return [features.field] if isinstance(features, VectorSettings) else [feature.name for feature in features]


def _joined(parts: list[Column]) -> Column:
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], list):
        return list(chain.from_iterable(cast("list[list[str | None]]", parts)))
    return np.concatenate(cast("list[Tensor]", parts))


def _feature(column: Column, at: Sequence[int], index: Tensor | None) -> Column:
    """Rows of a field. Whole numbers with gaps (object) become float64."""
    if isinstance(column, list):
        return column if index is None else [column[i] for i in at]
    taken: Tensor = column if index is None else column[index]
    if taken.dtype == object:
        return np.array([np.nan if value is None else float(cast("int", value)) for value in taken.tolist()])
    return taken


def _lengths(sequences: Tensor, at: Sequence[int]) -> Column:
    """float64[len(at)]: how long the sequences of these rows are, NaN where one is missing."""
    rows = sequences.tolist()
    return np.array([np.nan if rows[i] is None else len(rows[i]) for i in at], np.float64)


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
