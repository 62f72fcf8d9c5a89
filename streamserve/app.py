"""The composition root: settings to objects. The only module that names adapters.

Reads top-down like the start of a slot: port for probes, model, features, topics, then the worker. Whatever does not
fit is found here, before the group is joined, and ends the process with one message and the exit code of its kind.
"""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from streamserve.batch import ModelIdentity
from streamserve.clock import Clock, SystemClock
from streamserve.config.drift_topics import drift_topics
from streamserve.config.settings import PipelineSettings
from streamserve.kafka.facts import TopicFacts, topic_facts
from streamserve.kafka.source import KafkaSource, KafkaStatistics
from streamserve.pipeline.assignment import Assignment
from streamserve.pipeline.batcher import Batcher
from streamserve.pipeline.infer import InferStage
from streamserve.pipeline.poison import BatchBound
from streamserve.pipeline.ratio import RejectRatio
from streamserve.pipeline.serving import Deployments, Fixed, LoadedModel, single
from streamserve.pipeline.stages import Stages
from streamserve.ports import Decoder, Encoder, Engine, ModelFiles, RejectEncoder, Signature, Sink
from streamserve.telemetry.health import Health
from streamserve.telemetry.http import ObservabilityServer
from streamserve.telemetry.logs import Log
from streamserve.telemetry.metadata import ModelMetadata
from streamserve.telemetry.metrics import WorkerMetrics
from streamserve.worker.calls import PollCalls
from streamserve.worker.child import LAST_EXIT_CODE, LAST_EXIT_SIGNAL
from streamserve.worker.journal import CrashJournal
from streamserve.worker.loop import Worker
from streamserve.worker.mailbox import Mailbox
from streamserve.worker.quarantine import Quarantine

if TYPE_CHECKING:
    from streamserve.cache.slot_cache import SlotCache
    from streamserve.drift.sampler import Sampler

MAILBOX_BATCHES = 4
"""Full batches that may wait between poll and compute."""
COMMIT_CALL_TIMEOUT_S = 30.0


class Slot:
    """One worker slot, from settings to a running loop.

    Args:
        settings: the pipeline.
        name: stable name of the slot; part of its transactional ids.
        index: position among the slots of this machine; added to the HTTP port.
    """

    def __init__(self, settings: PipelineSettings, name: str, index: int, log: Log) -> None:
        self._settings = settings
        self._name = name
        self._index = index
        self._log = log
        self._clock: Clock = SystemClock()
        self._worker: Worker | None = None
        self._stopped = False

    def run(self) -> None:
        """Start, work until stopped, drain. Raises: StreamServeError."""
        settings = self._settings
        health = Health(self._clock, stall_s=settings.delivery.stall_s)
        files = resolve_model(settings)
        metrics_registry = CollectorRegistry()
        metrics = WorkerMetrics(metrics_registry, pipeline=settings.pipeline, model=files.name, version=files.version)
        with contextlib.ExitStack() as stack:
            engine = load_engine(settings, files)
            stack.callback(engine.close)
            health.condition("model", met=True)
            metrics.model_loaded(sha256=files.sha256, provider=engine.provider, role="stable")
            metadata = ModelMetadata(
                name=files.name,
                version=files.version,
                inputs=engine.signature.inputs,
                outputs=engine.signature.outputs,
            )
            stack.enter_context(
                ObservabilityServer(
                    settings.http,
                    self._index,
                    health=health,
                    registry=metrics_registry,
                    model=lambda: metadata,
                    log=self._log,
                )
            )
            self._worker = stack.enter_context(self._build(engine, files, metrics, health))
            if not self._stopped:
                self._worker.run()

    def stop(self) -> None:
        """Drain and end. Safe in a signal handler."""
        self._stopped = True
        if self._worker is not None:
            self._worker.stop()

    @contextlib.contextmanager
    def _build(self, engine: Engine, files: ModelFiles, metrics: WorkerMetrics, health: Health) -> Iterator[Worker]:
        from streamserve.codecs import build_decoder
        from streamserve.engines import warm_sizes
        from streamserve.enrich.features import FeatureEnricher

        settings, clock, log = self._settings, self._clock, self._log
        decoder = build_decoder(settings)
        enricher = FeatureEnricher(settings.features, engine.signature)
        facts = topic_facts(settings)
        cache = build_cache(settings, facts, metrics, clock, log)
        health.condition("topics", met=True)
        engine.warm(warm_sizes(settings.engine.max_batch_size))
        health.condition("warm", met=True)

        folder = state_dir(settings)
        quarantine = Quarantine.load(folder, self._name, _last_crash())
        assignment = Assignment(clock)
        calls = PollCalls()
        with CrashJournal(folder, self._name) as journal:
            model = LoadedModel(
                name=files.name,
                version=files.version,
                sha256=files.sha256,
                enricher=enricher,
                infer=InferStage(engine, journal, quarantine, BatchBound()),
                encoder=build_encoder(settings, engine.signature, cache),
                metrics=metrics,
            )
            sampler = build_sampler(settings, facts, files, engine.signature, assignment)
            stages = build_stages(settings, facts, decoder, Fixed(single(model)), cache)
            source = KafkaSource(settings, assignment, clock, log, on_statistics=lambda statistics: report(statistics))  # noqa: PLW0108  defined below, once there is a worker
            worker = Worker(
                source=source,
                sink=build_sink(settings, facts, self._name, folder, source, calls, metrics, clock, log),
                stages=stages,
                assignment=assignment,
                mailbox=Mailbox(build_batcher(settings), clock),
                max_poll=settings.engine.max_batch_size,
                delivery=settings.delivery,
                calls=calls,
                ratio=RejectRatio(settings.dead_letter.max_ratio, settings.dead_letter.ratio_window),
                quarantine=quarantine,
                metrics=metrics,
                health=health,
                clock=clock,
                log=log,
                cache=cache,
                sampler=sampler,
            )

            def report(statistics: KafkaStatistics) -> None:
                worker.statistics(brokers_up=statistics.brokers_up, lag=statistics.lag)

            yield worker


def resolve_model(settings: PipelineSettings) -> ModelFiles:
    """The model version that the settings mean, digests checked."""
    from streamserve.registry.repository import FolderRepository

    return FolderRepository(settings.model.repository).resolve(settings.model.name, str(settings.model.version))


def load_engine(settings: PipelineSettings, files: ModelFiles) -> Engine:
    """The engine with that model."""
    from streamserve.engines import build_engine

    return build_engine(files, settings.engine)


def build_encoder(settings: PipelineSettings, signature: Signature, cache: SlotCache | None) -> Encoder:
    """The encoder of a version's predictions."""
    from streamserve.codecs.prediction import JsonPredictionEncoder

    return JsonPredictionEncoder(
        settings.output,
        signature.outputs,
        entity_header=settings.input.key is not None,
        partition_count=cache.partition_count if cache is not None else None,
    )


def build_stages(
    settings: PipelineSettings, facts: TopicFacts, decoder: Decoder, deployments: Deployments, cache: SlotCache | None
) -> Stages:
    """The compute thread's work, within the limits of the topics."""
    from streamserve.codecs.dead_letter import DeadLetterEncoder

    @functools.cache
    def reject_encoder(model: ModelIdentity) -> RejectEncoder:
        topic = settings.dead_letter.topic
        return DeadLetterEncoder(topic, settings.pipeline, facts.max_bytes[topic], model)

    return Stages(
        decoder=decoder,
        deployments=deployments,
        reject_encoders=reject_encoder,
        max_output_bytes=facts.max_bytes[settings.output.topic],
        cache_entries=cache.entries if cache is not None else None,
        sampled=settings.drift is not None,
    )


def build_sampler(
    settings: PipelineSettings,
    facts: TopicFacts,
    files: ModelFiles,
    signature: Signature,
    assignment: Assignment,
) -> Sampler | None:
    """What takes samples for the drift monitor, when one is configured."""
    if settings.drift is None:
        return None
    from streamserve.config.pii_key import pii_key
    from streamserve.drift.sampler import SampledVersion, Sampler
    from streamserve.registry.references import FolderReferences

    topic = drift_topics(settings).samples
    reference = FolderReferences(settings.model.repository).find(files.name, files.version)
    sampled = SampledVersion(outputs=signature.outputs, reference=reference.hash if reference is not None else "")
    return Sampler.of(
        settings,
        settings.drift,
        lambda _version: sampled,
        secret=pii_key(settings.drift, os.environ),
        partitions=facts.partitions[topic],
        max_bytes=facts.max_bytes[topic],
        owned_share=assignment.share_of(sum(facts.partitions[name] for name in settings.input.topics)),
    )


def build_batcher(settings: PipelineSettings) -> Batcher:
    """The growing batch, with room for a few full ones."""
    engine = settings.engine
    return Batcher(
        max_size=engine.max_batch_size,
        max_bytes=engine.max_batch_bytes,
        max_delay_s=engine.max_delay_ms / 1000,
        capacity=MAILBOX_BATCHES * engine.max_batch_size,
    )


def build_sink(
    settings: PipelineSettings,
    facts: TopicFacts,
    slot: str,
    folder: Path,
    source: KafkaSource,
    calls: PollCalls,
    metrics: WorkerMetrics,
    clock: Clock,
    log: Log,
) -> Sink:
    """The sink of the configured guarantee."""
    from streamserve.kafka.clients import producer_properties

    batch_bytes = min(facts.max_bytes.values())
    if settings.delivery.guarantee == "at_least_once":
        from streamserve.kafka.at_least_once import AtLeastOnceSink

        return AtLeastOnceSink(
            producer_properties(settings, max_batch_bytes=batch_bytes),
            lambda positions: calls.run(
                lambda: source.commit(positions), timeout_s=COMMIT_CALL_TIMEOUT_S, in_rebalance=True
            ),
            log,
        )
    from streamserve.kafka.transactional import TransactionalSink

    ids = [f"{settings.pipeline}.{slot}.{n}" for n in range(settings.delivery.producers)]
    return TransactionalSink(
        lambda name: producer_properties(settings, transactional_id=name, max_batch_bytes=batch_bytes),
        ids,
        clock,
        log,
        orphans=_orphans(folder / f"producers-{slot}", ids),
        on_recycle=lambda _reason: metrics.producer_recycles.inc(),
    )


def _orphans(note: Path, ids: Sequence[str]) -> list[str]:
    """Ids of this slot's earlier life that are no longer in rotation; notes today's for the next life."""
    try:
        before = note.read_text(encoding="utf-8").split()
    except OSError:
        before = []
    fresh = note.with_name(note.name + ".new")
    fresh.write_text("\n".join(ids), encoding="utf-8")
    fresh.replace(note)
    own = ids[0].removesuffix("0")
    return [name for name in before if name not in ids and name.startswith(own)]


def build_cache(
    settings: PipelineSettings, facts: TopicFacts, metrics: WorkerMetrics, clock: Clock, log: Log
) -> SlotCache | None:
    """The cache side of a slot, when one is configured."""
    if settings.cache is None:
        return None
    from streamserve.cache.slot_cache import SlotCache
    from streamserve.kafka.clients import reader_properties

    properties = reader_properties(settings, group=f"{settings.pipeline}.cache")
    return SlotCache(settings, settings.cache, properties, facts.partitions, metrics, clock, log)


def state_dir(settings: PipelineSettings) -> Path:
    """Folder of crash journals, private to this user."""
    default = Path(tempfile.gettempdir()) / f"streamserve-{os.geteuid()}" / settings.pipeline
    folder = Path(settings.state_dir) if settings.state_dir else default
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _last_crash() -> int | None:
    """How the slot's last life ended, as the supervisor tells: minus a signal's number, or an exit code."""
    number, code = os.environ.get(LAST_EXIT_SIGNAL), os.environ.get(LAST_EXIT_CODE)
    return -int(number) if number else int(code) if code else None
