"""What a commit adds to the metrics.

Everything is counted here and nowhere earlier, so that *consumed = predicted + rejected* holds after an abort as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np

from streamserve.pipeline.stages import ScoredBatch
from streamserve.telemetry.metrics import WorkerMetrics


def account(batches: Sequence[ScoredBatch], metrics: WorkerMetrics, now_ms: int) -> None:
    """Count one commit of `batches`, made at `now_ms`; predictions and rejects by the version that made them."""
    metrics.records_consumed.inc(sum(batch.consumed for batch in batches))
    for batch in batches:
        for leg in batch.legs:
            leg.metrics.predictions.inc(len(leg.row))
            for reject in leg.rejects:
                leg.metrics.rejected(reject.stage, reject.reason)
        if batch.late is not None:
            metrics.records_late[batch.late.outcome,].inc(len(batch.late.rows))
    stamps = np.array([*chain.from_iterable(batch.records.timestamp_ms for batch in batches)], dtype=np.int64)
    metrics.event_latency.observe_many((now_ms - stamps[stamps > 0]) / 1000)
    metrics.committed("committed")
    metrics.last_commit_timestamp_seconds.set(now_ms / 1000)
