"""The cache side of one worker slot: entries, queue, repair, put together.

What the worker sees of the cache: `entries` in the compute thread, `offer`, `assigned` and `revoked` from others,
`run` as the body of the cache thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from streamserve.batch import CacheBatch, EventBatch, OutboundBatch, TopicPartition
from streamserve.cache.entries import EntryMaker
from streamserve.cache.prediction_log import PredictionLog
from streamserve.cache.redis_cache import RedisCache
from streamserve.cache.repair import RepairReport, TailRepair
from streamserve.cache.writer import CacheWriter, WriterMetrics
from streamserve.clock import Clock, Deadline
from streamserve.config.settings import CacheSettings, PipelineSettings
from streamserve.telemetry.logs import Log
from streamserve.telemetry.metrics import WorkerMetrics


class SlotCache:
    """Owns writer and repair of a slot.

    Args:
        settings: the pipeline, with its `cache` block.
        cache: that block.
        properties: of the consumer that re-reads predictions.
        partitions: partition count per input topic.
        metrics, log: where writes and outages are told.
    """

    def __init__(
        self,
        settings: PipelineSettings,
        cache: CacheSettings,
        properties: Mapping[str, Any],
        partitions: Mapping[str, int],
        metrics: WorkerMetrics,
        clock: Clock,
        log: Log,
    ) -> None:
        redis = RedisCache(cache, settings.pipeline, on_server_change=lambda: self._repair.request())  # noqa: PLW0108  made below

        def tell(report: RepairReport) -> None:
            log.info("cache_repaired", records=report.records, written=report.written)
            if report.incomplete:
                partitions = [f"{topic}-{number}" for topic, number in report.incomplete]
                log.warning("cache_incomplete", partitions=partitions, remedy="streamserve cache rebuild")

        predictions = PredictionLog(
            properties,
            settings.output.topic,
            group=f"{settings.pipeline}.cache",
            order=cache.order,
            inputs=settings.input.topics,
        )
        self._repair = TailRepair(
            predictions,
            redis,
            clock=clock,
            done=tell,
            failed=lambda error: log.warning("cache_repair_failed", error=error),
        )
        self._writer = CacheWriter(
            redis,
            queue_size=cache.queue_size,
            clock=clock,
            repair=self._repair,
            metrics=WriterMetrics(
                written=metrics.cache_writes.inc,
                skipped=metrics.cache_skipped.inc,
                errors=metrics.cache_errors.inc,
                seconds=metrics.cache_write_seconds.observe,
                failed=lambda error: log.warning("cache_away", error=error),
                healed=lambda: log.info("cache_back"),
            ),
        )
        self._entries = EntryMaker(cache.order, partitions.__getitem__)

    def entries(self, events: EventBatch, outbound: OutboundBatch) -> CacheBatch:
        """Cache entries of encoded predictions."""
        return self._entries.make(events, outbound)

    def offer(self, entries: CacheBatch) -> None:
        """Queue what was committed; never blocks."""
        self._writer.offer(entries)

    def assigned(self, partitions: Sequence[TopicPartition]) -> None:
        """Repair the tail of these."""
        self._repair.assigned(partitions)

    def revoked(self, partitions: Sequence[TopicPartition]) -> None:
        """These are somebody else's."""
        self._repair.revoked(partitions)

    def run(self) -> None:
        """Body of the cache thread."""
        self._writer.run()

    def drain(self, deadline: Deadline) -> bool:
        """Wait until the queue is written."""
        return self._writer.drain(deadline)

    def close(self) -> None:
        """End `run`."""
        self._writer.close()
