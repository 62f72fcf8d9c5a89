"""The seams of a worker: Protocols whose docstrings are the contract.

Each port has an adapter for the real thing and an in-memory twin in `streamserve.testing`; one suite per port in
`tests/contract/` runs against both. Ports know batches and errors, nothing of Kafka, Redis or ONNX.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from streamserve.batch import (
    CacheBatch,
    EventBatch,
    FeatureBatch,
    OutboundBatch,
    Positions,
    PredictionBatch,
    RecordBatch,
    Reject,
    Tensors,
    TopicPartition,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """One input or output of a model: numpy dtype name (`float32`, `int64`, `bool`, `str`) and shape, -1 = any."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        """Dtype and shape as people write them: `float32[batch, 16]`."""
        axes = ["batch", *("any" if axis < 0 else str(axis) for axis in self.shape[1:])]
        return f"{self.dtype}[{', '.join(axes)}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What a model takes and gives; the first axis of every shape is the batch."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class AssignmentListener(Protocol):
    """Told by the source, on the poll thread and inside `poll`, about partitions coming and going."""

    def on_assigned(self, partitions: Sequence[TopicPartition]) -> None:
        """These partitions are ours now."""
        ...

    def on_revoked(self, partitions: Sequence[TopicPartition]) -> None:
        """These are about to leave; what is in flight of them may still be committed before this returns."""
        ...

    def on_lost(self, partitions: Sequence[TopicPartition]) -> None:
        """These are gone already; nothing of them may be committed."""
        ...


class Source(Protocol):
    """Where records come from. Every method is called by the poll thread alone, `metadata` excepted.

    A source keeps a `pipeline.Assignment` up to date: it assigns, leaves, notes what it delivered and rewinds.
    Guarantees: the order within a partition is kept; a record is handed out once per epoch of its partition; `poll`
    never blocks longer than `timeout_s` plus the listener's own time.
    """

    @property
    def metadata(self) -> object:
        """Newest published group metadata, an opaque token for `Transaction.commit`. Any thread."""
        ...

    def open(self, listener: AssignmentListener) -> None:
        """Connect and join the group. Raises: BrokerUnavailable, SourceError."""
        ...

    def poll(self, max_records: int, timeout_s: float) -> RecordBatch | None:
        """At most `max_records` records, or None when there are none in time. Raises: SourceError."""
        ...

    def pause(self) -> None:
        """Stop fetching; `poll` must still be called and then returns None. Idempotent."""
        ...

    def resume(self) -> None:
        """Undo `pause`. Idempotent."""
        ...

    def rewind(self, *, reread: bool) -> bool:
        """Give every owned partition a new epoch and go back to its last committed position.

        Args:
            reread: ask the group for the committed positions first, because the outcome of a commit is not known.

        Returns:
            Whether the group had more committed than was known here.
        """
        ...

    def commit(self, positions: Positions) -> None:
        """Commit these positions itself (at least once). Raises: SourceError, retryable when a rebalance is why."""
        ...

    def close(self) -> None:
        """Leave the group. Idempotent, bounded in time."""
        ...


class Transaction(Protocol):
    """One atomic unit of output. Used by one thread at a time, in the order add*, flush, commit.

    One that is given up, at any point, ends with `Sink.recover`.
    """

    def add(self, outbound: OutboundBatch) -> None:
        """Produce these records. Raises: SinkError."""
        ...

    def flush(self) -> None:
        """Wait until the brokers have every record added. Raises: SinkError."""
        ...

    def commit(self, positions: Positions, metadata: object) -> None:
        """Make all of it visible and `positions` the group's, durably, or raise. Raises: SinkError, Fenced."""
        ...


class Sink(Protocol):
    """Where predictions and dead letters go."""

    def open(self) -> None:
        """Connect and fence earlier lives of this slot; again does nothing. Raises: BrokerUnavailable, SinkError."""
        ...

    def begin(self, timeout_s: float) -> Transaction | None:
        """A transaction to write into; None when none became free in time, or when it takes I/O and there is none."""
        ...

    def recover(self) -> bool:
        """End what was begun and not committed: every transaction handed out is void, and new ones can begin.

        Returns: whether it is certain that none of them took effect. If not, only the group knows its positions.

        Raises: SinkError (not retryable) when it cannot.
        """
        ...

    def close(self) -> None:
        """Release the clients. Idempotent, bounded in time."""
        ...


class Decoder(Protocol):
    """Records to events. Pure; never raises for what a record holds.

    Law: every row of the batch is either in the EventBatch or in exactly one Reject (stage `decode`), for any bytes,
    within time and memory proportional to the batch.
    """

    def decode(self, records: RecordBatch) -> tuple[EventBatch, list[Reject]]: ...


class Enricher(Protocol):
    """Events to model inputs by the feature spec. Law as for Decoder, with stage `enrich`."""

    def enrich(self, events: EventBatch) -> tuple[FeatureBatch, list[Reject]]: ...


class Engine(Protocol):
    """A runtime with a loaded model.

    `infer` is pure: outputs have the batch's length and order, and a row's output does not depend on the others
    (beyond the runtime's own rounding by batch size).
    """

    @property
    def signature(self) -> Signature: ...

    @property
    def provider(self) -> str:
        """The execution provider really in use, such as `CPUExecutionProvider`."""
        ...

    def infer(self, inputs: Tensors) -> Tensors:
        """Raises: EngineOutOfMemory, EngineError."""
        ...

    def warm(self, sizes: Sequence[int]) -> None:
        """Run every batch size once, so that no event pays for a first use."""
        ...

    def close(self) -> None: ...


class Encoder(Protocol):
    """Predictions to records. Law as for Decoder, with stage `encode` (or `infer` for outputs that are not finite)."""

    def encode(self, predictions: PredictionBatch) -> tuple[OutboundBatch, list[Reject]]: ...


class RejectEncoder(Protocol):
    """Rejects to dead letters. Never fails: what cannot be carried is described instead."""

    def encode(self, records: RecordBatch, rejects: Sequence[Reject]) -> OutboundBatch: ...


class Cache(Protocol):
    """The prediction cache: per key only the newest version stays, whatever order writes come in."""

    def write(self, entries: CacheBatch) -> int:
        """Write what is newer than what is there. Returns: entries written. Raises: CacheError."""
        ...

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The documents of `keys`, None where there is none. Raises: CacheError."""
        ...

    def close(self) -> None: ...


class ModelFiles(Protocol):
    """One version of a model as found in a repository."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def sha256(self) -> str:
        """Digest of the model file, hexadecimal."""
        ...

    @property
    def path(self) -> str:
        """The model file."""
        ...

    @property
    def size_bytes(self) -> int:
        """Of the model file and whatever it loads beside."""
        ...

    @property
    def signature(self) -> Signature:
        """Inputs and outputs, by the file itself or by what was declared of it."""
        ...


class ModelStore(Protocol):
    """A repository of models."""

    def resolve(self, name: str, version: str) -> ModelFiles:
        """The version that `version` (`latest`, a number, an alias) means, digests checked.

        Raises: ModelNotFound, ModelCorrupt.
        """
        ...
