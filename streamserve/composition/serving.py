"""What serves in a slot: one version for good, or what the rollout topic says."""

from __future__ import annotations

from collections.abc import Sequence

from streamserve.clock import Clock
from streamserve.composition.models import ModelBuilder, resolve_model
from streamserve.config.settings import PipelineSettings
from streamserve.engines.residency import Residency
from streamserve.pipeline.serving import Deployments, Fixed, LoadedModel, single
from streamserve.ports import ModelFiles
from streamserve.telemetry.logs import Log
from streamserve.telemetry.metadata import ModelMetadata
from streamserve.telemetry.versions import VersionMetrics
from streamserve.worker.guard import WorkerGuard
from streamserve.worker.load_note import LoadNote
from streamserve.worker.rollout import RolloutFollower, served
from streamserve.worker.shadow import ShadowLane

MEBIBYTE = 1 << 20


class Served:
    """What the port for probes says of the models that serve; nothing before there is a deployment."""

    def __init__(self) -> None:
        self.deployments: Deployments | None = None

    def metadata(self) -> Sequence[ModelMetadata]:
        """Of every version that serves, the stable one (or the control) first."""
        if self.deployments is None:
            return ()
        return [_metadata(route.model) for route in self.deployments.current.all_routes]


def build_residency(
    settings: PipelineSettings, builder: ModelBuilder, note: LoadNote, metrics: VersionMetrics, log: Log
) -> Residency:
    """Where the loaded versions are kept."""
    budget_mb = settings.engine.memory_budget_mb

    def build(files: ModelFiles) -> LoadedModel:
        with note.of(files):
            return builder.build(files)

    return Residency(
        lambda version: resolve_model(settings, version),
        build,
        budget_bytes=budget_mb * MEBIBYTE if budget_mb is not None else None,
        metrics=metrics,
        log=log,
    )


def fixed(models: Residency, version: str, metrics: VersionMetrics) -> Fixed:
    """One version for good. Raises: StreamServeError, when it cannot serve."""
    deployment = single(models.get(version, serving=()))
    metrics.stable(version)
    metrics.serving([served(route) for route in deployment.routes])
    return Fixed(deployment)


def build_follower(
    settings: PipelineSettings,
    slot: str,
    models: Residency,
    metrics: VersionMetrics,
    clock: Clock,
    log: Log,
    lane: ShadowLane,
    guard: WorkerGuard | None,
) -> RolloutFollower:
    """What keeps the slot at what the topic says; to be started."""
    from streamserve.kafka.rollout_topic import RolloutReader, RolloutWriter

    return RolloutFollower(
        slot=slot,
        reader=RolloutReader(settings),
        writer=RolloutWriter(settings),
        models=models,
        first=lambda: resolve_model(settings).version,
        metrics=metrics,
        clock=clock,
        log=log,
        lane=lane,
        guard=guard,
    )


def _metadata(model: LoadedModel) -> ModelMetadata:
    signature = model.infer.engine.signature
    return ModelMetadata(name=model.name, version=model.version, inputs=signature.inputs, outputs=signature.outputs)
