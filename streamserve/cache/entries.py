"""Cache entries from predictions: which document under which key with which version.

Sits between the commit and the cache: the worker calls `EntryMaker.make` with what it has just committed.
Owns the choice of the version (`cache.order`) and the coalescing of a batch to the newest entry per key; does
no I/O.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, cast

from streamserve.batch import CacheBatch, EventBatch, OutboundBatch
from streamserve.cache.keys import event_time_versions, offset_versions

Order = Literal["offset", "event_time"]


class EntryMaker:
    """Makes cache entries of committed predictions.

    Args:
        order: `cache.order` of the settings.
        partition_count: current number of partitions of an input topic (asked once a batch).
    """

    def __init__(self, order: Order, partition_count: Callable[[str], int]) -> None:
        self._by_offset = order == "offset"
        self._partition_count = partition_count

    def make(self, events: EventBatch, outbound: OutboundBatch) -> CacheBatch:
        """The entries of the records in `outbound` that have an entity key, newest per key.

        Args:
            events: the events that the predictions were made of.
            outbound: the prediction records as committed; rows are rows of `events.origin`.
        """
        rows, entities = outbound.row, events.entity
        if rows == events.row and None not in entities and None not in outbound.value:
            keys, documents = cast("list[bytes]", entities), cast("list[bytes]", outbound.value)
            versions = self._versions(events, rows, events.event_time_ms)
            return newest(CacheBatch(row=rows, key=keys, version=versions, document=documents))
        return self._make_some(events, outbound)

    def _make_some(self, events: EventBatch, outbound: OutboundBatch) -> CacheBatch:
        """Entries where rows were rejected after decoding, or have no entity key."""
        entity_of = dict(zip(events.row, zip(events.entity, events.event_time_ms, strict=True), strict=True))
        kept = [
            (row, entity, time, document)
            for row, document in zip(outbound.row, outbound.value, strict=True)
            if document is not None
            for entity, time in (entity_of[row],)
            if entity is not None
        ]
        if not kept:
            return CacheBatch(row=[], key=[], version=[], document=[])
        rows, keys, times, documents = (list(column) for column in zip(*kept, strict=True))
        batch = CacheBatch(row=rows, key=keys, version=self._versions(events, rows, times), document=documents)
        return newest(batch)

    def _versions(self, events: EventBatch, rows: list[int], times: list[int]) -> list[bytes]:
        origin = events.origin
        offsets = origin.offset if len(rows) == len(origin) else [origin.offset[row] for row in rows]
        if self._by_offset:
            topics = set(origin.topic)
            if len(topics) == 1:
                return offset_versions(self._partition_count(topics.pop()), offsets)
            counts = {topic: self._partition_count(topic) for topic in topics}
            return [
                offset_versions(counts[origin.topic[row]], (offset,))[0]
                for row, offset in zip(rows, offsets, strict=True)
            ]
        return event_time_versions(
            times, [origin.topic[row] for row in rows], [origin.partition[row] for row in rows], offsets
        )


def newest(entries: CacheBatch) -> CacheBatch:
    """The batch with the newest entry of every key only; the batch itself when its keys are all different."""
    keys = entries.key
    if len(set(keys)) == len(keys):
        return entries
    best: dict[bytes, int] = {}
    versions = entries.version
    for index, key in enumerate(keys):
        known = best.get(key)
        if known is None or versions[index] > versions[known]:
            best[key] = index
    return entries.take(list(best.values()))
