import numpy as np
import pytest

from streamserve.batch import EventBatch, FeatureBatch, ModelIdentity, RecordBatch
from streamserve.errors import EngineError
from streamserve.pipeline.infer import InferStage, Suspicion
from streamserve.pipeline.poison import BatchBound
from streamserve.ports import Signature, TensorSpec
from streamserve.testing.engine import FunctionEngine

SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", dtype="float32", shape=(-1,)),),
    outputs=(TensorSpec(name="y", dtype="float32", shape=(-1,)),),
)
IDENTITY = ModelIdentity(name="m", version="3")


class Notes:
    """A journal that remembers."""

    def __init__(self):
        self.entries = []
        self.inside = None

    def enter(self, records, rows):
        self.inside = list(rows)
        self.entries.append(self.inside)

    def leave(self):
        self.inside = None


class Known:
    def __init__(self, suspicion=None):
        self.suspicion = suspicion

    def split(self, records):
        return self.suspicion


def features(values, rows):
    n = max(rows) + 1
    origin = RecordBatch(
        topic=["t"] * n,
        partition=[0] * n,
        offset=list(range(n)),
        timestamp_ms=[0] * n,
        key=[None] * n,
        value=[b""] * n,
    )
    events = EventBatch(
        origin=origin,
        row=rows,
        id=[f"e{r}" for r in rows],
        entity=[None] * len(rows),
        event_time_ms=[0] * len(rows),
        fields={},
    )
    return FeatureBatch(events=events, inputs={"x": np.asarray(values, np.float32)})


def double(inputs):
    if (inputs["x"] < 0).any():
        raise EngineError("negative")
    return {"y": inputs["x"] * 2}


def stage(function=double, suspicion=None):
    engine, notes = FunctionEngine(function, SIGNATURE), Notes()
    return InferStage(engine, notes, Known(suspicion), BatchBound()), engine, notes


def test_a_batch_is_journalled_inferred_and_struck_out():
    infer, engine, notes = stage()
    batch = features([1, 2, 3], [0, 2, 5])
    predictions, rejects = infer.run(batch, IDENTITY)
    assert predictions.events is batch.events
    assert predictions.outputs["y"].tolist() == [2, 4, 6]
    assert (predictions.model, rejects, engine.batches) == (IDENTITY, [], [3])
    assert predictions.infer_s > 0
    assert (notes.entries, notes.inside) == ([[0, 2, 5]], None)


def test_a_poison_row_leaves_sideways():
    infer, _, _ = stage()
    predictions, rejects = infer.run(features([1, -2, 3], [0, 2, 5]), IDENTITY)
    assert predictions.events.row == [0, 5]
    assert predictions.outputs["y"].tolist() == [2, 6]
    assert [(r.row, r.detail) for r in rejects] == [(2, "negative")]


def test_suspects_go_alone_quarantined_rows_not_at_all_and_the_order_is_kept():
    suspicion = Suspicion(alone=frozenset({2, 4}), never={3: "the engine crashed on this record"})
    infer, engine, notes = stage(suspicion=suspicion)
    predictions, rejects = infer.run(features([0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5]), IDENTITY)
    assert predictions.events.row == [0, 1, 2, 4, 5]
    assert predictions.outputs["y"].tolist() == [0, 2, 4, 8, 10]
    assert [(r.row, r.stage, r.reason) for r in rejects] == [(3, "infer", "infer")]
    assert notes.entries == [[2], [4], [0, 1, 5]]
    assert engine.batches == [1, 1, 3]


def test_a_batch_of_quarantined_rows_alone_gives_no_predictions():
    infer, engine, _ = stage(suspicion=Suspicion(alone=frozenset(), never={0: "crash"}))
    predictions, rejects = infer.run(features([1], [0]), IDENTITY)
    assert (len(predictions), predictions.outputs["y"].shape, len(rejects)) == (0, (0,), 1)
    assert engine.batches == []


def test_a_device_fault_leaves_the_journal_entry_standing():
    def gone(_):
        raise EngineError("device gone", retryable=True)

    infer, _, notes = stage(gone)
    with pytest.raises(EngineError, match="device gone"):
        infer.run(features([1, 2], [0, 1]), IDENTITY)
    assert notes.inside == [0, 1]
