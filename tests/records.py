"""Records and settings in memory for the tests of decoders, enrichers and encoders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from streamserve.batch import Headers, RecordBatch
from streamserve.config.settings import PipelineSettings

if TYPE_CHECKING:
    from collections.abc import Sequence


def batch(
    values: Sequence[bytes | None],
    *,
    key: Sequence[bytes | None] | None = None,
    headers: Sequence[Headers | None] | None = None,
    timestamp_ms: Sequence[int] | None = None,
) -> RecordBatch:
    """Records 0, 1, ... of partition 2 of the topic `events`, with these values."""
    count = len(values)
    return RecordBatch(
        topic=["events"] * count,
        partition=[2] * count,
        offset=list(range(count)),
        timestamp_ms=list(timestamp_ms) if timestamp_ms is not None else [1_700_000_000_000] * count,
        key=list(key) if key is not None else [None] * count,
        value=list(values),
        headers=lambda: list(headers) if headers is not None else [],
    )


def settings(features: Any, **input: Any) -> PipelineSettings:
    """A pipeline with these features; keyword arguments are keys of `input`."""
    return PipelineSettings.model_validate(
        {
            "pipeline": "p",
            "kafka": {},
            "input": {"topics": ["events"], **input},
            "features": features,
            "model": {"name": "m"},
            "output": {"topic": "predictions"},
            "dead_letter": {"topic": "events.dlq"},
        }
    )
