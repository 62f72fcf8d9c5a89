"""Chunks of records and scored batches, small and in memory."""

from __future__ import annotations

from streamserve.batch import OutboundBatch, RecordBatch, TopicPartition
from streamserve.pipeline.stages import ScoredBatch

EPOCHS = {TopicPartition("t", 0): 1}


def chunk(count, *, start=0, partition=0, epochs=EPOCHS, polled_s=0.0, size=1):
    """Records `start`, ... of a partition of `t`, each with a value of `size` bytes."""
    return RecordBatch(
        topic=["t"] * count,
        partition=[partition] * count,
        offset=list(range(start, start + count)),
        timestamp_ms=[1] * count,
        key=[None] * count,
        value=[b"v" * size] * count,
        epochs=epochs,
        polled_s=polled_s,
    )


def scored(records):
    """A batch whose every record became a prediction."""
    outbound = OutboundBatch(
        topic="out",
        row=list(range(len(records))),
        partition=records.partition,
        key=records.key,
        value=records.value,
    )
    return ScoredBatch(
        records=records,
        positions=records.next_positions(),
        outbound=(outbound,),
        consumed=len(records),
        legs=(),
        cache=None,
    )
