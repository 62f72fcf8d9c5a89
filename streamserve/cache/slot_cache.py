"""The cache side of one worker slot: entries, queue, repair, put together.

What the worker sees of the cache: `partition_count` (for the encoder) and `entries` for whoever scores, `offer`,
`assigned`, `revoked` and `request_repair` from others, `run` as the body of the cache thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from streamserve.batch import CacheBatch, EventBatch, OutboundBatch, TopicPartition
from streamserve.cache.entries import EntryMaker
from streamserve.cache.partition_counts import PartitionCounts
from streamserve.cache.prediction_log import PredictionLog
from streamserve.cache.redis_cache import RedisCache
from streamserve.cache.repair import RepairReport, TailRepair
from streamserve.cache.writer import CacheWriter, WriterMetrics
from streamserve.clock import Clock, Deadline
from streamserve.config.settings import CacheSettings, PipelineSettings
from streamserve.telemetry.logs import Log
from streamserve.telemetry.versions import VersionMetrics


class SlotCache:
    """Owns writer and repair of a slot.

    Args:
        settings: the pipeline, with its `cache` block.
        cache: that block.
        properties: of the consumer that re-reads predictions.
        partitions: partition count per input topic at the start; they are asked for again as long as `run` runs.
        metrics, log: where writes and outages are told.
    """

    def __init__(
        self,
        settings: PipelineSettings,
        cache: CacheSettings,
        properties: Mapping[str, Any],
        partitions: Mapping[str, int],
        metrics: VersionMetrics,
        clock: Clock,
        log: Log,
    ) -> None:
        redis = RedisCache(cache, settings.pipeline, on_server_change=lambda: self._repair.request())  # noqa: PLW0108  made below

        def tell(report: RepairReport) -> None:
            log.info(
                "cache_repaired",
                records=report.records,
                written=report.written,
                unfinished=len(report.unfinished),
            )
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
        self._counts = PartitionCounts(partitions, predictions.input_counts, clock)
        self._by_offset = cache.order == "offset"
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
            upkeep=self._counts.refresh if self._by_offset else lambda: None,
            metrics=WriterMetrics(  # the version that is stable changes: none of these can be bound now
                written=lambda count: metrics.now.cache_writes.inc(count),  # noqa: PLW0108
                skipped=lambda count: metrics.now.cache_skipped.inc(count),  # noqa: PLW0108
                errors=lambda count: metrics.now.cache_errors.inc(count),  # noqa: PLW0108
                seconds=lambda seconds: metrics.now.cache_write_seconds.observe(seconds),  # noqa: PLW0108
                failed=lambda error: log.warning("cache_away", error=error),
                healed=lambda: log.info("cache_back"),
            ),
        )
        self._entries = EntryMaker(cache.order, self._counts.of)

    @property
    def partition_count(self) -> Callable[[str], int] | None:
        """Partitions of an input topic, the same until `entries` was called; None where versions do not need it."""
        return self._counts.of if self._by_offset else None

    def entries(self, events: EventBatch, outbound: OutboundBatch) -> CacheBatch:
        """Cache entries of encoded predictions; ends a batch for `partition_count`."""
        made = self._entries.make(events, outbound)
        self._counts.take_up()
        return made

    def offer(self, entries: CacheBatch) -> None:
        """Queue what was committed; never blocks."""
        self._writer.offer(entries)

    def assigned(self, partitions: Sequence[TopicPartition]) -> None:
        """Repair the tail of these."""
        self._counts.request()  # a topic that grew shows itself by a rebalance
        self._repair.assigned(partitions)

    def revoked(self, partitions: Sequence[TopicPartition]) -> None:
        """These are somebody else's."""
        self._repair.revoked(partitions)

    def request_repair(self) -> None:
        """Repair the tail of everything owned: a position moved past predictions that others committed. Any thread."""
        self._repair.request()

    def run(self) -> None:
        """Body of the cache thread."""
        self._writer.run()

    def drain(self, deadline: Deadline) -> bool:
        """Wait until the queue is written."""
        return self._writer.drain(deadline)

    def close(self) -> None:
        """End `run`."""
        self._writer.close()
