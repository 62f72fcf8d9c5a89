"""A version tried off the stream: the same events through a model's whole path, beside another version or the past.

Nothing is written and no worker notices. The path is the workers' own (features, hooks, model, post-processing), so
what would be rejected there is rejected here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from prometheus_client import CollectorRegistry

from streamserve.batch import EventBatch, ModelIdentity, Reject, Tensors
from streamserve.composition.models import ModelBuilder, load_engine, resolve_model
from streamserve.config.settings import PipelineSettings
from streamserve.engines.transforms import fed_signature
from streamserve.errors import ContractError
from streamserve.pipeline.infer import NothingKnown
from streamserve.pipeline.serving import LoadedModel
from streamserve.recorded.compare import Comparison, compare
from streamserve.recorded.reading import recorded_inputs
from streamserve.telemetry.versions import VersionMetrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """What a model made of events.

    Attributes:
        rows: rows of the events' origin that have outputs, ascending.
        outputs: name -> array[len(rows), ...], by the names of the model.
        documents: the predictions as they would be produced.
        rejects: the other rows.
    """

    rows: list[int]
    outputs: Tensors
    documents: list[bytes]
    rejects: list[Reject]

    def take(self, rows: set[int]) -> Tensors:
        """The outputs of some of the rows, in their order."""
        keep = np.array([i for i, row in enumerate(self.rows) if row in rows], dtype=np.intp)
        return {name: values[keep] for name, values in self.outputs.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """A version beside another one, on the same rows.

    Attributes:
        version, against: who.
        rows: how many both were given.
        comparison: of their outputs where both have some; None when there are no such rows.
        lost: what only the new version rejects.
    """

    version: str
    against: str
    rows: int
    comparison: Comparison | None
    lost: list[Reject] = field(default_factory=list)

    def problems(self, max_difference: float | None) -> list[str]:
        """What speaks against the version, in sentences.

        Args:
            max_difference: largest mean absolute difference of an output; None: any.
        """
        found = []
        if self.lost:
            first = self.lost[0]
            found.append(
                f"{len(self.lost)} of {self.rows} rows are rejected by version {self.version} alone, the first for:"
                f" {first.detail}"
            )
        if self.comparison is None:
            found.append(f"none of {self.rows} rows has outputs of both versions")
        elif max_difference is not None and not (mean := self.comparison.difference("mean")) <= max_difference:
            found.append(
                f"its outputs differ from version {self.against} by {mean:.4g} on average, over {max_difference:g}"
            )
        return found


class Bench:
    """Loads versions for trials, and keeps them: what tries a version ends soon.

    Args:
        settings: the pipeline. A missing GPU is no obstacle: outputs differ in their last digits alone.
    """

    def __init__(self, settings: PipelineSettings) -> None:
        engine = settings.engine.model_copy(update={"allow_cpu_fallback": True})
        self._settings = settings.model_copy(update={"engine": engine})
        nothing = NothingKnown()
        self._builder = ModelBuilder(
            self._settings,
            load=partial(load_engine, self._settings),
            journal=nothing,
            quarantine=nothing,
            metrics=VersionMetrics(CollectorRegistry(), pipeline=settings.pipeline, model=settings.model.name),
        )

    def load(self, version: str) -> LoadedModel:
        """A version, as a worker would load it. Raises: whatever keeps it from serving."""
        return self._builder.build(resolve_model(self._settings, version))

    def score(self, model: LoadedModel, events: EventBatch) -> Scored:
        """Every event through the model's path."""
        rows: list[int] = []
        parts: list[Tensors] = []
        documents: list[bytes] = []
        rejects: list[Reject] = []
        identity = ModelIdentity(name=model.name, version=model.version, sha256=model.sha256)
        size = self._settings.engine.max_batch_size
        for start in range(0, len(events), size):
            features, bad = model.enricher.enrich(events.take(range(start, min(start + size, len(events)))))
            rejects += bad
            if model.before is not None:
                features, bad = model.before(features)
                rejects += bad
            predictions, bad = model.infer.run(features, identity)
            rejects += bad
            if model.after is not None:
                predictions, bad = model.after(predictions)
                rejects += bad
            written, bad = model.encoder.encode(predictions)
            rejects += bad
            gone = {reject.row for reject in bad}
            keep = [i for i, row in enumerate(predictions.events.row) if row not in gone]
            rows += written.row
            documents += [value or b"" for value in written.value]
            parts.append({name: values[keep] for name, values in predictions.outputs.items()})
        return Scored(rows=rows, outputs=_joined(parts), documents=documents, rejects=rejects)

    def beside(self, version: str, against: str, *, rows: int, stop: Callable[[], bool] = lambda: False) -> Tried:
        """A version beside another one on the newest recorded rows.

        Raises:
            ContractError: there are none, or the version does not fit the pipeline.
            BrokerUnavailable, SourceError: the samples cannot be read.
        """
        new, old = self.load(version), self.load(against)
        fed = fed_signature(self._settings, old.infer.engine.signature)
        recorded = recorded_inputs(self._settings, fed, rows=rows, stop=stop)
        before, after = self.score(old, recorded.events), self.score(new, recorded.events)
        return tried(before, after, old.version, new.version, self._settings.output.decisions)


def tried(
    before: Scored, after: Scored, against: str, version: str, thresholds: Mapping[str, float] | None = None
) -> Tried:
    """Hold what was made of the same events against each other."""
    both = set(before.rows) & set(after.rows)
    scored = set(before.rows)
    try:
        comparison = compare(before.take(both), after.take(both), thresholds) if both else None
    except ContractError as error:
        raise ContractError(f"version {version} cannot be compared with version {against}: {error}") from error
    return Tried(
        version=version,
        against=against,
        rows=len(scored | {reject.row for reject in before.rejects}),
        comparison=comparison,
        lost=[reject for reject in after.rejects if reject.row in scored],
    )


def _joined(parts: Sequence[Tensors]) -> Tensors:
    filled = [part for part in parts if part and len(next(iter(part.values())))]
    if not filled:
        return dict(parts[0]) if parts else {}
    return {name: np.concatenate([part[name] for part in filled]) for name in filled[0]}
