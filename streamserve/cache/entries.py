"""Cache entries from predictions: which document under which key with which version.

Sits between the commit and the cache: the worker calls `EntryMaker.make` with what it has just committed.
Owns the choice of the version (`cache.order`) and the coalescing of a batch to the newest entry per key; does
no I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, TypeVar, cast

from streamserve.batch import CacheBatch, EventBatch, OutboundBatch, RecordBatch
from streamserve.cache.keys import event_time_versions, offset_version, offset_versions

Order = Literal["offset", "event_time"]
T = TypeVar("T")


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
            return self._newest(events.origin, rows, keys, events.event_time_ms, documents)
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
        return self._newest(events.origin, rows, keys, times, documents)

    def _newest(
        self, origin: RecordBatch, rows: list[int], keys: list[bytes], times: list[int], documents: list[bytes]
    ) -> CacheBatch:
        """The newest entry per key of these rows; versions are made of as few as possible."""
        places = origin.next_positions()
        topics = {place.topic for place in places}
        if self._by_offset and len(topics) == 1:
            latest = dict(zip(keys, range(len(keys)), strict=True))  # offsets of a partition ascend: the last one
            if len(latest) < len(keys):
                if len(places) > 1:
                    latest = _greatest(keys, _picked(origin.offset, rows))
                rows, keys, documents = _at(rows, latest.values()), list(latest), _at(documents, latest.values())
            versions = offset_versions(self._partition_count(topics.pop()), _picked(origin.offset, rows))
            return CacheBatch(row=rows, key=keys, version=versions, document=documents)
        versions = self._versions(origin, rows, times)
        return newest(CacheBatch(row=rows, key=keys, version=versions, document=documents))

    def _versions(self, origin: RecordBatch, rows: list[int], times: list[int]) -> list[bytes]:
        offsets = _picked(origin.offset, rows)
        if not self._by_offset:
            return event_time_versions(times, _picked(origin.topic, rows), _picked(origin.partition, rows), offsets)
        counts = {topic: self._partition_count(topic) for topic in set(origin.topic)}
        return [
            offset_version(counts[topic], offset)
            for topic, offset in zip(_picked(origin.topic, rows), offsets, strict=True)
        ]


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


def _greatest(keys: list[bytes], offsets: list[int]) -> dict[bytes, int]:
    """Where the entry of each key with the greatest offset stands; the first one of equals."""
    order = sorted(range(len(keys)), key=offsets.__getitem__, reverse=True)[::-1]
    return dict(zip(_at(keys, order), order, strict=True))


def _picked(column: list[T], rows: list[int]) -> list[T]:
    """The items of a column of the origin at `rows`, no row twice; the column itself when that is all of it."""
    return column if len(rows) == len(column) else _at(column, rows)


def _at(column: list[T], places: Iterable[int]) -> list[T]:
    return [column[place] for place in places]
