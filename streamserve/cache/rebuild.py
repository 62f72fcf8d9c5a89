"""The whole cache from the prediction topic again, however it was lost.

Reads the topic from the beginning (or from given positions or a time) to its end at the start, committed
records only, and writes every prediction by the same compare-and-set as the workers do. So it may run beside
them, twice, in parts and in any order, and the outcome is the same: the newest prediction of every key. The
time to live starts anew for what was missing. At the end the repair markers say what is complete.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from streamserve.batch import CacheBatch, Positions, TopicPartition
from streamserve.cache.breaker import Backoff
from streamserve.cache.prediction_log import PredictionLog, ranges_from
from streamserve.errors import CacheError, SourceError

MAX_RECORDS = 2000
"""Most records of one poll."""
TRIES = 6
"""How often a write is tried before the rebuild gives up; waits of 0.1 to 1.6 s lie between."""


class MarkedCache(Protocol):
    """A cache that also keeps repair markers (`RedisCache`, `testing.MemoryCache`)."""

    def write(self, entries: CacheBatch) -> int: ...

    def read_marks(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]: ...

    def write_marks(self, marks: Positions) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RebuildReport:
    """What a rebuild did.

    Attributes:
        topic: the prediction topic.
        partitions: of it.
        records: read.
        written: entries written.
        current: entries that the cache had already, or newer ones; those superseded
            within the same poll too.
        skipped: records that gave no entry, by reason (`tombstone`, `foreign`, `no_entity`).
        records_expected: offsets in the ranges that were to be read; gaps and markers count.
        seconds: it took.
    """

    topic: str
    partitions: int = 0
    records: int = 0
    written: int = 0
    current: int = 0
    skipped: Mapping[str, int]
    records_expected: int = 0
    seconds: float = 0.0


def rebuild(
    log: PredictionLog,
    cache: MarkedCache,
    *,
    start: Mapping[TopicPartition, int] | int | None = None,
    progress: Callable[[RebuildReport], None] | None = None,
    stall_s: float = 120.0,
) -> RebuildReport:
    """Write everything of the log into the cache; closes neither.

    Args:
        log: the prediction topic.
        cache: where to.
        start: None for the beginning, positions per partition, or a time in epoch milliseconds.
        progress: told after every poll.
        stall_s: give up after so long without a record; longer than `transaction.timeout.ms`.

    Raises:
        SourceError, BrokerUnavailable: the topic cannot be read.
        CacheError: the cache stayed away.
    """
    began_s = last_s = time.monotonic()
    ranges = ranges_from(log, log.partitions(), start)
    expected = sum(end - first for first, end in ranges.values())
    skipped: Counter[str] = Counter()
    records = written = 0

    def report() -> RebuildReport:
        return RebuildReport(
            topic=log.topic,
            partitions=len(ranges),
            records=records,
            written=written,
            current=records - written - skipped.total(),
            skipped=dict(skipped),
            records_expected=expected,
            seconds=time.monotonic() - began_s,
        )

    log.read(ranges)
    while len(log.finished) < len(ranges):
        before = dict(log.positions)
        chunk = log.poll(MAX_RECORDS, 0.5)
        records += chunk.records
        skipped.update(chunk.skipped)
        written += _write(cache, chunk.entries)
        if log.positions != before:
            last_s = time.monotonic()
        elif time.monotonic() - last_s > stall_s:
            raise SourceError(
                f"{log.topic} gave nothing for {stall_s:g} s; are its brokers up, or is a transaction left open?",
                topic=log.topic,
            )
        if progress is not None:
            progress(report())
    if start is None:
        cache.write_marks({tp: ranges[log.home(tp)][1] for tp in log.sources()})
    return report()


def _write(cache: MarkedCache, entries: CacheBatch) -> int:
    backoff = Backoff(jitter=0.0)
    for failures in range(1, TRIES + 1):
        try:
            return cache.write(entries) if len(entries) else 0
        except CacheError as error:
            if failures == TRIES or not error.retryable:
                raise
            time.sleep(backoff.first_s * 2.0 ** (failures - 1))
    raise AssertionError("the loop returns or raises")
