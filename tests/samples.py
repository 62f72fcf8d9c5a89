"""Sample chunks in memory for the tests of their readers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from streamserve.drift.chunk import RejectCount, SampleChunk, SampledColumn, Span


def sample_chunk(
    *,
    topic: str = "t",
    partition: int = 0,
    first: int = 0,
    end: int | None = None,
    rows: int = 3,
    at_ms: int = 1_700_000_000_000,
    step_ms: int = 0,
    columns: Mapping[str, SampledColumn] | None = None,
    level: int = 0,
    version: str = "1",
    pipeline: str = "p",
    model: str = "m",
    rejects: tuple[RejectCount, ...] = (),
    reference: str = "",
    written_ms: int | None = None,
) -> SampleChunk:
    """A chunk of the offsets `first` ... of one partition, a row each as far as `rows` goes."""
    end = first + rows if end is None else end
    return SampleChunk(
        pipeline=pipeline,
        model=model,
        version=version,
        role="stable",
        reference=reference,
        spans=(Span(topic, partition, first, end, end - first),),
        span=np.zeros(rows, dtype=np.uint32),
        offset=np.arange(first, first + rows, dtype=np.int64),
        event_time_ms=at_ms + step_ms * np.arange(rows, dtype=np.int64),
        timestamp_ms=at_ms + step_ms * np.arange(rows, dtype=np.int64),
        level=np.full(rows, level, dtype=np.uint8),
        id=[f"e{first + i}" for i in range(rows)],
        entity=[None] * rows,
        columns=columns or {},
        rejects=rejects,
        written_ms=at_ms if written_ms is None else written_ms,
    )
