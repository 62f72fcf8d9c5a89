"""Batches padded to a few sizes."""

import numpy as np
import pytest

from benchmarks import models
from streamserve.config.engine_settings import EngineSettings
from streamserve.engines import build_engine
from streamserve.engines.padding import PaddedEngine
from streamserve.errors import EngineError
from streamserve.ports import Signature, TensorSpec
from streamserve.testing.engine import FunctionEngine
from tests.unit.engines.files import model_files

SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", dtype="float32", shape=(-1, 2)), TensorSpec(name="word", dtype="str", shape=(-1,))),
    outputs=(TensorSpec(name="y", dtype="float32", shape=(-1,)),),
)


def inputs(rows):
    return {
        "x": np.arange(2 * rows, dtype=np.float32).reshape(rows, 2),
        "word": np.array([f"w{row}" for row in range(rows)], dtype=object),
    }


@pytest.fixture
def seen():
    return []


@pytest.fixture
def inner(seen):
    def run(tensors):
        seen.append(tensors)
        return {"y": tensors["x"].sum(axis=1)}

    return FunctionEngine(run, SIGNATURE)


@pytest.fixture
def told():
    return []


@pytest.fixture
def engine(inner, told):
    return PaddedEngine(inner, [1, 4, 16], lambda *counts: told.append(counts))


@pytest.mark.parametrize(("rows", "bucket"), [(1, 1), (2, 4), (4, 4), (5, 16), (16, 16), (17, 17)])
def test_a_batch_meets_the_engine_in_the_size_of_its_bucket_and_gives_its_own_rows(engine, inner, told, rows, bucket):
    outputs = engine.infer(inputs(rows))
    assert inner.batches == [bucket]
    assert told == [(rows, bucket - rows)]
    assert outputs["y"].tolist() == [4 * row + 1 for row in range(rows)]


def test_padding_is_the_last_row_again(engine, seen):
    engine.infer(inputs(3))
    (tensors,) = seen
    assert tensors["x"].tolist() == [[0, 1], [2, 3], [4, 5], [4, 5]]
    assert tensors["word"].tolist() == ["w0", "w1", "w2", "w2"]


def test_a_failed_run_is_not_counted(engine, told):
    with pytest.raises(EngineError):
        engine.infer({"z": np.zeros(1)})
    assert told == []


def test_the_buckets_that_batches_fall_into_are_warmed(engine, inner):
    engine.warm([1, 2, 3, 4, 8, 9])
    assert inner.batches == [1, 4, 16]


@pytest.mark.parametrize(
    ("settings", "sizes"),
    [
        ({}, [3, 7, 8]),
        ({"batch_buckets": [4]}, [4, 8, 8]),
        ({"batch_buckets": [2, 4, 32]}, [4, 8, 8]),
    ],
)
def test_on_a_cpu_batches_are_padded_when_asked_for_and_the_largest_is_a_bucket(tmp_path, settings, sizes):
    padding = []
    files = model_files(models.save(models.mlp(), tmp_path))
    engine = build_engine(
        files,
        EngineSettings(device="cpu", max_batch_size=8, **settings),
        lambda real, added: padding.append(real + added),
    )
    for rows in (3, 7, 8):
        assert len(engine.infer({"x": np.zeros((rows, 16), np.float32)})["probability"]) == rows
    assert padding == (sizes if settings else [])
