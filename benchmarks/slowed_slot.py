"""A worker slot that is slower on purpose: its prediction encoder spins a while for every event.

    python -m benchmarks.slowed_slot MICROSECONDS --config … --slot-name …

It shows that the bounds notice when the hot path gets slower (`scripts/bench goals --slowed MICROSECONDS`).
"""

from __future__ import annotations

import sys
import time

from streamserve import slot
from streamserve.batch import OutboundBatch, PredictionBatch, Reject
from streamserve.codecs.prediction import JsonPredictionEncoder


def slow_down(us_per_event: float) -> None:
    """Have every encoder of this process take so much longer."""
    encode = JsonPredictionEncoder.encode

    def slowed(self: JsonPredictionEncoder, predictions: PredictionBatch) -> tuple[OutboundBatch, list[Reject]]:
        until_s = time.thread_time() + us_per_event * 1e-6 * len(predictions)
        while time.thread_time() < until_s:
            pass
        return encode(self, predictions)

    JsonPredictionEncoder.encode = slowed  # type: ignore[method-assign]  # that is the point


if __name__ == "__main__":
    slow_down(float(sys.argv[1]))
    sys.exit(slot.main(sys.argv[2:]))
