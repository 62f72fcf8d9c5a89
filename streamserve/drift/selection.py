"""Which rows of a transaction's batches are sampled, and which part of the input the batches cover.

While several versions answer, a batch of records comes as several batches of samples, one a version. Each covers all of
the records, since marks are kept per version and the next chunk of it continues there; what was consumed is told by
that version alone which the record went to.

The draws of all rows are computed at once, when the transaction is complete: with one call a batch they cost three
times as much, because numpy's own code leaves the processor's caches in between. For the same reason the offsets of a
batch that has no gaps are not read but counted.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple, TypeVar

import numpy as np

from streamserve.batch import I64, U64, Positions, RecordBatch, SampleBatch, TopicPartition
from streamserve.drift.chunk import Span
from streamserve.drift.levels import draws, kept, stream_seed

K = TypeVar("K", bound=Hashable)
Spans = dict[TopicPartition, Span]


class Selection(NamedTuple):
    """What is sampled of one batch.

    Attributes:
        batch: the batch.
        spans: what it covers, per partition that is still ours.
        rows: sampled rows of its records, ascending.
    """

    batch: SampleBatch
    spans: Spans
    rows: Sequence[int]


class Selector:
    """Selects rows; keeps the seed of every partition met so far. Used by one flush thread."""

    def __init__(self) -> None:
        self._seeds: dict[TopicPartition, int] = {}

    def select(self, batches: Sequence[SampleBatch], level: int) -> list[Selection]:
        """What is sampled of each batch when about one row in 2^level is."""
        records = origins(batches)
        ends = [each.next_positions() for each in records]
        rows: Sequence[Sequence[int]] = [batch.row for batch in batches]
        if level:
            drawn = dict(zip(map(id, records), self._drawn(records, ends, level), strict=True))
            rows = [_predicted(batch, drawn[_origin(batch)]) for batch in batches]
        if any(batch.gone for batch in batches):
            rows = [_ours(batch, mine) for batch, mine in zip(batches, rows, strict=True)]
        end = dict(zip(map(id, records), ends, strict=True))
        return [
            Selection(batch, _spans(batch, end[_origin(batch)]), mine)
            for batch, mine in zip(batches, rows, strict=True)
        ]

    def _drawn(self, records: Sequence[RecordBatch], ends: Sequence[Positions], level: int) -> list[list[int]]:
        """The rows of each batch of records that belong to the level."""
        sizes = [len(each) for each in records]
        starts = list(accumulate(sizes, initial=0))
        drawn = draws(self._seeds_of(records, ends, sizes, starts), _offsets(records, ends, sizes, starts))
        rows = kept(drawn, level)
        edges = np.searchsorted(rows, starts).tolist()
        found = rows.tolist()
        return [
            [row - start for row in found[begin:end]]
            for start, (begin, end) in zip(starts, pairwise(edges), strict=False)
        ]

    def _seeds_of(
        self, records: Sequence[RecordBatch], ends: Sequence[Positions], sizes: list[int], starts: list[int]
    ) -> U64:
        """The seed of every row of these batches, most of which are of one partition each."""
        seeds = np.repeat(np.array([self._seed(next(iter(each))) for each in ends], dtype=np.uint64), sizes)
        for number, each in enumerate(ends):
            if len(each) > 1:
                seeds[starts[number] : starts[number + 1]] = self._mixed_seeds(records[number], each)
        return seeds

    def _mixed_seeds(self, records: RecordBatch, ends: Positions) -> U64:
        """The seed of every row of a batch of several partitions."""
        if _one_topic(ends):
            table = np.zeros(max(place.partition for place in ends) + 1, dtype=np.uint64)
            for place in ends:
                table[place.partition] = self._seed(place)
            seeds: U64 = table[np.array(records.partition)]
            return seeds
        places = map(TopicPartition, records.topic, records.partition)
        return np.fromiter(map(self._seed, places), np.uint64, len(records))

    def _seed(self, place: TopicPartition) -> int:
        seed = self._seeds.get(place)
        if seed is None:
            seed = self._seeds[place] = stream_seed(place.topic, place.partition)
        return seed


def origins(batches: Iterable[SampleBatch]) -> list[RecordBatch]:
    """The records of the batches in order, each once: several versions may have rows of the same."""
    records = (batch.predictions.events.origin for batch in batches)
    return list({id(each): each for each in records}.values())


def _origin(batch: SampleBatch) -> int:
    return id(batch.predictions.events.origin)


def _offsets(records: Sequence[RecordBatch], ends: Sequence[Positions], sizes: list[int], starts: list[int]) -> I64:
    """The offset of every row of these batches."""
    before = [each.offset[0] - start for each, start in zip(records, starts, strict=False)]
    offset = np.arange(starts[-1]) + np.repeat(np.array(before, dtype=np.int64), sizes)
    for number, mine in enumerate(records):
        if len(ends[number]) > 1 or mine.offset[-1] - mine.offset[0] >= sizes[number]:
            offset[starts[number] : starts[number + 1]] = mine.offset
    return offset


def _predicted(batch: SampleBatch, rows: list[int]) -> Sequence[int]:
    """Those of the rows whose predictions are produced."""
    predicted = batch.row
    if len(predicted) == len(batch.predictions.events.origin):
        return rows
    last = len(predicted)
    return [row for row in rows if (at := bisect_left(predicted, row)) < last and predicted[at] == row]


def _ours(batch: SampleBatch, rows: Sequence[int]) -> Sequence[int]:
    """Those of the rows whose partition is still ours."""
    origin = batch.predictions.events.origin
    return [row for row in rows if (origin.topic[row], origin.partition[row]) not in batch.gone]


def _spans(batch: SampleBatch, ends: Positions) -> Spans:
    """First offset, end and count of each partition of the batch's records that is still ours."""
    records, routed = batch.predictions.events.origin, batch.routed
    if len(ends) == 1:
        count = len(records) if routed is None else len(routed)
        found = [Span(p.topic, p.partition, records.offset[0], end, count) for p, end in ends.items()]
    elif _one_topic(ends):
        numbers = records.partition
        first, counts = _first(numbers, records.offset), _count(numbers, routed)
        found = [Span(p.topic, p.partition, first[p.partition], end, counts[p.partition]) for p, end in ends.items()]
    else:
        places = list(zip(records.topic, records.partition, strict=True))
        first_of, count_of = _first(places, records.offset), _count(places, routed)
        found = [Span(p.topic, p.partition, first_of[p], end, count_of[p]) for p, end in ends.items()]
    return {place: span for place, span in zip(ends, found, strict=True) if place not in batch.gone}


def _one_topic(ends: Positions) -> bool:
    return len({place.topic for place in ends}) == 1


def _first(places: list[K], offset: list[int]) -> dict[K, int]:
    """The first offset of each place."""
    return dict(zip(reversed(places), reversed(offset), strict=True))


def _count(places: list[K], routed: list[int] | None) -> Counter[K]:
    """How many records of each place, or of its records that went to one model."""
    return Counter(places if routed is None else [places[row] for row in routed])
