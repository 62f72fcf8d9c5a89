"""A whole worker in memory: the product's loop, codecs and features between a `MemoryBroker` and an engine of yours."""

from __future__ import annotations

import contextlib
import io
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from prometheus_client import CollectorRegistry

from streamserve.batch import Positions, TopicPartition
from streamserve.clock import SystemClock
from streamserve.codecs import build_decoder
from streamserve.codecs.dead_letter import DeadLetterEncoder
from streamserve.composition.batching import build_batching
from streamserve.composition.beside import build_guard, build_lane
from streamserve.composition.models import ModelBuilder
from streamserve.config.drift_topics import drift_topics
from streamserve.config.pii_key import pii_key
from streamserve.config.rollout_topics import rollout_topics
from streamserve.config.settings import PipelineSettings
from streamserve.drift.sampler import SampledVersion, Sampler
from streamserve.engines.residency import Residency
from streamserve.pipeline.assignment import Assignment
from streamserve.pipeline.infer import NothingKnown
from streamserve.pipeline.lateness import Lateness
from streamserve.pipeline.ratio import RejectRatio
from streamserve.pipeline.serving import Deployments, Fixed, single
from streamserve.pipeline.stages import Stages
from streamserve.ports import Engine, Signature
from streamserve.telemetry.health import Health
from streamserve.telemetry.logs import Log
from streamserve.telemetry.metrics import WorkerMetrics
from streamserve.telemetry.versions import VersionMetrics
from streamserve.testing.broker import MemoryBroker
from streamserve.testing.rollout import MemoryRolloutReader, MemoryRolloutWriter
from streamserve.testing.shadow import MemoryShadowSink
from streamserve.testing.sink import MemorySink
from streamserve.testing.source import MemorySource
from streamserve.worker.calls import PollCalls
from streamserve.worker.guard import WorkerGuard
from streamserve.worker.loop import Worker
from streamserve.worker.mailbox import Mailbox
from streamserve.worker.rollout import RolloutFollower
from streamserve.worker.shadow import ShadowLane
from streamserve.worker.switch_points import SwitchPoints

MAX_RECORD_BYTES = 1 << 20
NO_SIGNATURE = Signature(inputs=(), outputs=())


class MemoryWorker:
    """A worker slot in this process; a context manager that runs it in a thread and drains it.

    Args:
        settings: the pipeline. Its `kafka` block is ignored, and so is its `cache`.
        engine: the model; with a `rollout` block, a function that makes the engine of a version, or raises what a
            repository would.
        broker: must have the input topics, the output topic and the dead-letter topic, with a `drift` block the
            samples topic, with a `rollout` block the control topic (and for a shadow its topic).
        slot: name of the slot: a second worker of the same name fences the first.
        everything: own all partitions from the start; without it, only what `source.assign` gives.

    Attributes:
        source, sink, assignment, metrics, versions, health, worker: its parts.
        deployments: what serves.
        log: where its log goes, JSON lines.
        failure: what ended it; None while it runs and after a clean end.
    """

    def __init__(
        self,
        settings: PipelineSettings,
        engine: Engine | Callable[[str], Engine],
        broker: MemoryBroker,
        *,
        slot: str = "memory-0",
        everything: bool = True,
    ) -> None:
        clock = SystemClock()
        self.log = io.StringIO()
        log = Log.open(stream=self.log, format="json")
        model, version = settings.model.name, str(settings.model.version)
        self.versions = VersionMetrics(CollectorRegistry(), pipeline=settings.pipeline, model=model, version=version)
        self.health = Health(clock, stall_s=settings.delivery.stall_s)
        self.assignment = Assignment(clock)
        start = settings.input.start
        self.source = MemorySource(
            broker, settings.input.topics, self.assignment, clock, log, start=start, everything=everything
        )
        ids = [f"{settings.pipeline}.{slot}.{n}" for n in range(settings.delivery.producers)]
        self.sink = MemorySink(broker, ids, max_bytes=MAX_RECORD_BYTES)
        sizes = settings.engine
        batching = build_batching(sizes, self.versions, clock, log)
        mailbox = Mailbox(batching.batcher, clock)
        builder = ModelBuilder(
            settings,
            load=lambda files, _on_padding: _engine(engine, files.version),
            journal=_NothingKnown(),
            quarantine=_NothingKnown(),
            metrics=self.versions,
        )
        self._lane: ShadowLane | None = None
        self._guard: WorkerGuard | None = None
        follower = None
        if settings.rollout is None:
            files = MemoryFiles(name=model, version=version)
            self.deployments: Deployments = Fixed(single(builder.assembled(files, _engine(engine, version))))
        else:
            self.deployments = follower = self._following(settings, broker, builder, slot, mailbox, log)
        self._follower = follower
        self.worker = Worker(
            source=self.source,
            sink=self.sink,
            stages=_stages(settings, self.deployments, batching.lateness, self._lane),
            assignment=self.assignment,
            mailbox=mailbox,
            max_poll=sizes.max_batch_size,
            delivery=settings.delivery,
            calls=PollCalls(),
            ratio=RejectRatio(settings.dead_letter.max_ratio, settings.dead_letter.ratio_window),
            quarantine=_NothingKnown(),
            metrics=self.versions,
            health=self.health,
            clock=clock,
            log=log,
            sampler=_sampler(settings, builder, broker, self.assignment),
            slo=batching.slo,
            in_flight=sizes.in_flight or 1,
            rollout=follower,
            switch_points=SwitchPoints(rollout_topics(settings).control, slot) if follower is not None else None,
        )
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"worker-{slot}", daemon=True)

    def _following(
        self,
        settings: PipelineSettings,
        broker: MemoryBroker,
        builder: ModelBuilder,
        slot: str,
        mailbox: Mailbox,
        log: Log,
    ) -> RolloutFollower:
        """What keeps the worker at what the topic says, with the shadow lane and the guard beside it."""
        nothing, clock = _NothingKnown(), SystemClock()
        self._lane = build_lane(
            settings,
            MemoryShadowSink(broker),
            journal=nothing,
            quarantine=nothing,
            behind=lambda: mailbox.behind,
            log=log,
        )
        self._guard = _guard(settings, broker, self.versions, clock, log)
        return _follower(settings, slot, builder, broker, self.versions, clock, log, self._lane, self._guard)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self, timeout_s: float = 30.0) -> None:
        """Drain and wait for the end."""
        self.worker.stop()
        self.join(timeout_s)

    def join(self, timeout_s: float = 30.0) -> None:
        """Wait for the end. Raises: TimeoutError."""
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            raise TimeoutError(f"the worker runs on after {timeout_s} s")

    @property
    def metrics(self) -> WorkerMetrics:
        """Of the stable version."""
        return self.versions.now

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._thread.is_alive()

    def _run(self) -> None:
        try:
            with contextlib.ExitStack() as stack:
                if self._lane is not None:
                    stack.enter_context(self._lane)
                if self._guard is not None:
                    stack.enter_context(self._guard)
                if self._follower is not None:
                    self._follower.start()
                self.worker.run()
        except BaseException as failure:
            self.failure = failure


def memory_settings(
    features: Sequence[Mapping[str, object]] | Mapping[str, object],
    *,
    topics: Sequence[str] = ("events",),
    **blocks: object,
) -> PipelineSettings:
    """Settings for a `MemoryWorker`: JSON events, predictions in `predictions`, dead letters in `dead`.

    Args:
        features: as in `streamserve.yaml`.
        topics: the input topics.
        blocks: more blocks, such as `delivery={"drain_timeout_s": 1}`.

    Raises:
        pydantic.ValidationError: they are wrong.
    """
    wanted: dict[str, object] = {
        "pipeline": "memory",
        "kafka": {},
        "input": {"topics": list(topics)},
        "features": dict(features) if isinstance(features, Mapping) else list(features),
        "model": {"name": "model", "version": 1},
        "output": {"topic": "predictions"},
        "dead_letter": {"topic": "dead"},
    }
    return PipelineSettings.model_validate({**wanted, **blocks})


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryFiles:
    """A version without files; fits `ports.ModelFiles`."""

    name: str
    version: str
    sha256: str = ""
    path: str = ""
    size_bytes: int = 0
    signature: Signature = NO_SIGNATURE


class _NothingKnown(NothingKnown):
    """What is known of crashes in a worker whose engine does not crash."""

    def reload(self) -> None:
        """Nothing is learnt."""

    def forget(self, positions: Positions) -> None:
        """Nothing was remembered."""


def _sampler(
    settings: PipelineSettings, builder: ModelBuilder, broker: MemoryBroker, assignment: Assignment
) -> Sampler | None:
    if settings.drift is None:
        return None
    return Sampler.of(
        settings,
        settings.drift,
        lambda version: SampledVersion(outputs=builder.outputs(version)),
        secret=pii_key(settings.drift, os.environ),
        partitions=broker.partitions(drift_topics(settings).samples),
        max_bytes=MAX_RECORD_BYTES,
        owned_share=assignment.share_of(sum(map(broker.partitions, settings.input.topics))),
    )


def _stages(
    settings: PipelineSettings, deployments: Deployments, lateness: Lateness | None, lane: ShadowLane | None
) -> Stages:
    return Stages(
        decoder=build_decoder(settings),
        deployments=deployments,
        reject_encoders=lambda model: DeadLetterEncoder(
            settings.dead_letter.topic, settings.pipeline, MAX_RECORD_BYTES, model
        ),
        max_output_bytes=MAX_RECORD_BYTES,
        sampled=settings.drift is not None,
        lateness=lateness,
        shadow=lane,
        timed=settings.rollout is not None and settings.rollout.guard is not None,
    )


def _guard(
    settings: PipelineSettings, broker: MemoryBroker, metrics: VersionMetrics, clock: SystemClock, log: Log
) -> WorkerGuard | None:
    control = rollout_topics(settings).control

    def alerts(_since_ms: int, stop: Callable[[], bool]) -> Iterator[bytes | None]:
        place, position = TopicPartition(drift_topics(settings).alerts, 0), 0
        while not stop():
            found = broker.read(place, position, 100)
            position += len(found)
            yield from (record.value for record in found)
            broker.wait({place: position}, 0.05)

    return build_guard(settings, lambda: MemoryRolloutWriter(broker, control), alerts, metrics, clock, log)


def _follower(
    settings: PipelineSettings,
    slot: str,
    builder: ModelBuilder,
    broker: MemoryBroker,
    metrics: VersionMetrics,
    clock: SystemClock,
    log: Log,
    lane: ShadowLane,
    guard: WorkerGuard | None,
) -> RolloutFollower:
    topic = rollout_topics(settings).control
    models = Residency(
        lambda version: MemoryFiles(name=settings.model.name, version=version),
        builder.build,
        budget_bytes=None,
        metrics=metrics,
        log=log,
    )
    return RolloutFollower(
        slot=slot,
        reader=MemoryRolloutReader(broker, topic),
        writer=MemoryRolloutWriter(broker, topic),
        models=models,
        first=lambda: str(settings.model.version),
        metrics=metrics,
        clock=clock,
        log=log,
        lane=lane,
        guard=guard,
    )


def _engine(engine: Engine | Callable[[str], Engine], version: str) -> Engine:
    return engine(version) if callable(engine) else engine
