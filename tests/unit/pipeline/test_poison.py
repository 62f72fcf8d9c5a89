import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamserve.batch import EventBatch, FeatureBatch, RecordBatch, Tensors
from streamserve.errors import EngineError, EngineOutOfMemory
from streamserve.pipeline.poison import BatchBound, empty_outputs, infer_isolating
from streamserve.ports import Signature, TensorSpec
from streamserve.testing.engine import FunctionEngine

SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", dtype="float32", shape=(-1,)),),
    outputs=(
        TensorSpec(name="y", dtype="float32", shape=(-1, 2)),
        TensorSpec(name="s", dtype="str", shape=(-1,)),
    ),
)


def features(values, origin_rows=None):
    n = len(values)
    rows = list(range(n)) if origin_rows is None else origin_rows
    total = max(rows, default=-1) + 1
    origin = RecordBatch(
        topic=["t"] * total,
        partition=[0] * total,
        offset=list(range(total)),
        timestamp_ms=[0] * total,
        key=[None] * total,
        value=[b""] * total,
    )
    events = EventBatch(
        origin=origin,
        row=rows,
        id=[str(r) for r in rows],
        entity=[None] * n,
        event_time_ms=[0] * n,
        fields={},
    )
    return FeatureBatch(events=events, inputs={"x": np.asarray(values, dtype=np.float32)})


def outputs_of(x) -> Tensors:
    return {"y": np.stack([x * 2, x + 1], axis=1), "s": np.array([str(v) for v in x], dtype=object)}


def poisoned_engine(most_rows=math.inf):
    """Fails for every batch with a negative x, and for want of memory beyond `most_rows`."""

    def run(inputs):
        if len(inputs["x"]) > most_rows:
            raise EngineOutOfMemory("no memory")
        if (inputs["x"] < 0).any():
            raise EngineError("negative")
        return outputs_of(inputs["x"])

    return FunctionEngine(run, SIGNATURE)


@given(st.lists(st.booleans(), max_size=200), st.integers(1, 250))
def test_exactly_the_poison_rows_are_rejected_and_the_others_get_their_outputs(poison, most_rows):
    values = [-(i + 1) if bad else i for i, bad in enumerate(poison)]
    engine = poisoned_engine(most_rows)
    batch = features(values, origin_rows=[3 * i for i in range(len(values))])

    outputs, kept, rejects = infer_isolating(engine, batch, BatchBound())

    assert [r.row for r in rejects] == [3 * i for i, bad in enumerate(poison) if bad]
    assert all((r.stage, r.reason, r.detail) == ("infer", "infer", "negative") for r in rejects)
    assert list(kept) == [i for i, bad in enumerate(poison) if not bad]
    expected = outputs_of(np.array([v for v in values if v >= 0], dtype=np.float32).reshape(-1))
    np.testing.assert_array_equal(outputs["y"], expected["y"])
    assert list(outputs["s"]) == list(expected["s"])


@given(st.integers(1, 600), st.sets(st.integers(0, 599), max_size=8))
def test_the_engine_is_called_k_log_n_times(rows, poison):
    poison = {i for i in poison if i < rows}
    engine = poisoned_engine()
    infer_isolating(engine, features([-1 if i in poison else 1 for i in range(rows)]), BatchBound())
    assert len(engine.batches) <= 1 + 2 * len(poison) * math.ceil(math.log2(rows) if rows > 1 else 0)


def test_a_good_batch_is_one_call():
    engine = poisoned_engine()
    outputs, kept, rejects = infer_isolating(engine, features([1, 2, 3]), BatchBound())
    assert engine.batches == [3]
    assert list(kept) == [0, 1, 2]
    assert rejects == []
    assert outputs["y"].shape == (3, 2)


def test_an_empty_batch_does_not_reach_the_engine():
    engine = poisoned_engine()
    outputs, kept, rejects = infer_isolating(engine, features([]), BatchBound())
    assert (engine.batches, list(kept), rejects) == ([], [], [])
    assert outputs["y"].shape == (0, 2)


def test_outputs_of_no_rows_have_the_signatures_dtypes_and_trailing_shape():
    outputs = empty_outputs(SIGNATURE)
    assert (outputs["y"].dtype, outputs["y"].shape) == (np.float32, (0, 2))
    assert (outputs["s"].dtype, outputs["s"].shape) == (object, (0,))


def test_out_of_memory_halves_the_batch_and_is_remembered():
    engine, bound = poisoned_engine(most_rows=40), BatchBound()
    _, kept, rejects = infer_isolating(engine, features([1] * 128), bound)
    assert len(kept) == 128
    assert rejects == []
    assert bound.rows == 32
    engine.batches.clear()
    infer_isolating(engine, features([1] * 100), bound)
    assert engine.batches == [32, 32, 32, 4]


def test_a_row_that_alone_does_not_fit_is_rejected_and_does_not_shrink_later_batches():
    def run(inputs):
        if (inputs["x"] > 100).any():
            raise EngineOutOfMemory("no memory")
        return outputs_of(inputs["x"])

    bound = BatchBound()
    batch = features([1] * 63 + [1000])
    _, kept, rejects = infer_isolating(FunctionEngine(run, SIGNATURE), batch, bound)
    assert [r.row for r in rejects] == [63]
    assert len(kept) == 63
    assert bound == BatchBound()


def test_a_bound_grows_back_after_enough_full_batches_but_not_beyond_the_first_failure():
    bound = BatchBound(patience=3)
    bound.failed(100)
    for _ in range(3):
        bound.passed(10)
    assert bound.rows == 50
    for _ in range(3):
        bound.passed(50)
    assert bound.rows == 100
    for _ in range(9):
        bound.passed(100)
    assert bound.rows == 100


def test_every_further_failure_doubles_the_patience():
    bound = BatchBound(patience=3)
    bound.failed(100)
    bound.failed(100)
    assert (bound.rows, bound.patience) == (50, 6)


def test_a_device_fault_is_not_bisected():
    def run(_):
        raise EngineError("device gone", retryable=True)

    engine = FunctionEngine(run, SIGNATURE)
    with pytest.raises(EngineError, match="device gone"):
        infer_isolating(engine, features([1] * 64), BatchBound())
    assert engine.batches == [64]


def test_outputs_that_change_their_trailing_shape_are_an_engine_error():
    def run(inputs):
        n = len(inputs["x"])
        if n > 2:
            raise EngineOutOfMemory("no memory")
        return {"y": np.zeros((n, int(inputs["x"][0])), np.float32), "s": np.full(n, "", object)}

    with pytest.raises(EngineError, match="change shape"):
        infer_isolating(FunctionEngine(run, SIGNATURE), features([2, 2, 3, 3]), BatchBound())
