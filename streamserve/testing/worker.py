"""A whole worker in memory: the product's loop, codecs and features between a `MemoryBroker` and an engine of yours."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from prometheus_client import CollectorRegistry

from streamserve.batch import ModelIdentity, Positions, RecordBatch
from streamserve.clock import SystemClock
from streamserve.codecs import build_decoder
from streamserve.codecs.dead_letter import DeadLetterEncoder
from streamserve.codecs.prediction import JsonPredictionEncoder
from streamserve.config.drift_topics import drift_topics
from streamserve.config.pii_key import pii_key
from streamserve.config.settings import PipelineSettings
from streamserve.drift.sampler import SampledVersion, Sampler
from streamserve.enrich.features import FeatureEnricher
from streamserve.pipeline.assignment import Assignment
from streamserve.pipeline.batcher import Batcher
from streamserve.pipeline.infer import InferStage
from streamserve.pipeline.poison import BatchBound
from streamserve.pipeline.ratio import RejectRatio
from streamserve.pipeline.serving import Fixed, LoadedModel, single
from streamserve.pipeline.stages import Stages
from streamserve.ports import Engine
from streamserve.telemetry.health import Health
from streamserve.telemetry.logs import Log
from streamserve.telemetry.metrics import WorkerMetrics
from streamserve.telemetry.versions import VersionMetrics
from streamserve.testing.broker import MemoryBroker
from streamserve.testing.sink import MemorySink
from streamserve.testing.source import MemorySource
from streamserve.worker.calls import PollCalls
from streamserve.worker.loop import Worker
from streamserve.worker.mailbox import Mailbox

MAX_RECORD_BYTES = 1 << 20


class MemoryWorker:
    """A worker slot in this process; a context manager that runs it in a thread and drains it.

    Args:
        settings: the pipeline. Its `kafka` block is ignored, and so is its `cache`.
        engine: the model.
        broker: must have the input topics, the output topic and the dead-letter topic, and with a `drift` block the
            samples topic.
        slot: name of the slot: a second worker of the same name fences the first.
        everything: own all partitions from the start; without it, only what `source.assign` gives.

    Attributes:
        source, sink, assignment, metrics, health, worker: its parts.
        log: where its log goes, JSON lines.
        failure: what ended it; None while it runs and after a clean end.
    """

    def __init__(
        self,
        settings: PipelineSettings,
        engine: Engine,
        broker: MemoryBroker,
        *,
        slot: str = "memory-0",
        everything: bool = True,
    ) -> None:
        clock = SystemClock()
        self.log = io.StringIO()
        log = Log.open(stream=self.log, format="json")
        identity = ModelIdentity(name=settings.model.name, version=str(settings.model.version))
        self.versions = VersionMetrics(
            CollectorRegistry(), pipeline=settings.pipeline, model=identity.name, version=identity.version
        )
        self.health = Health(clock, stall_s=settings.delivery.stall_s)
        self.assignment = Assignment(clock)
        self.source = MemorySource(
            broker,
            settings.input.topics,
            self.assignment,
            clock,
            log,
            start=settings.input.start,
            everything=everything,
        )
        ids = [f"{settings.pipeline}.{slot}.{n}" for n in range(settings.delivery.producers)]
        self.sink = MemorySink(broker, ids, max_bytes=MAX_RECORD_BYTES)
        sizes = settings.engine
        batcher = Batcher(
            max_size=sizes.max_batch_size,
            max_bytes=sizes.max_batch_bytes,
            max_delay_s=sizes.max_delay_ms / 1000,
            capacity=4 * sizes.max_batch_size,
        )
        self.worker = Worker(
            source=self.source,
            sink=self.sink,
            stages=_stages(settings, engine, identity, self.versions.now),
            assignment=self.assignment,
            mailbox=Mailbox(batcher, clock),
            max_poll=sizes.max_batch_size,
            delivery=settings.delivery,
            calls=PollCalls(),
            ratio=RejectRatio(settings.dead_letter.max_ratio, settings.dead_letter.ratio_window),
            quarantine=_NothingKnown(),
            metrics=self.versions,
            health=self.health,
            clock=clock,
            log=log,
            sampler=_sampler(settings, engine, broker, self.assignment),
        )
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"worker-{slot}", daemon=True)

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
            self.worker.run()
        except BaseException as failure:
            self.failure = failure


def memory_settings(
    features: Sequence[Mapping[str, object]], *, topics: Sequence[str] = ("events",), **blocks: object
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
        "features": list(features),
        "model": {"name": "model", "version": 1},
        "output": {"topic": "predictions"},
        "dead_letter": {"topic": "dead"},
    }
    return PipelineSettings.model_validate({**wanted, **blocks})


class _NothingKnown:
    """Journal and quarantine of a worker whose engine does not crash."""

    def enter(self, records: RecordBatch, rows: Sequence[int]) -> None:
        """Nothing is noted."""

    def leave(self) -> None:
        """Nothing is struck out."""

    def reload(self) -> None:
        """Nothing is learnt."""

    def split(self, records: RecordBatch) -> None:  # noqa: ARG002  port
        """No record is suspect."""
        return

    def forget(self, positions: Positions) -> None:
        """Nothing was remembered."""


def _sampler(
    settings: PipelineSettings, engine: Engine, broker: MemoryBroker, assignment: Assignment
) -> Sampler | None:
    if settings.drift is None:
        return None
    return Sampler.of(
        settings,
        settings.drift,
        lambda _version: SampledVersion(outputs=engine.signature.outputs),
        secret=pii_key(settings.drift, os.environ),
        partitions=broker.partitions(drift_topics(settings).samples),
        max_bytes=MAX_RECORD_BYTES,
        owned_share=assignment.share_of(sum(map(broker.partitions, settings.input.topics))),
    )


def _stages(settings: PipelineSettings, engine: Engine, identity: ModelIdentity, metrics: WorkerMetrics) -> Stages:
    nothing = _NothingKnown()
    model = LoadedModel(
        name=identity.name,
        version=identity.version,
        enricher=FeatureEnricher(settings.features, engine.signature),
        infer=InferStage(engine, nothing, nothing, BatchBound()),
        encoder=JsonPredictionEncoder(settings.output, engine.signature.outputs),
        metrics=metrics,
    )
    return Stages(
        decoder=build_decoder(settings),
        deployments=Fixed(single(model)),
        reject_encoders=lambda model: DeadLetterEncoder(
            settings.dead_letter.topic, settings.pipeline, MAX_RECORD_BYTES, model
        ),
        max_output_bytes=MAX_RECORD_BYTES,
        sampled=settings.drift is not None,
    )
