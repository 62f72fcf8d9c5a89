"""The composition root: settings to objects. The only module that names adapters.

Reads top-down like the start of a slot: port for probes, model, features, topics, then the worker. Whatever does not
fit is found here, before the group is joined, and ends the process with one message and the exit code of its kind.
"""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from streamserve.batch import ModelIdentity
from streamserve.clock import Clock, SystemClock
from streamserve.composition.batching import build_batching, in_flight
from streamserve.composition.beside import build_lane, kafka_guard, kafka_shadow_sink
from streamserve.composition.models import ModelBuilder, load_engine, reference_hash, resolve_model
from streamserve.composition.serving import Served, build_follower, build_residency, fixed
from streamserve.config.drift_topics import drift_topics
from streamserve.config.rollout_topics import rollout_topics
from streamserve.config.settings import PipelineSettings
from streamserve.kafka.facts import TopicFacts, topic_facts
from streamserve.kafka.source import KafkaSource
from streamserve.kafka.statistics import KafkaStatistics
from streamserve.pipeline.assignment import Assignment
from streamserve.pipeline.lateness import Lateness
from streamserve.pipeline.ratio import RejectRatio
from streamserve.pipeline.serving import Deployments
from streamserve.pipeline.stages import Stages
from streamserve.ports import Decoder, RejectEncoder, Sink
from streamserve.telemetry.health import Health
from streamserve.telemetry.http import ObservabilityServer
from streamserve.telemetry.logs import Log
from streamserve.telemetry.versions import VersionMetrics
from streamserve.worker.calls import PollCalls
from streamserve.worker.child import LAST_EXIT_CODE, LAST_EXIT_SIGNAL
from streamserve.worker.journal import SHADOW_PREFIX, CrashJournal
from streamserve.worker.load_note import LoadNote
from streamserve.worker.loop import Worker
from streamserve.worker.mailbox import Mailbox
from streamserve.worker.quarantine import Quarantine, shadow_crashed
from streamserve.worker.shadow import ShadowLane
from streamserve.worker.switch_points import SwitchPoints

if TYPE_CHECKING:
    from streamserve.cache.slot_cache import SlotCache
    from streamserve.drift.sampler import Sampler
    from streamserve.engines.residency import Residency
    from streamserve.worker.rollout import RolloutFollower

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
        self._note: LoadNote | None = None
        self._gpu_used: Callable[[], float] | None = None
        self._stopped = False

    def run(self) -> None:
        """Start, work until stopped, drain. Raises: StreamServeError."""
        settings = self._settings
        health = Health(self._clock, stall_s=settings.delivery.stall_s)
        registry = CollectorRegistry()
        metrics = VersionMetrics(registry, pipeline=settings.pipeline, model=settings.model.name)
        served = Served()
        with contextlib.ExitStack() as stack:
            stack.enter_context(
                ObservabilityServer(
                    settings.http,
                    self._index,
                    health=health,
                    registry=registry,
                    models=served.metadata,
                    log=self._log,
                )
            )
            self._worker = stack.enter_context(self._build(metrics, health, served))
            if not self._stopped:
                self._worker.run()

    def stop(self) -> None:
        """Drain and end. Safe in a signal handler."""
        self._stopped = True
        if self._note is not None:
            self._note.stop()
        if self._worker is not None:
            self._worker.stop()

    @contextlib.contextmanager
    def _build(self, metrics: VersionMetrics, health: Health, served: Served) -> Iterator[Worker]:
        from streamserve.codecs import build_decoder
        from streamserve.engines.gpu_memory import gpu_memory

        settings, clock, log = self._settings, self._clock, self._log
        # Found before any broker is asked; the version that will serve, unless a rollout says otherwise.
        files = resolve_model(settings) if settings.rollout is None else None
        decoder = build_decoder(settings)
        facts = topic_facts(settings)
        cache = build_cache(settings, facts, metrics, clock, log)
        health.condition("topics", met=True)

        folder = state_dir(settings)
        self._note = note = LoadNote(folder, self._name, _last_crash())
        if self._stopped:
            note.stop()
        # A load that crashed says nothing of the records that were in the engine meanwhile.
        quarantine = Quarantine.load(folder, self._name, None if note.died_loading else _last_crash())
        assignment = Assignment(clock)
        calls = PollCalls()
        with contextlib.ExitStack() as stack:
            builder = self._builder(stack, folder, quarantine, cache, metrics)
            models = build_residency(settings, builder, note, metrics, log)
            stack.callback(models.close)
            batching = build_batching(settings.engine, metrics, clock, log)
            mailbox = Mailbox(batching.batcher, clock)
            source = KafkaSource(settings, assignment, clock, log, self._report(metrics), self._name)
            sink = build_sink(settings, facts, self._name, folder, source, calls, metrics, clock, log)
            follower, lane = None, None
            if files is not None:
                served.deployments = fixed(models, files.version, metrics)
            else:
                # A former life may have died inside a transaction that hides the end of the rollout topic.
                stack.callback(sink.close)
                sink.open()
                lane = self._shadow_lane(stack, facts, quarantine, folder, mailbox)
                served.deployments = follower = self._follower(stack, models, lane, metrics)
            # A load that a failing worker leaves unfinished is no fault of its version either.
            stack.callback(note.stop)
            health.condition("model", met=True)
            health.condition("warm", met=True)
            stages = build_stages(settings, facts, decoder, served.deployments, cache, batching.lateness, lane)
            self._gpu_used = gpu_memory(served.deployments.current.routes[0].model.infer.engine)
            yield Worker(
                source=source,
                sink=sink,
                stages=stages,
                assignment=assignment,
                mailbox=mailbox,
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
                sampler=build_sampler(settings, facts, builder, assignment),
                rollout=follower,
                slo=batching.slo,
                in_flight=in_flight(settings.engine, served.deployments.current),
                switch_points=SwitchPoints(rollout_topics(settings).control, self._name) if follower else None,
            )

    def _builder(
        self,
        stack: contextlib.ExitStack,
        folder: Path,
        quarantine: Quarantine,
        cache: SlotCache | None,
        metrics: VersionMetrics,
    ) -> ModelBuilder:
        """What makes versions ready to serve, with the slot's crash journal."""
        return ModelBuilder(
            self._settings,
            load=functools.partial(load_engine, self._settings),
            journal=stack.enter_context(CrashJournal(folder, self._name)),
            quarantine=quarantine,
            metrics=metrics,
            partition_count=cache.partition_count if cache is not None else None,
            reference=functools.partial(reference_hash, self._settings) if self._settings.drift is not None else None,
        )

    def _report(self, metrics: VersionMetrics) -> Callable[[KafkaStatistics], None]:
        """Where the client's statistics go, every few seconds."""

        def report(statistics: KafkaStatistics) -> None:
            if self._worker is not None:
                self._worker.statistics(brokers_up=statistics.brokers_up, lag=statistics.lag)
            if self._gpu_used is not None:
                metrics.now.gpu_memory_used_bytes.set(self._gpu_used())

        return report

    def _follower(
        self, stack: contextlib.ExitStack, models: Residency, lane: ShadowLane, metrics: VersionMetrics
    ) -> RolloutFollower:
        """What keeps the slot at what the rollout topic says, started, and the guard beside it."""
        settings, clock, log = self._settings, self._clock, self._log
        guard = kafka_guard(settings, metrics, clock, log)
        follower = build_follower(settings, self._name, models, metrics, clock, log, lane, guard)
        follower.start()
        if guard is not None:
            stack.enter_context(guard)
        return follower

    def _shadow_lane(
        self, stack: contextlib.ExitStack, facts: TopicFacts, quarantine: Quarantine, folder: Path, mailbox: Mailbox
    ) -> ShadowLane:
        """The lane at work, with a journal of its own; ends with the stack."""
        settings, slot, log = self._settings, self._name, self._log
        crashed = shadow_crashed(folder, slot, _last_crash())
        journal = stack.enter_context(CrashJournal(folder, slot, prefix=SHADOW_PREFIX))
        sink = kafka_shadow_sink(settings, facts, log)
        return stack.enter_context(
            build_lane(
                settings,
                sink,
                journal=journal,
                quarantine=quarantine,
                behind=lambda: mailbox.behind,
                log=log,
                crashed=crashed,
            )
        )


def build_stages(
    settings: PipelineSettings,
    facts: TopicFacts,
    decoder: Decoder,
    deployments: Deployments,
    cache: SlotCache | None,
    lateness: Lateness | None,
    shadow: ShadowLane | None,
) -> Stages:
    """The work of whoever scores, within the limits of the topics."""
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
        lateness=lateness,
        shadow=shadow,
        timed=settings.rollout is not None and settings.rollout.guard is not None,
    )


def build_sampler(
    settings: PipelineSettings,
    facts: TopicFacts,
    builder: ModelBuilder,
    assignment: Assignment,
) -> Sampler | None:
    """What takes samples for the drift monitor, when one is configured."""
    if settings.drift is None:
        return None
    from streamserve.config.pii_key import pii_key
    from streamserve.drift.sampler import SampledVersion, Sampler

    topic = drift_topics(settings).samples
    return Sampler.of(
        settings,
        settings.drift,
        lambda version: SampledVersion(outputs=builder.outputs(version), reference=builder.reference(version)),
        secret=pii_key(settings.drift, os.environ),
        partitions=facts.partitions[topic],
        max_bytes=facts.max_bytes[topic],
        owned_share=assignment.share_of(sum(facts.partitions[name] for name in settings.input.topics)),
    )


def build_sink(
    settings: PipelineSettings,
    facts: TopicFacts,
    slot: str,
    folder: Path,
    source: KafkaSource,
    calls: PollCalls,
    metrics: VersionMetrics,
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
        on_recycle=lambda _reason: metrics.now.producer_recycles.inc(),
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
    settings: PipelineSettings, facts: TopicFacts, metrics: VersionMetrics, clock: Clock, log: Log
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
