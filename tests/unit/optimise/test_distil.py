"""Students: the teacher's signature, near its answers, the same from the same seed."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks import models
from streamserve.config.engine_settings import EngineSettings
from streamserve.engines.onnx import OnnxEngine
from streamserve.optimise.distil import distil
from streamserve.optimise.errors import NotOptimised
from streamserve.optimise.measure import outputs_of
from streamserve.optimise.student import Head
from streamserve.optimise.wish import Wish
from streamserve.ports import TensorSpec

CPU = EngineSettings(device="cpu")


@pytest.fixture
def engine(tmp_path):
    return lambda model: OnnxEngine(models.save(model, tmp_path), CPU)


def teacher():
    """Numbers, whole numbers and a text in; a probability, a distribution and a number out."""
    random = np.random.default_rng(0)
    held = {
        "column": np.array(0),
        "mix": random.normal(size=(6, 3)).astype(np.float32),
        "one": random.normal(size=(6, 1)).astype(np.float32),
        "ten": np.array(10, np.float32),
        "flat": np.array([-1]),
    }
    nodes = [
        helper.make_node("Gather", ["word", "column"], ["text"], axis=1),
        helper.make_node("OneHotEncoder", ["text"], ["hot"], domain="ai.onnx.ml", cats_strings=["a", "b"], zeros=1),
        helper.make_node("Cast", ["count"], ["counted"], to=TensorProto.FLOAT),
        helper.make_node("Concat", ["x", "counted", "hot"], ["features"], axis=1),
        helper.make_node("MatMul", ["features", "one"], ["score"]),
        helper.make_node("Sigmoid", ["score"], ["p"]),
        helper.make_node("Reshape", ["p", "flat"], ["probability"]),
        helper.make_node("MatMul", ["features", "mix"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["classes"], axis=1),
        helper.make_node("Mul", ["score", "ten"], ["amount"]),
    ]
    graph = helper.make_graph(
        nodes,
        "teacher",
        [
            models._floats("x", 3),
            helper.make_tensor_value_info("count", TensorProto.INT64, ["n", 1]),
            helper.make_tensor_value_info("word", TensorProto.STRING, ["n", 1]),
        ],
        [models._floats("probability"), models._floats("classes", 3), models._floats("amount", 1)],
        [numpy_helper.from_array(values, name) for name, values in held.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def rows(n=1500, seed=1):
    random = np.random.default_rng(seed)
    return {
        "x": random.normal(size=(n, 3)).astype(np.float32),
        "count": random.integers(0, 5, (n, 1)),
        "word": random.choice(["a", "b", "c"], (n, 1)).astype(object),
    }


@pytest.mark.torch
def test_a_student_has_the_signature_and_answers_nearly_as_its_teacher(engine, tmp_path):
    pytest.importorskip("torch")
    before = engine(teacher())
    step = distil(teacher(), Wish(signature=before.signature, rows=rows(), hidden=(32,), epochs=40))
    after = OnnxEngine(models.save(step.model, tmp_path / "student"), CPU)
    assert after.signature == before.signature
    fresh = rows(seed=2)
    asked, answered = outputs_of(before, fresh), outputs_of(after, fresh)
    for name, mean in (("probability", 0.03), ("classes", 0.03), ("amount", 2.0)):
        assert answered[name].shape == asked[name].shape
        assert answered[name].dtype == asked[name].dtype
        assert np.abs(answered[name] - asked[name]).mean() < mean
    np.testing.assert_allclose(answered["classes"].sum(axis=1), 1, atol=1e-5)
    unseen = {**rows(3), "word": np.array([["never seen"]] * 3, dtype=object)}
    assert np.isfinite(after.infer(unseen)["probability"]).all()


@pytest.mark.torch
def test_one_seed_gives_one_student(engine):
    pytest.importorskip("torch")
    signature = engine(teacher()).signature
    made = [
        distil(teacher(), Wish(signature=signature, rows=rows(300), hidden=(8,), epochs=2, seed=seed)).model
        for seed in (5, 5, 6)
    ]
    assert made[0].SerializeToString() == made[1].SerializeToString()
    assert made[0].SerializeToString() != made[2].SerializeToString()


def test_few_rows_teach_nothing(engine):
    signature = engine(teacher()).signature
    with pytest.raises(NotOptimised, match="99 rows to learn from, at least 100"):
        distil(teacher(), Wish(signature=signature, rows=rows(99)))


def test_heads_go_by_what_the_teacher_gives():
    spec = TensorSpec(name="y", dtype="float32", shape=(-1, 2))
    assert Head.of(spec, np.array([[0.2, 0.8], [0.5, 0.5]])).kind == "distribution"
    assert Head.of(spec, np.array([[0.2, 0.9], [0.5, 0.5]])).kind == "probability"
    number = Head.of(spec, np.array([[1.0, 5.0], [3.0, 5.0]]))
    assert (number.kind, number.width) == ("number", 2)
    assert number.mean.tolist() == [2, 5]
    assert number.scale.tolist() == [1, 1]


def test_labels_are_not_learned():
    with pytest.raises(NotOptimised, match=r"output label is int64\[-1\]; a student learns numbers"):
        Head.of(TensorSpec(name="label", dtype="int64", shape=(-1,)), np.array([1]))


def test_the_teacher_of_these_tests_is_a_model():
    onnx.checker.check_model(teacher())
