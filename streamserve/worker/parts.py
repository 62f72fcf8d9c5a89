"""What the loop needs of the parts around it, each a Protocol: they are made by the composition root."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from streamserve.batch import CacheBatch, Positions, Reject, SampleBatch, SampleRecords, TopicPartition
from streamserve.clock import Deadline
from streamserve.pipeline.stages import ScoredBatch


class Knowledge(Protocol):
    """What crashes taught: kept up to date as records are committed and partitions come over."""

    def forget(self, positions: Positions) -> None: ...
    def reload(self) -> None: ...


class CacheQueue(Protocol):
    """The cache's side of a worker."""

    def offer(self, entries: CacheBatch) -> None: ...
    def request_repair(self) -> None: ...
    def assigned(self, partitions: Sequence[TopicPartition]) -> None: ...
    def revoked(self, partitions: Sequence[TopicPartition]) -> None: ...
    def run(self) -> None: ...
    def drain(self, deadline: Deadline) -> bool: ...
    def close(self) -> None: ...


class Sampler(Protocol):
    """Takes the drift monitor's samples of a transaction's batches and their rejects, at a time on both clocks."""

    def sample(
        self, batches: Sequence[tuple[SampleBatch, Sequence[Reject]]], now_s: float, now_ms: int
    ) -> SampleRecords | None: ...


class Follower(Protocol):
    """Keeps the deployment at what the rollout topic says."""

    def run(self) -> None: ...
    def settled(self, batches: Sequence[ScoredBatch]) -> None: ...
    def close(self, *, leaves: bool) -> None: ...
