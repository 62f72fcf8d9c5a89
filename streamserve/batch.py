"""The data that flows through a worker, one batch of columns at a time.

    poll -> RecordBatch -> decode -> EventBatch -> enrich -> FeatureBatch -> infer -> PredictionBatch
         -> encode -> OutboundBatch -> transaction

Every type is a frozen set of columns of equal length. Columns that Kafka's client hands over and takes back one by
one (keys, values, offsets) are Python lists; columns that are computed on are numpy arrays. A row that cannot go on
leaves sideways as a `Reject`, a value and not an exception; whoever finds rejects returns them beside the rows that
survive, and the origin row keeps its place: `EventBatch.row[i]` is the row of `origin` that event `i` came from.

This module knows neither Kafka nor configuration nor threads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, chain
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from streamserve.columns import HeaderRows, joined, kind

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]
Tensor = npt.NDArray[np.generic]
"""Any numpy array; tensors are C-contiguous with the batch as first axis."""
Tensors = dict[str, Tensor]
Header = tuple[str, bytes | None]
Headers = list[Header]

Stage = Literal["poll", "decode", "enrich", "infer", "encode"]
Reason = Literal[
    "decode",
    "schema",
    "missing_feature",
    "out_of_range",
    "non_finite",
    "transform",
    "infer",
    "encode",
    "too_large",
    "too_late",
]
ENTITY_HEADER = "streamserve.entity"
"""Header of a prediction with the entity key, written when that is not the record's key (`input.key` is set): without
it the cache could not be rebuilt from the topic."""

CloseReason = Literal["size", "bytes", "deadline", "delay", "idle", "epoch"]
"""What ended a batch's growth: it is full, or has no time for more, or the engine was free, or its neighbour has other
epochs."""


class TopicPartition(NamedTuple):
    """A partition of a topic."""

    topic: str
    partition: int


Positions = Mapping[TopicPartition, int]
"""Next offset to read per partition: always the last one done, plus one."""

Epochs = Mapping[TopicPartition, int]
"""Assignment epoch per partition. Never changed in place: a new mapping replaces it when a partition leaves or the
worker rewinds, so that identity (`is`) answers most questions about being current."""


@dataclass(frozen=True, slots=True)
class Reject:
    """A row that cannot become a prediction: it goes to the dead-letter topic.

    Attributes:
        row: row of the `RecordBatch` it came from.
        stage: where it was found.
        reason: one of the fixed reasons, a metric label.
        detail: what a producer needs to mend the event; at most 1 KiB reaches the dead letter.
        feature: the feature at fault, if one is.
    """

    row: int
    stage: Stage
    reason: Reason
    detail: str
    feature: str = ""


def no_headers() -> list[Headers | None]:
    """Header column of a batch none of whose records has headers (an empty list stands for that)."""
    return []


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordBatch:
    """Records as polled, in order per partition.

    Attributes:
        topic, partition, offset, timestamp_ms, key, value: columns of length n; `timestamp_ms` is -1 where the
            broker has none.
        headers: makes the header column when somebody asks for it: length n, or empty when no record has headers.
        epochs: the assignment epochs at poll time (shared, immutable).
        positions: the position after this batch per partition, when the source has it at hand.
        polled_s: monotonic seconds at which the oldest record was polled.
    """

    topic: list[str]
    partition: list[int]
    offset: list[int]
    timestamp_ms: list[int]
    key: list[bytes | None]
    value: list[bytes | None]
    headers: Callable[[], list[Headers | None]] = no_headers
    epochs: Epochs = field(default_factory=dict)
    positions: Positions | None = None
    polled_s: float = 0.0

    def __len__(self) -> int:
        return len(self.value)

    def next_positions(self) -> Positions:
        """The position after this batch, per partition: last offset plus one."""
        if self.positions is not None:
            return self.positions
        return positions_after(self.topic, self.partition, self.offset)

    @staticmethod
    def concat(chunks: Sequence[RecordBatch]) -> RecordBatch:
        """One batch of all chunks, in order. All chunks must share one epochs mapping (the batcher sees to it)."""
        if len(chunks) == 1:
            return chunks[0]

        def headers() -> list[Headers | None]:
            columns = [chunk.headers() for chunk in chunks]
            if not any(columns):
                return []
            return [h for chunk, column in zip(chunks, columns, strict=True) for h in column or [None] * len(chunk)]

        return replace(
            chunks[0],
            topic=[*chain.from_iterable(chunk.topic for chunk in chunks)],
            partition=[*chain.from_iterable(chunk.partition for chunk in chunks)],
            offset=[*chain.from_iterable(chunk.offset for chunk in chunks)],
            timestamp_ms=[*chain.from_iterable(chunk.timestamp_ms for chunk in chunks)],
            key=[*chain.from_iterable(chunk.key for chunk in chunks)],
            value=[*chain.from_iterable(chunk.value for chunk in chunks)],
            headers=headers,
            positions={tp: at for chunk in chunks for tp, at in chunk.next_positions().items()},
        )

    def rows(self, start: int, stop: int) -> RecordBatch:
        """The contiguous rows from `start` up to `stop`, as a batch of its own."""
        part = slice(start, stop)
        topic, partition, offset = self.topic[part], self.partition[part], self.offset[part]
        return replace(
            self,
            topic=topic,
            partition=partition,
            offset=offset,
            timestamp_ms=self.timestamp_ms[part],
            key=self.key[part],
            value=self.value[part],
            headers=HeaderRows.of(self.headers, start, stop),
            positions=positions_after(topic, partition, offset),
        )


def positions_after(topic: Sequence[str], partition: Sequence[int], offset: Sequence[int]) -> Positions:
    """The position after these rows, per partition: last offset plus one."""
    if topic and topic.count(topic[0]) == len(topic):
        last = dict(zip(partition, offset, strict=True))
        return {TopicPartition(topic[0], number): end + 1 for number, end in last.items()}
    ends = dict(zip(zip(topic, partition, strict=True), offset, strict=True))
    return {TopicPartition(*place): end + 1 for place, end in ends.items()}


Column = Tensor | list[str | None]
"""One field of all events: a numpy array (NaN = missing in float columns), or strings with None = missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventBatch:
    """Decoded events, m of the origin's n records.

    Attributes:
        origin: the records.
        row: int per event, its row in `origin`, ascending.
        id: event id per event (default `topic-partition-offset`).
        entity: entity key per event, or None where there is none.
        event_time_ms: epoch milliseconds per event.
        fields: name -> column of length m. Numeric columns are float64 or int64 arrays in which NaN stands for
            missing, string columns are lists in which None does. A vector field is float32[m, size], a sequence
            object[m] of arrays, None where it is missing.
    """

    origin: RecordBatch
    row: list[int]
    id: list[str]
    entity: list[bytes | None]
    event_time_ms: list[int]
    fields: Mapping[str, Column]

    def __len__(self) -> int:
        return len(self.row)

    @staticmethod
    def concat(parts: Sequence[EventBatch]) -> EventBatch:
        """One batch of all events, of the records of all of them, in order.

        The columns must be of the same kinds, part by part; a decoder may give another kind of column for numbers with
        gaps, so whoever joins batches asks `alike` first.
        """
        if len(parts) == 1:
            return parts[0]
        starts = accumulate((len(part.origin) for part in parts), initial=0)
        return EventBatch(
            origin=RecordBatch.concat([part.origin for part in parts]),
            row=[row + start for part, start in zip(parts, starts, strict=False) for row in part.row],
            id=[x for part in parts for x in part.id],
            entity=[x for part in parts for x in part.entity],
            event_time_ms=[x for part in parts for x in part.event_time_ms],
            fields={name: joined([part.fields[name] for part in parts]) for name in parts[0].fields},
        )

    def alike(self, other: EventBatch) -> bool:
        """Whether the columns of both can be joined."""
        return self.fields.keys() == other.fields.keys() and all(
            kind(column) == kind(other.fields[name]) for name, column in self.fields.items()
        )

    def take(self, keep: Sequence[int]) -> EventBatch:
        """The events at the positions `keep` (ascending), columns and all."""
        index = np.asarray(keep, dtype=np.intp)
        return EventBatch(
            origin=self.origin,
            row=[self.row[i] for i in keep],
            id=[self.id[i] for i in keep],
            entity=[self.entity[i] for i in keep],
            event_time_ms=[self.event_time_ms[i] for i in keep],
            fields={
                name: [column[i] for i in keep] if isinstance(column, list) else column[index]
                for name, column in self.fields.items()
            },
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureBatch:
    """Events as the model wants them: `inputs[name]` is array[m, ...], C-contiguous, in the model's dtype.

    A sequence is object[m] of arrays of that dtype, one axis and any length each, until the engine's wrapper pads it.
    """

    events: EventBatch
    inputs: Tensors

    def __len__(self) -> int:
        return len(self.events)

    def take(self, keep: Sequence[int]) -> FeatureBatch:
        """The rows at the positions `keep` (ascending)."""
        index = np.asarray(keep, dtype=np.intp)
        return FeatureBatch(
            events=self.events.take(keep),
            inputs={name: tensor[index] for name, tensor in self.inputs.items()},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelIdentity:
    """Who made a prediction.

    Attributes:
        name, version, sha256: the model.
        role: what it is in the rollout.
        experiment, arm: which side of which A/B test, when one runs.
        told: whether the role is written on predictions though it is `stable`: while more than one version answers.
        fallback: whether the outputs are `engine.fallback`'s, given to a late record in its place.
    """

    name: str
    version: str
    sha256: str = ""
    role: Literal["stable", "canary", "shadow"] = "stable"
    experiment: str = ""
    arm: str = ""
    told: bool = False
    fallback: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionBatch:
    """The model's outputs for m events: `outputs[name]` is array[m, ...]."""

    events: EventBatch
    outputs: Tensors
    model: ModelIdentity
    infer_s: float = 0.0

    def __len__(self) -> int:
        return len(self.events)

    def take(self, keep: Sequence[int]) -> PredictionBatch:
        """The rows at the positions `keep` (ascending)."""
        index = np.asarray(keep, dtype=np.intp)
        return replace(self, events=self.events.take(keep), outputs={k: v[index] for k, v in self.outputs.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboundBatch:
    """Records to be produced to one topic.

    Attributes:
        row: row of the origin `RecordBatch` per record, so that rows of a lost partition can be left out.
        partition: partition number per record (the input's number, modulo the output's partition count at the sink).
        headers: per record, or empty when none has any.
        timestamp_ms: per record, or empty for the time of producing.
    """

    topic: str
    row: list[int]
    partition: list[int]
    key: list[bytes | None]
    value: list[bytes | None]
    headers: list[Headers | None] = field(default_factory=list)
    timestamp_ms: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.value)

    def take(self, keep: Sequence[int]) -> OutboundBatch:
        """The records at the positions `keep`."""
        return OutboundBatch(
            topic=self.topic,
            row=[self.row[i] for i in keep],
            partition=[self.partition[i] for i in keep],
            key=[self.key[i] for i in keep],
            value=[self.value[i] for i in keep],
            headers=[self.headers[i] for i in keep] if self.headers else [],
            timestamp_ms=[self.timestamp_ms[i] for i in keep] if self.timestamp_ms else [],
        )

    @staticmethod
    def concat(parts: Sequence[OutboundBatch]) -> OutboundBatch:
        """All records of batches to one topic, one batch after the other."""
        if len(parts) == 1:
            return parts[0]
        with_headers = any(part.headers for part in parts)
        return OutboundBatch(
            topic=parts[0].topic,
            row=[x for part in parts for x in part.row],
            partition=[x for part in parts for x in part.partition],
            key=[x for part in parts for x in part.key],
            value=[x for part in parts for x in part.value],
            headers=[x for part in parts for x in part.headers or [None] * len(part)] if with_headers else [],
            timestamp_ms=[x for part in parts for x in part.timestamp_ms],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheBatch:
    """Predictions for the cache, newest per key wins.

    Attributes:
        row: row of the origin `RecordBatch` per entry.
        key: entity key per entry.
        version: text that orders the writes of one key (delivery: partition count, then offset, zero-padded).
        document: the prediction's JSON.
    """

    row: list[int]
    key: list[bytes]
    version: list[bytes]
    document: list[bytes]

    def __len__(self) -> int:
        return len(self.key)

    def take(self, keep: Sequence[int]) -> CacheBatch:
        """The entries at the positions `keep`."""
        return CacheBatch(
            row=[self.row[i] for i in keep],
            key=[self.key[i] for i in keep],
            version=[self.version[i] for i in keep],
            document=[self.document[i] for i in keep],
        )

    @staticmethod
    def concat(parts: Sequence[CacheBatch]) -> CacheBatch:
        """All entries, one batch after the other."""
        if len(parts) == 1:
            return parts[0]
        return CacheBatch(
            row=[x for part in parts for x in part.row],
            key=[x for part in parts for x in part.key],
            version=[x for part in parts for x in part.version],
            document=[x for part in parts for x in part.document],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleBatch:
    """A scored batch of which rows are sampled for the drift monitor when its transaction is complete.

    Attributes:
        predictions: events, outputs and who predicted.
        row: rows of the origin whose predictions are produced, ascending.
        routed: rows of the origin that went to this model, predicted or rejected, ascending; None: all of them.
        gone: partitions that are no longer ours; their rows are not sampled.
    """

    predictions: PredictionBatch
    row: list[int]
    routed: list[int] | None = None
    gone: frozenset[TopicPartition] = frozenset()

    def without(self, stale: set[TopicPartition]) -> SampleBatch:
        """The same less the rows of these partitions."""
        return replace(self, gone=self.gone | stale)


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRecords:
    """Sample chunks of one transaction, ready to be produced.

    Attributes:
        outbound: the records.
        rows: sampled rows in them.
        left_out: sampled rows that were too large for the topic, each by itself.
        level: about one row in 2^level was sampled.
    """

    outbound: OutboundBatch
    rows: int
    left_out: int
    level: int
