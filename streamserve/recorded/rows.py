"""Sample chunks to the inputs of a model: the features as they came go through the enricher once more.

Pure. A model of another signature may be asked for than the one that scored the rows: the samples hold features, not
tensors. What a worker with that model would reject is left out and counted. Personal features are hashed or dropped
in samples, so a pipeline that has some cannot rebuild its inputs from them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np

from streamserve.batch import Column, EventBatch, RecordBatch, Tensor, Tensors
from streamserve.config.recorded import why_not_recorded
from streamserve.config.settings import FeatureSettings, PipelineSettings, VectorSettings
from streamserve.drift.chunk import SampleChunk, SampledColumn, Span, TextColumn
from streamserve.drift.gathered import rows_of
from streamserve.drift.learner import joined
from streamserve.drift.schema import OUTPUT_PREFIX
from streamserve.enrich.features import FeatureEnricher
from streamserve.errors import ConfigError, ContractError
from streamserve.ports import Signature

Rejected = Counter[tuple[str, str, str]]
"""Stage, reason and feature -> rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedRows:
    """Recorded rows as a model wants them, n of them, the oldest first.

    Attributes:
        events: ids, keys, event times, source positions (`events.origin`) and fields of the n rows.
        inputs: name -> array[n, ...], what the features fill.
        outputs: name in the prediction -> array[n, ...] as recorded; NaN or None where a row's version had no such
            output. Empty for rows that nobody scored.
        version: the model version that scored each row, n of them.
        rejected: rows that this model would not have been given, by reason.
    """

    events: EventBatch
    inputs: Tensors
    outputs: Tensors = field(default_factory=dict)
    version: list[str] = field(default_factory=list)
    rejected: Rejected = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.events)


def recorded_rows(
    chunks: Sequence[SampleChunk],
    settings: PipelineSettings,
    signature: Signature,
    *,
    rows: int,
) -> RecordedRows:
    """The newest rows of some chunks, each source record once.

    Args:
        chunks: in the order they were written; some with rows must be among them.
        settings: the pipeline.
        signature: what the features fill: the model's, or what the hook before it takes.
        rows: at most so many.

    Raises:
        ConfigError: `drift.pii` keeps a feature out of the samples.
        ContractError: the samples or the features do not fit the model.
    """
    check_recorded(settings)
    parts = _each_once(chunks, rows)
    columns = joined([part.columns() for part in parts], [len(part) for part in parts])
    events = _events(parts, {wanted.name: _field(columns, wanted) for wanted in _fields(settings.features)})
    features, rejects = FeatureEnricher(settings.features, signature).enrich(events)
    kept = np.array(features.events.row, dtype=np.intp)
    version = [part.chunk.version for part in parts for _ in part.index]
    outputs = {name[len(OUTPUT_PREFIX) :]: c for name, c in columns.items() if name.startswith(OUTPUT_PREFIX)}
    return RecordedRows(
        events=features.events,
        inputs=features.inputs,
        outputs={name: _array(column)[kept] for name, column in outputs.items()},
        version=[version[row] for row in features.events.row],
        rejected=Counter((reject.stage, reject.reason, reject.feature) for reject in rejects),
    )


def check_recorded(settings: PipelineSettings) -> None:
    """Whether the samples hold every feature as it came. Raises: ConfigError."""
    why = why_not_recorded(settings)
    if why:
        raise ConfigError(f"{why}; give events from a file, or try a version on input records: `streamserve replay`")


@dataclass(frozen=True, slots=True)
class _Field:
    """What the samples must hold for one feature: texts, numbers, or vectors of a width."""

    name: str
    text: bool
    width: int = 0


def _fields(features: Sequence[FeatureSettings] | VectorSettings) -> list[_Field]:
    if isinstance(features, VectorSettings):
        return [_Field(features.field, text=False, width=features.size)]
    return [_Field(feature.name, text=feature.dtype == "string") for feature in features]


@dataclass(frozen=True, slots=True)
class _Part:
    """Chosen rows of a chunk, ascending."""

    chunk: SampleChunk
    index: list[int]

    def __len__(self) -> int:
        return len(self.index)

    def columns(self) -> dict[str, SampledColumn]:
        at = np.array(self.index, dtype=np.intp)
        return {name: rows_of(column, at) for name, column in self.chunk.columns.items()}

    def places(self) -> list[Span]:
        """The span of each row."""
        return [self.chunk.spans[number] for number in self.chunk.span[self.index].tolist()]


def _each_once(chunks: Sequence[SampleChunk], rows: int) -> list[_Part]:
    """The newest rows, the newest chunk's word for each: a record may stand twice (at least once; two versions)."""
    seen: set[tuple[str, int, int]] = set()
    parts: list[_Part] = []
    for chunk in reversed(chunks):
        index: list[int] = []
        offsets = chunk.offset.tolist()
        for row, number in reversed(list(enumerate(chunk.span.tolist()))):
            place = (chunk.spans[number].topic, chunk.spans[number].partition, offsets[row])
            if place not in seen and len(seen) < rows:
                seen.add(place)
                index.append(row)
        if index:
            parts.append(_Part(chunk, index[::-1]))
    return parts[::-1]


def _events(parts: Sequence[_Part], fields: Mapping[str, Column]) -> EventBatch:
    """Events of the chosen rows; their origin holds positions and no values."""
    spans = [span for part in parts for span in part.places()]
    entity = [part.chunk.entity[row] for part in parts for row in part.index]
    n = len(spans)
    return EventBatch(
        origin=RecordBatch(
            topic=[span.topic for span in spans],
            partition=[span.partition for span in spans],
            offset=[offset for part in parts for offset in part.chunk.offset[part.index].tolist()],
            timestamp_ms=[time for part in parts for time in part.chunk.timestamp_ms[part.index].tolist()],
            key=entity,
            value=[None] * n,
        ),
        row=list(range(n)),
        id=[part.chunk.id[row] for part in parts for row in part.index],
        entity=entity,
        event_time_ms=[time for part in parts for time in part.chunk.event_time_ms[part.index].tolist()],
        fields=fields,
    )


def _field(columns: Mapping[str, SampledColumn], wanted: _Field) -> Column:
    """A field as the decoder would give it. Raises: ContractError when the samples hold another kind of it."""
    column = columns.get(wanted.name)
    if column is None:
        raise ContractError(
            f"the samples hold no {wanted.name}: they were written under another configuration. Wait for samples of"
            " this one, or give events from a file"
        )
    if wanted.text:
        return column.texts() if isinstance(column, TextColumn) else _unfit(wanted.name, "numbers", "texts")
    if isinstance(column, TextColumn):
        return _unfit(wanted.name, "texts", "numbers")
    width = column.shape[1] if column.ndim > 1 else 0
    if width != wanted.width:
        return _unfit(wanted.name, f"{width} numbers a row", f"{wanted.width}")
    return column.astype(np.float64) if column.dtype == np.bool_ else cast("Column", column)


def _unfit(name: str, held: str, wanted: str) -> Column:
    raise ContractError(f"the samples hold {held} in {name}, where the configuration has {wanted}")


def _array(column: SampledColumn) -> Tensor:
    if isinstance(column, TextColumn):
        return np.array(column.texts(), dtype=object)
    return column
