"""What stands beside the line while versions change: the shadow lane, and the guard of a canary."""

from __future__ import annotations

from collections.abc import Callable

from streamserve.clock import Clock
from streamserve.config.drift_topics import drift_topics
from streamserve.config.rollout_topics import rollout_topics
from streamserve.config.settings import PipelineSettings
from streamserve.kafka.facts import TopicFacts
from streamserve.pipeline.agreement import Agreement
from streamserve.pipeline.infer import Journal, Suspects
from streamserve.telemetry.logs import Log
from streamserve.telemetry.versions import VersionMetrics
from streamserve.worker.guard import Alerts, WorkerGuard, Writers
from streamserve.worker.shadow import ShadowLane, ShadowSink


def build_lane(
    settings: PipelineSettings,
    sink: ShadowSink,
    *,
    journal: Journal,
    quarantine: Suspects,
    behind: Callable[[], bool],
    log: Log,
    crashed: bool = False,
) -> ShadowLane:
    """The shadow lane of a slot; see there."""
    return ShadowLane(
        sink=sink,
        topic=rollout_topics(settings).shadow,
        agreement=Agreement.of(settings.output),
        journal=journal,
        quarantine=quarantine,
        max_rows=settings.engine.max_batch_size,
        behind=behind,
        log=log,
        crashed=crashed,
    )


def build_guard(
    settings: PipelineSettings, writers: Writers, alerts: Alerts, metrics: VersionMetrics, clock: Clock, log: Log
) -> WorkerGuard | None:
    """The guard of a slot, when there is one."""
    if settings.rollout is None or settings.rollout.guard is None:
        return None
    return WorkerGuard(
        settings.rollout.guard,
        pipeline=settings.pipeline,
        model=settings.model.name,
        writers=writers,
        alerts=alerts if settings.drift is not None else None,
        metrics=metrics,
        clock=clock,
        log=log,
    )


def kafka_shadow_sink(settings: PipelineSettings, facts: TopicFacts, log: Log) -> ShadowSink:
    """Where a shadow's predictions go."""
    from streamserve.kafka.clients import producer_properties
    from streamserve.kafka.shadow_sink import KafkaShadowSink, shadow_properties

    limit = facts.max_bytes[rollout_topics(settings).shadow]
    return KafkaShadowSink(shadow_properties(producer_properties(settings, max_batch_bytes=limit)), log)


def kafka_guard(settings: PipelineSettings, metrics: VersionMetrics, clock: Clock, log: Log) -> WorkerGuard | None:
    """The guard of a slot, on the topics of its pipeline."""
    from streamserve.kafka.clients import reader_properties
    from streamserve.kafka.reading import read_topic
    from streamserve.kafka.rollout_topic import RolloutWriter

    properties = reader_properties(settings, group=f"{settings.pipeline}.guard")
    topic = drift_topics(settings).alerts
    return build_guard(
        settings,
        writers=lambda: RolloutWriter(settings),
        alerts=lambda since_ms, stop: (
            record.value for record in read_topic(properties, topic, since_ms, follow=True, stop=stop)
        ),
        metrics=metrics,
        clock=clock,
        log=log,
    )
