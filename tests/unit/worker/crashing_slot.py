"""A worker slot in small: takes one batch through an engine that dies of SIGSEGV on a marked row.

Arguments: state folder, slot, how the last life ended (exit code or `none`), the marked offset, how it dies. Writes
to stdout, as JSON, what came of every record. Run by `test_crash_recovery`.
"""

import json
import os
import signal
import sys

import numpy as np

from streamserve.batch import EventBatch, FeatureBatch, ModelIdentity, RecordBatch
from streamserve.pipeline.infer import InferStage
from streamserve.pipeline.poison import BatchBound
from streamserve.testing.engine import FunctionEngine
from streamserve.worker.journal import CrashJournal
from streamserve.worker.quarantine import Quarantine

ROWS = 16
FIRST_OFFSET = 100


def batch():
    offsets = list(range(FIRST_OFFSET, FIRST_OFFSET + ROWS))
    records = RecordBatch(
        topic=["t"] * ROWS,
        partition=[i % 2 for i in range(ROWS)],
        offset=offsets,
        timestamp_ms=[0] * ROWS,
        key=[None] * ROWS,
        value=[b""] * ROWS,
    )
    events = EventBatch(
        origin=records,
        row=list(range(ROWS)),
        id=[""] * ROWS,
        entity=[None] * ROWS,
        event_time_ms=[0] * ROWS,
        fields={},
    )
    return FeatureBatch(events=events, inputs={"x": np.array(offsets, dtype=np.float32)})


def main(state_dir, slot, ended, marked, killer):
    def run(inputs):
        if int(marked) in inputs["x"]:
            os.kill(os.getpid(), getattr(signal, killer))
        return {"probability": inputs["x"][:, None] * 2}

    quarantine = Quarantine.load(state_dir, slot, None if ended == "none" else int(ended))
    with CrashJournal(state_dir, slot) as journal:
        stage = InferStage(FunctionEngine(run), journal, quarantine, BatchBound())
        predictions, rejects = stage.run(batch(), ModelIdentity(name="m", version="1"))
    offsets = predictions.events.origin.offset
    json.dump(
        {
            "predicted": [offsets[row] for row in predictions.events.row],
            "outputs": predictions.outputs["probability"][:, 0].tolist(),
            "rejected": {str(offsets[r.row]): r.detail for r in rejects},
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
