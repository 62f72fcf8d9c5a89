"""Events scored by the worker's own stages, as rows that a reference can be made of.

What a worker would reject is left out and counted; columns are those of the worker's samples, names, types, gaps and
hashes alike, so that a reference and the live rows can be compared. Nothing is written anywhere.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import TracebackType
from typing import Final, Self

import numpy as np
from prometheus_client import CollectorRegistry

from streamserve.batch import I64, U64, Bools, EventBatch, ModelIdentity, PredictionBatch, Reject
from streamserve.composition.models import ModelBuilder, load_engine
from streamserve.config.drift_settings import DriftSettings
from streamserve.config.pii_key import pii_key
from streamserve.config.settings import PipelineSettings
from streamserve.drift.chunk import SampledColumn, TextColumn
from streamserve.drift.gathered import rows_of
from streamserve.drift.personal import Personal
from streamserve.drift.sampled_columns import SampledColumns, positions
from streamserve.pipeline.infer import NothingKnown
from streamserve.ports import ModelFiles
from streamserve.telemetry.versions import VersionMetrics

Rejects = Counter[tuple[str, str, str]]
"""Stage, reason and feature -> rows."""
UNTIMED: Final = -1
"""Event time of a row whose time nothing tells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventPart:
    """Some events of a file or topic.

    Attributes:
        events: decoded; their time is that of the events, or `UNTIMED` where nothing tells it.
        rejects: records that are no events.
        labels: what came true, one per row of `events.origin`, None where it is not known; empty without labels.
    """

    events: EventBatch
    rejects: list[Reject] = field(default_factory=list)
    labels: Sequence[object] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredRows:
    """Rows with features and outputs, n of them.

    Attributes:
        columns: features under their names, outputs as `output.<name>`.
        event_time_ms: int64[n].
        labels: n values, None where none is known; empty without labels.
        level: sampling level of the rows, the coarsest one of them.
        draws: uint64[n], what decided about sampling each of them; None for rows that are all there are.
    """

    columns: Mapping[str, SampledColumn]
    event_time_ms: I64
    labels: Sequence[object] = ()
    level: int = 0
    draws: U64 | None = None

    def __len__(self) -> int:
        return len(self.event_time_ms)

    def take(self, inside: Bools) -> ScoredRows:
        """The rows where bool[n] is true."""
        return self if inside.all() else self.pick(np.flatnonzero(inside))

    def at(self, event_time_ms: I64) -> ScoredRows:
        """The same rows at other times."""
        return replace(self, event_time_ms=event_time_ms)

    def pick(self, index: I64) -> ScoredRows:
        """The rows at these positions, in their order."""
        return ScoredRows(
            columns={name: rows_of(column, index) for name, column in self.columns.items()},
            event_time_ms=self.event_time_ms[index],
            labels=[self.labels[i] for i in index.tolist()] if self.labels else (),
            level=self.level,
            draws=None if self.draws is None else self.draws[index],
        )


class Scorer:
    """A model with the worker's own stages around it, in this process; a context manager.

    Args:
        settings: the pipeline.
        files: the model version.
        personal: hashes what is personal, as the samples have it.
    """

    def __init__(self, settings: PipelineSettings, files: ModelFiles, personal: Personal) -> None:
        # A reference made where there is no GPU is as good: outputs differ in their last digits alone.
        engine = settings.engine.model_copy(update={"allow_cpu_fallback": True})
        self._settings = settings.model_copy(update={"engine": engine})
        self._files = files
        self._personal = personal
        self.rejects: Rejects = Counter()

    def __enter__(self) -> Self:
        """Load the model. Raises: ConfigError, ModelCorrupt, ContractError."""
        settings, files = self._settings, self._files
        self._engine = load_engine(settings, files)
        builder = ModelBuilder(
            settings,
            load=partial(load_engine, settings),
            journal=NothingKnown(),
            quarantine=NothingKnown(),
            metrics=VersionMetrics(CollectorRegistry(), pipeline=settings.pipeline, model=files.name),
        )
        self._model = builder.assembled(files, self._engine)
        self._identity = ModelIdentity(name=files.name, version=files.version, sha256=files.sha256)
        self._columns = SampledColumns.of(settings, settings.drift or DriftSettings(), builder.outputs(files.version))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._engine.close()

    def score(self, part: EventPart) -> Iterator[ScoredRows]:
        """The events that a worker would predict, a batch of the engine at a time."""
        self._count(part.rejects)
        size = self._settings.engine.max_batch_size
        for start in range(0, len(part.events), size):
            some = part.events.take(range(start, min(start + size, len(part.events))))
            predictions = self._predicted(some)
            outbound, unwritten = self._model.encoder.encode(predictions)
            self._count(unwritten)
            if len(outbound):
                yield self._rows(predictions, outbound.row, part.labels)

    def _predicted(self, events: EventBatch) -> PredictionBatch:
        model = self._model
        features, rejects = model.enricher.enrich(events)
        self._count(rejects)
        if model.before is not None:
            features, rejects = model.before(features)
            self._count(rejects)
        predictions, rejects = model.infer.run(features, self._identity)
        self._count(rejects)
        if model.after is not None:
            predictions, rejects = model.after(predictions)
            self._count(rejects)
        return predictions

    def _count(self, rejects: Sequence[Reject]) -> None:
        self.rejects.update((reject.stage, reject.reason, reject.feature) for reject in rejects)

    def _rows(self, predictions: PredictionBatch, rows: Sequence[int], labels: Sequence[object]) -> ScoredRows:
        at = positions(predictions.events, rows)
        columns = self._columns.take(predictions, at)
        return ScoredRows(
            columns={
                name: self._personal.column(name, TextColumn.of(column) if isinstance(column, list) else column)
                for name, column in columns.items()
            },
            event_time_ms=np.array([predictions.events.event_time_ms[i] for i in at], dtype=np.int64),
            labels=[labels[row] for row in rows] if labels else (),
        )


def personal_of(settings: PipelineSettings) -> Personal:
    """What hashes personal values as the workers do. Raises: ConfigError without the secret."""
    drift = settings.drift or DriftSettings()
    return Personal(pii_key(drift, os.environ), [name for name, fate in drift.pii.items() if fate == "hash"])
