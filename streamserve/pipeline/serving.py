"""What serves: loaded versions, the routes to them, and the deployment that says who gets which.

A deployment never changes: a rollout replaces it as a whole, and the stages look it up once a batch. So a batch is
scored by one deployment from its first row to its last, and a switch falls between two batches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from streamserve.batch import EventBatch, FeatureBatch, ModelIdentity, PredictionBatch, Reject
from streamserve.pipeline.fallback import Fallback
from streamserve.pipeline.infer import InferStage
from streamserve.pipeline.latency_model import Timing
from streamserve.ports import Encoder, Enricher
from streamserve.rollout.split import Split
from streamserve.telemetry.metrics import WorkerMetrics

NO_REVISION = -1

BeforeModel = Callable[[FeatureBatch], tuple[FeatureBatch, list[Reject]]]
"""What happens to inputs before the model; a row that cannot go on is a reject (stage `infer`, reason `transform`)."""
AfterModel = Callable[[PredictionBatch], tuple[PredictionBatch, list[Reject]]]
"""What happens to outputs before they are encoded, likewise."""


@dataclass(frozen=True, slots=True, weakref_slot=True, kw_only=True)
class LoadedModel:
    """A version that is loaded and warmed, with everything that depends on its signature.

    Attributes:
        name, version, sha256: who it is.
        enricher, infer, encoder: its stages.
        before, after: hooks and post-processing, None where there are none.
        metrics: bound to the version.
        fallback: its outputs for late records, when they get one.
        warmed: what its warm-up took, by rows; empty when nobody plans by it.
    """

    name: str
    version: str
    sha256: str = ""
    enricher: Enricher
    infer: InferStage
    encoder: Encoder
    before: BeforeModel | None = None
    after: AfterModel | None = None
    metrics: WorkerMetrics = field(repr=False)
    fallback: Fallback | None = None
    warmed: tuple[Timing, ...] = ()


@dataclass(frozen=True, slots=True)
class Route:
    """A way to a model, and what its predictions say of it."""

    model: LoadedModel
    identity: ModelIdentity


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """Who scores what.

    Attributes:
        routes: by side of the split: stable (or the control) first, then canary or the other arms.
        split: None when there is one route.
        shadow: scores beside, never in the way.
        revision: of the rollout's state; -1 without a rollout.
    """

    routes: tuple[Route, ...]
    split: Split | None = None
    shadow: Route | None = None
    revision: int = NO_REVISION

    @property
    def all_routes(self) -> tuple[Route, ...]:
        """Every way to a model, the shadow's last."""
        return (*self.routes, self.shadow) if self.shadow is not None else self.routes

    def parts(self, events: EventBatch) -> list[tuple[Route, EventBatch]]:
        """The events of each route that has any; all of them, as they are, on the only one.

        The first route always has a part, if an empty one: records that did not decode are counted as its.
        """
        if self.split is None:
            return [(self.routes[0], events)]
        sides = self.split.sides(_sticky_keys(events))
        return [
            (route, events.take(rows) if len(rows) < len(events) else events)
            for side, route in enumerate(self.routes)
            if len(rows := _rows(sides, side)) or side == 0
        ]


class Deployments(Protocol):
    """Where the stages look up what serves now; replaced between batches by whoever follows the rollout."""

    @property
    def current(self) -> Deployment: ...


@dataclass(slots=True)
class Fixed:
    """One deployment for good: a pipeline without rollouts."""

    current: Deployment


def single(model: LoadedModel) -> Deployment:
    """A deployment of one model, nothing else."""
    return Deployment(
        routes=(Route(model, ModelIdentity(name=model.name, version=model.version, sha256=model.sha256)),)
    )


def _sticky_keys(events: EventBatch) -> Sequence[bytes]:
    """What a row is routed by: its entity key, or its id where there is none."""
    return [
        entity if entity is not None else name.encode("utf-8", "surrogatepass")
        for entity, name in zip(events.entity, events.id, strict=True)
    ]


def _rows(sides: npt.NDArray[np.intp], side: int) -> list[int]:
    rows: list[int] = np.flatnonzero(sides == side).tolist()
    return rows
