"""Sequences in length buckets: what the model gets, what comes back, what is counted and warmed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from benchmarks.models import save, text_classifier
from streamserve.columns import ragged
from streamserve.config.engine_settings import EngineSettings
from streamserve.config.settings import SequenceSettings
from streamserve.engines.buckets import bucketed, warm_shapes
from streamserve.engines.onnx import OnnxEngine
from streamserve.errors import ContractError, EngineError
from streamserve.pipeline.sequences import PaddedInput, bucket_lengths
from streamserve.ports import Signature, TensorSpec
from streamserve.testing import FunctionEngine

TOLERANCE = 1e-5
"""Runs of a model over other batch sizes and lengths differ by their rounding."""


def rows(*sequences, dtype=np.int64):
    lengths = np.array([len(sequence) for sequence in sequences], np.int64)
    return ragged(np.array([value for sequence in sequences for value in sequence], dtype), lengths)


def padded(name="tokens", dtype="int64", mask=None, pad=0, mask_dtype="int64", **sequence):
    spec = SequenceSettings.model_validate({"max_length": 64, **sequence})
    return PaddedInput(
        input=TensorSpec(name=name, dtype=dtype, shape=(-1, -1)),
        mask=TensorSpec(name=mask, dtype=mask_dtype, shape=(-1, -1)) if mask else None,
        pad=pad,
        lengths=bucket_lengths(spec),
        max_length=spec.max_length,
    )


class Recorder:
    """An engine that notes what it is given and answers with the sum of the tokens of each row."""

    def __init__(self, *names, outputs=None):
        self.given = []
        inputs = tuple(TensorSpec(name=name, dtype="int64", shape=(-1, -1)) for name in names)
        outputs = outputs or (TensorSpec(name="sum", dtype="int64", shape=(-1,)),)
        self.engine = FunctionEngine(self._infer, Signature(inputs=inputs, outputs=outputs))

    def _infer(self, inputs):
        self.given.append({name: value.copy() for name, value in inputs.items()})
        return {"sum": inputs["tokens"].sum(axis=1)}


def ignore(real, padding):
    pass


def test_rows_of_a_bucket_go_in_together_and_outputs_come_back_in_the_order_of_the_rows():
    recorder = Recorder("tokens", "mask")
    engine = bucketed(recorder.engine, [padded(mask="mask", buckets=[2, 4])], ignore)
    out = engine.infer({"tokens": rows([1], [2, 3, 4], [5, 6], [7, 8, 9, 10])})
    assert out["sum"].tolist() == [1, 9, 11, 34]
    first, second = recorder.given
    assert first["tokens"].tolist() == [[1, 0], [5, 6]]
    assert first["mask"].tolist() == [[1, 0], [1, 1]]
    assert second["tokens"].tolist() == [[2, 3, 4, 0], [7, 8, 9, 10]]
    assert second["mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert {tensor.dtype for tensor in first.values()} == {np.dtype("int64")}


def test_without_buckets_a_batch_is_padded_to_its_longest_row():
    recorder = Recorder("tokens")
    engine = bucketed(recorder.engine, [padded(buckets=[], pad=-1)], ignore)
    engine.infer({"tokens": rows([1], [2, 3, 4])})
    engine.infer({"tokens": rows([], [])})
    assert [given["tokens"].tolist() for given in recorder.given] == [[[1, -1, -1], [2, 3, 4]], [[-1], [-1]]]


def test_sequences_of_one_event_share_the_longest_ones_bucket():
    recorder = Recorder("tokens", "kinds", "mask", "kinds_mask")
    engine = bucketed(
        recorder.engine,
        [padded(mask="mask", buckets=[2, 4]), padded("kinds", mask="kinds_mask", buckets=[3], pad=9)],
        ignore,
    )
    engine.infer({"tokens": rows([1], [1]), "kinds": rows([5, 6, 7], [])})
    short, long = sorted(recorder.given, key=lambda given: given["tokens"].shape[1])
    assert (short["tokens"].tolist(), short["kinds"].tolist()) == ([[1, 0]], [[9, 9]])
    assert (long["tokens"].tolist(), long["kinds"].tolist()) == ([[1, 0, 0]], [[5, 6, 7]])
    assert (long["mask"].tolist(), long["kinds_mask"].tolist()) == ([[1, 0, 0]], [[1, 1, 1]])


def test_scalars_go_with_their_rows():
    def function(inputs):
        return {"y": inputs["tokens"].sum(axis=1) + inputs["dense"][:, 0]}

    signature = Signature(
        inputs=(
            TensorSpec(name="tokens", dtype="int64", shape=(-1, -1)),
            TensorSpec(name="dense", dtype="float32", shape=(-1, 1)),
        ),
        outputs=(TensorSpec(name="y", dtype="float32", shape=(-1,)),),
    )
    engine = bucketed(FunctionEngine(function, signature), [padded(buckets=[1, 2])], ignore)
    dense = np.array([[10], [20], [30]], np.float32)
    assert engine.infer({"tokens": rows([1, 1], [1], [1, 2]), "dense": dense})["y"].tolist() == [12, 21, 33]


def test_real_values_and_padding_are_told_for_every_run():
    told = []
    engine = bucketed(Recorder("tokens").engine, [padded(buckets=[2, 4])], lambda *counts: told.append(counts))
    engine.warm([1, 2])
    assert told == []
    engine.infer({"tokens": rows([1], [2, 3, 4], [5, 6])})
    assert told == [(3, 1), (3, 1)]


def test_every_length_and_every_size_is_warmed_and_the_runs_are_a_sum():
    recorder = Recorder("tokens", "mask")
    bucketed(recorder.engine, [padded(mask="mask")], ignore).warm([1, 2, 4])
    shapes = [given["tokens"].shape for given in recorder.given]
    assert shapes == [(1, 8), (4, 8), (1, 16), (4, 16), (1, 32), (4, 32), (1, 64), (2, 64), (4, 64)]
    assert all(given["mask"].all() for given in recorder.given)
    assert warm_shapes([1], [8]) == [(1, 8)]


def test_a_device_that_works_by_shape_is_warmed_in_every_one():
    recorder = Recorder("tokens")
    bucketed(recorder.engine, [padded(max_length=16)], ignore, every_shape=True).warm([1, 2, 4])
    assert [given["tokens"].shape for given in recorder.given] == [(n, length) for n in (1, 2, 4) for length in (8, 16)]


def test_an_engine_without_sequences_is_left_alone():
    engine = Recorder("tokens").engine
    assert bucketed(engine, [], ignore) is engine
    assert bucketed(engine, [padded("other")], ignore) is engine


def test_a_row_longer_than_the_longest_bucket_fails():
    engine = bucketed(Recorder("tokens").engine, [padded(max_length=2)], ignore)
    with pytest.raises(EngineError, match="a sequence has 3 values, at most 2 are taken"):
        engine.infer({"tokens": rows([1, 2, 3])})


@pytest.mark.parametrize("row", [None, 7, np.ones((2, 2), np.int64), np.array(["word"], object)])
def test_a_row_that_cannot_be_padded_fails_as_one_the_model_cannot_take(row):
    engine = bucketed(Recorder("tokens").engine, [padded(buckets=[2, 4])], ignore)
    tokens = rows([1], [2, 3], [4])
    tokens[1] = row
    with pytest.raises(EngineError, match="the sequences cannot be padded: ") as caught:
        engine.infer({"tokens": tokens})
    assert not caught.value.retryable


def test_outputs_per_position_are_left_out_and_nothing_else_is_an_error(tmp_path):
    engine = OnnxEngine(save(text_classifier(), tmp_path), EngineSettings(device="cpu"))
    assert [spec.name for spec in engine.signature.outputs] == ["scores", "hidden"]
    wrapped = bucketed(engine, [padded(mask="mask")], ignore)
    assert [spec.name for spec in wrapped.signature.outputs] == ["scores"]
    assert list(wrapped.infer({"tokens": rows([1], [2] * 20)})) == ["scores"]

    per_position = FunctionEngine(
        lambda inputs: {"tags": inputs["tokens"] * 2},
        Signature(
            inputs=(TensorSpec(name="tokens", dtype="int64", shape=(-1, -1)),),
            outputs=(TensorSpec(name="tags", dtype="int64", shape=(-1, -1)),),
        ),
    )
    with pytest.raises(ContractError, match=r"every output of the model \(tags\) has a value per position"):
        bucketed(per_position, [padded()], ignore)


def test_the_default_buckets_are_powers_of_two_from_eight_on():
    assert padded(max_length=64).lengths == (8, 16, 32, 64)
    assert padded(max_length=100).lengths == (8, 16, 32, 64, 100)
    assert padded(max_length=5).lengths == (5,)
    assert padded(max_length=30, buckets=[10, 20, 64]).lengths == (10, 20, 30)


VOCABULARY = [f"word{i}" for i in range(50)]


@pytest.fixture(scope="module")
def text_engines(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    settings = EngineSettings(device="cpu")
    numbers = OnnxEngine(save(text_classifier(), folder, "ids.onnx"), settings)
    words = OnnxEngine(save(text_classifier(VOCABULARY, vocabulary=51), folder, "words.onnx"), settings)
    return {
        "int64": bucketed(numbers, [padded(mask="mask")], ignore),
        "str": bucketed(words, [padded(dtype="str", mask="mask", pad="")], ignore),
    }


@pytest.mark.parametrize("dtype", ["int64", "str"])
@given(data=st.data())
@examples(max_examples=60, deadline=None)
def test_a_batch_of_mixed_lengths_gives_what_each_row_gives_alone(text_engines, dtype, data):
    value = st.integers(0, 999) if dtype == "int64" else st.sampled_from([*VOCABULARY, "unheard-of"])
    sequences = data.draw(st.lists(st.lists(value, max_size=64), min_size=1, max_size=12))
    kind = np.int64 if dtype == "int64" else object
    together = text_engines[dtype].infer({"tokens": rows(*sequences, dtype=kind)})["scores"]
    alone = [text_engines[dtype].infer({"tokens": rows(one, dtype=kind)})["scores"][0] for one in sequences]
    np.testing.assert_allclose(together, alone, rtol=TOLERANCE, atol=TOLERANCE)
