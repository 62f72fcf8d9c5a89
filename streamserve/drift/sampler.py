"""The sampler: what the drift monitor gets of a transaction, as records of the same transaction.

Runs in the flush thread just before the flush, on what is current then: rows of partitions that have left are gone
from samples, predictions and offsets alike. Which level the load calls for is the business of `levels`, which rows
that means of `selection`, what is taken of them of `sampled_columns`, the chunk of `assembly`. All of it is done once a
transaction, over all its batches: scoring pays nothing, and numpy's calls are few. Times are handed in.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

from streamserve.batch import OutboundBatch, Reject, SampleBatch, SampleRecords
from streamserve.config.drift_settings import DriftSettings
from streamserve.config.drift_topics import drift_topics
from streamserve.config.settings import PipelineSettings
from streamserve.drift.assembly import Assembly, VersionPlan, cut
from streamserve.drift.java_partition import java_partition
from streamserve.drift.levels import EveryRow, Levels, LoadLevels
from streamserve.drift.personal import Personal
from streamserve.drift.sampled_columns import SampledColumns
from streamserve.drift.selection import Selector, origins
from streamserve.ports import TensorSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledVersion:
    """What the sampler must know of a model version.

    Attributes:
        outputs: what its predictions hold.
        reference: hash of the reference beside it, or empty.
    """

    outputs: Sequence[TensorSpec]
    reference: str = ""


class Sampler:
    """Takes samples; used by one flush thread.

    Args:
        levels: how densely to sample.
        assembly: makes chunks.
        topic: where they go.
        partitions: of that topic.
        max_bytes: largest record it takes, key and value.
    """

    def __init__(self, levels: Levels, assembly: Assembly, *, topic: str, partitions: int, max_bytes: int) -> None:
        self._levels = levels
        self._assembly = assembly
        self._topic = topic
        self._partitions = partitions
        self._max_bytes = max_bytes
        self._selector = Selector()
        self._places: dict[bytes, int] = {}

    @classmethod
    def of(
        cls,
        settings: PipelineSettings,
        drift: DriftSettings,
        versions: Callable[[str], SampledVersion],
        *,
        secret: bytes,
        partitions: int,
        max_bytes: int,
        owned_share: Callable[[], float],
    ) -> Self:
        """The sampler of a pipeline.

        Args:
            settings: the pipeline.
            drift: its `drift` block.
            versions: what there is to know of a model version; asked once each, by the flush thread.
            secret: key of the hashes of personal values; may be empty when nothing is hashed.
            partitions: of the samples topic.
            max_bytes: largest record it takes.
            owned_share: share of the input's partitions that are ours now, over 0 and up to 1.
        """
        budget = drift.samples_per_s

        @functools.cache
        def plan(version: str) -> VersionPlan:
            known = versions(version)
            return VersionPlan(SampledColumns.of(settings, drift, known.outputs), known.reference)

        assembly = Assembly(
            pipeline=settings.pipeline,
            plans=plan,
            personal=Personal(secret, [name for name, fate in drift.pii.items() if fate == "hash"]),
            dropped=[name for name, fate in drift.pii.items() if fate == "drop"],
        )
        return cls(
            EveryRow() if budget == "all" else LoadLevels(lambda: budget * owned_share()),
            assembly,
            topic=drift_topics(settings).samples,
            partitions=partitions,
            max_bytes=max_bytes,
        )

    def sample(
        self, batches: Sequence[tuple[SampleBatch, Sequence[Reject]]], now_s: float, now_ms: int
    ) -> SampleRecords | None:
        """The chunks of a transaction; None when there is nothing to tell.

        Args:
            batches: in order, each with its rejects; several of the same records when several versions answered.
            now_s: monotonic seconds.
            now_ms: the worker's wall clock.
        """
        if not batches:
            return None
        level = self._levels.next(sum(map(len, origins(batch for batch, _ in batches))), now_s)
        selections = self._selector.select([batch for batch, _ in batches], level)
        keys: list[bytes | None] = []
        values: list[bytes | None] = []
        places: list[int] = []
        kept = 0
        for chunk in self._assembly.chunks(selections, [rejects for _, rejects in batches], level, now_ms):
            key = chunk.model.encode()
            for value, rows in cut(chunk, self._max_bytes - len(key)):
                keys.append(key)
                values.append(value)
                places.append(self._place(key))
                kept += rows
        left_out = sum(len(selection.rows) for selection in selections) - kept
        if not values and not left_out:
            return None
        outbound = OutboundBatch(
            topic=self._topic, row=list(range(len(values))), partition=places, key=keys, value=values
        )
        return SampleRecords(outbound=outbound, rows=kept, left_out=left_out, level=level)

    def _place(self, key: bytes) -> int:
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = java_partition(key, self._partitions)
        return place
