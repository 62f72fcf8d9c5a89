"""The drift monitor's side of a worker slot, from settings: what takes samples, and what makes records of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

from streamserve.clock import Clock
from streamserve.config.drift_settings import DriftSettings
from streamserve.config.drift_topics import drift_topics
from streamserve.config.settings import PipelineSettings
from streamserve.drift.assembly import Assembly
from streamserve.drift.personal import Personal
from streamserve.drift.sampler import Sampler, build_sampler
from streamserve.ports import TensorSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Both ends of sampling: `sampler` for the compute thread, `assembly` for the write thread."""

    sampler: Sampler
    assembly: Assembly

    @classmethod
    def of(
        cls,
        settings: PipelineSettings,
        drift: DriftSettings,
        outputs: Sequence[TensorSpec],
        *,
        reference: str,
        secret: bytes,
        partitions: int,
        max_bytes: int,
        owned_share: Callable[[], float],
        clock: Clock,
    ) -> Self:
        """Build both.

        Args:
            settings: the pipeline.
            drift: its `drift` block.
            outputs: of the model's signature.
            reference: hash of the reference beside the model version, or empty.
            secret: key of the hashes of personal values; may be empty when nothing is hashed.
            partitions: of the samples topic.
            max_bytes: largest record it takes.
            owned_share: share of the input's partitions that are ours now, over 0 and up to 1.
            clock: for the rate.
        """
        return cls(
            sampler=build_sampler(settings, drift, outputs, owned_share, clock.monotonic_s),
            assembly=Assembly(
                topic=drift_topics(settings).samples,
                partitions=partitions,
                max_bytes=max_bytes,
                pipeline=settings.pipeline,
                reference=reference,
                personal=Personal(secret, [name for name, fate in drift.pii.items() if fate == "hash"]),
            ),
        )
