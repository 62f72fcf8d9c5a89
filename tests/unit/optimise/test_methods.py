"""Each method on small networks, in the engine that a worker would use."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks import models
from streamserve.config.engine_settings import EngineSettings
from streamserve.engines.onnx import OnnxEngine
from streamserve.errors import ContractError
from streamserve.optimise.chain import METHODS, check, run
from streamserve.optimise.errors import NotOptimised
from streamserve.optimise.measure import measure, outputs_of
from streamserve.optimise.wish import Wish
from tests.pipelines import FLIGHTS

CPU = EngineSettings(device="cpu")


@pytest.fixture
def optimised(tmp_path):
    """Optimise a model by methods; returns both engines and what was done."""

    def call(model, methods, rows, **more):
        source = models.save(model, tmp_path / "source")
        folder = tmp_path / "made"
        folder.mkdir(exist_ok=True)
        before = OnnxEngine(source, CPU)
        made = run(source, methods, Wish(signature=before.signature, rows=rows, **more), folder)
        return before, OnnxEngine(made.path, CPU), made

    return call


def normal(n=400, width=16, seed=1):
    return {"x": np.random.default_rng(seed).normal(size=(n, width)).astype(np.float32)}


def sizes_of(path):
    return {tuple(tensor.dims) for tensor in onnx.load(str(path)).graph.initializer if len(tensor.dims) == 2}


@pytest.mark.parametrize(("method", "within"), [("fp16", 2e-3), ("int8", 0.02), ("int8-static", 0.08), ("ort", 1e-6)])
def test_a_method_keeps_the_signature_and_stays_near(optimised, method, within):
    before, after, made = optimised(models.mlp(), [method], normal())
    assert after.signature == before.signature
    fresh = normal(seed=2)
    difference = np.abs(outputs_of(before, fresh)["probability"] - outputs_of(after, fresh)["probability"])
    assert difference.max() <= within
    assert made.done[method]
    after.warm([1, 3])


def test_weights_of_half_precision_and_integers_are_smaller(optimised):
    rows = normal(width=256)
    network = models.mlp((256, 256, 256, 4))
    for method, most in (("fp16", 0.55), ("int8", 0.35), ("int8-static", 0.35)):
        _, after, made = optimised(network, [method], rows)
        assert made.path.stat().st_size < most * network.ByteSize(), method
        after.infer({"x": rows["x"][:1]})


def test_the_graph_is_simplified_and_holds_operators_of_the_standard_alone(optimised):
    network = models.mlp()
    extra = helper.make_node("Identity", ["x"], ["copied"])
    network.graph.node[0].input[0] = "copied"
    network.graph.node.insert(0, extra)
    before, after, made = optimised(network, ["graph"], normal())
    nodes = onnx.load(str(made.path)).graph.node
    assert len(nodes) < len(network.graph.node)
    assert {node.domain for node in nodes} == {""}
    np.testing.assert_array_equal(
        outputs_of(before, normal())["probability"], outputs_of(after, normal())["probability"]
    )


def test_a_graph_that_is_simple_already_is_told(optimised):
    with pytest.raises(NotOptimised, match="graph: the runtime finds nothing to simplify in the 6 operators"):
        optimised(models.mlp(), ["graph"], normal())


def test_the_ort_format_is_what_its_header_says(optimised):
    _, _, made = optimised(models.mlp(), ["ort"], normal())
    assert made.path.name == "model.ort"
    assert made.path.read_bytes()[4:8] == b"ORTM"


@pytest.mark.parametrize("method", ["int8", "int8-static", "fp16", "prune", "low-rank"])
def test_trees_have_nothing_for_methods_of_matrices(optimised, method):
    model = onnx.load(str(FLIGHTS / "models/flight-delay/1/model.onnx"))
    rows = {
        "numeric": np.zeros((8, 12), np.float32),
        "categorical": np.array([["AA", "JFK"]] * 8, dtype=object),
    }
    with pytest.raises(NotOptimised, match=f"{method}:? .*(nothing|no )"):
        optimised(model, [method], rows)


def test_methods_are_chained_in_their_order(optimised):
    rows = normal(width=64)
    before, after, made = optimised(
        models.mlp((64, 256, 256, 4)), ["prune", "low-rank", "int8", "ort"], rows, energy=0.5
    )
    assert list(made.done) == ["prune", "low-rank", "int8", "ort"]
    assert after.signature == before.signature


@pytest.mark.parametrize(
    ("methods", "words"),
    [
        (["ort", "int8"], "must be the last"),
        (["int8", "int8"], "each method goes once"),
        (["int8", "int8-static"], "choose one"),
    ],
)
def test_methods_that_do_not_go_together_are_refused(methods, words):
    with pytest.raises(ContractError, match=words):
        check(methods)


def test_only_onnx_is_read(tmp_path):
    (tmp_path / "model.ort").write_bytes(b"....ORTM")
    with pytest.raises(ContractError, match=r"only model\.onnx can be optimised"):
        run(tmp_path / "model.ort", ["graph"], Wish(signature=None, rows={}), tmp_path)


# -- half precision ---------------------------------------------------------------------------------------------------


def deep(scale):
    """Three products; the middle one's output is `scale` times its input, the last one brings it back."""
    random = np.random.default_rng(3)
    held = {
        "w0": random.normal(0, 0.3, (16, 32)),
        "w1": random.normal(0, 0.2, (32, 32)) * scale,
        "w2": random.normal(0, 0.2, (32, 2)),
        "back": np.array(1 / scale),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["h0"]),
        helper.make_node("MatMul", ["h0", "w1"], ["h1"]),
        helper.make_node("Mul", ["h1", "back"], ["h2"]),
        helper.make_node("MatMul", ["h2", "w2"], ["y"]),
    ]
    tensors = [numpy_helper.from_array(values.astype(np.float32), name) for name, values in held.items()]
    return models._model(nodes, [models._floats("x", 16)], [models._floats("y", 2)], tensors)


def test_what_would_overflow_float16_stays_in_float32(optimised):
    before, after, made = optimised(deep(1e5), ["fp16"], normal())
    fresh = normal(seed=2)
    np.testing.assert_allclose(outputs_of(after, fresh)["y"], outputs_of(before, fresh)["y"], rtol=0, atol=0.02)
    assert made.done["fp16"] == "2 tensors in float16, 2 operators kept in float32: they come near the end of float16"
    kinds = {tensor.name: tensor.data_type for tensor in onnx.load(str(made.path)).graph.initializer}
    assert kinds["w0"] == kinds["w2"] == TensorProto.FLOAT16
    assert kinds["w1"] == TensorProto.FLOAT


# -- pruning ----------------------------------------------------------------------------------------------------------


def perceptron(weights, transposed=False, between=("Relu",)):
    """x -> Gemm -> between -> Gemm -> y, with these matrices and biases."""
    w0, b0, w1, b1 = weights
    turned = {"transB": 1} if transposed else {}
    nodes = [helper.make_node("Gemm", ["x", "w0", "b0"], ["h0"], **turned)]
    for number, kind in enumerate(between):
        more = ["scale"] if kind == "Mul" else []
        nodes.append(helper.make_node(kind, [f"h{number}", *more], [f"h{number + 1}"]))
    nodes.append(helper.make_node("Gemm", [f"h{len(between)}", "w1", "b1"], ["y"], **turned))
    held = {"w0": w0.T if transposed else w0, "b0": b0, "w1": w1.T if transposed else w1, "b1": b1}
    held["scale"] = np.linspace(1, 2, len(b0))
    return models._model(
        nodes,
        [models._floats("x", len(w0))],
        [models._floats("y", w1.shape[1])],
        [numpy_helper.from_array(np.ascontiguousarray(v, dtype=np.float32), k) for k, v in held.items()],
    )


def random_weights(seed, dead=(), inputs=8, units=20, outputs=3):
    random = np.random.default_rng(seed)
    w0, w1 = random.normal(size=(inputs, units)), random.normal(size=(units, outputs))
    b0 = random.normal(size=units)
    w0[:, list(dead)] = 0  # these units hold act(bias) whatever comes in
    return w0, b0, w1, random.normal(size=outputs)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("between", [("Relu",), ("Sigmoid", "Mul"), ("Mul", "Tanh", "Identity")])
def test_removing_units_that_never_change_changes_nothing(optimised, transposed, between):
    dead = range(3, 13)
    model = perceptron(random_weights(3, dead), transposed, between)
    rows = normal(width=8)
    before, after, made = optimised(model, ["prune"], rows, sparsity=0.5)
    fresh = normal(seed=9, width=8)
    np.testing.assert_allclose(outputs_of(after, fresh)["y"], outputs_of(before, fresh)["y"], rtol=0, atol=2e-5)
    assert made.done["prune"].startswith("10 of 20 hidden units")
    assert sizes_of(made.path) == ({(10, 8), (3, 10)} if transposed else {(8, 10), (10, 3)})


def test_units_that_matter_least_go_and_their_means_stay(optimised):
    w0, b0, w1, b1 = random_weights(4)
    w1[5:15] *= 1e-3
    before, after, made = optimised(perceptron((w0, b0, w1, b1)), ["prune"], normal(width=8), sparsity=0.5)
    fresh = normal(seed=5, width=8)
    assert np.abs(outputs_of(after, fresh)["y"] - outputs_of(before, fresh)["y"]).max() < 0.05
    kept = onnx.load(str(made.path)).graph.initializer
    held = next(numpy_helper.to_array(t) for t in kept if t.name == "w1")
    np.testing.assert_array_equal(held, np.delete(w1, range(5, 15), axis=0).astype(np.float32))


def test_a_matmul_with_its_bias_beside_it_is_pruned_too(optimised):
    w0, b0, w1, b1 = random_weights(6, dead=range(10))
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["z0"]),
        helper.make_node("Add", ["z0", "b0"], ["a0"]),
        helper.make_node("Relu", ["a0"], ["h0"]),
        helper.make_node("MatMul", ["h0", "w1"], ["z1"]),
        helper.make_node("Add", ["z1", "b1"], ["y"]),
    ]
    held = {"w0": w0, "b0": b0, "w1": w1, "b1": b1}
    tensors = [numpy_helper.from_array(v.astype(np.float32), k) for k, v in held.items()]
    model = models._model(nodes, [models._floats("x", 8)], [models._floats("y", 3)], tensors)
    before, after, made = optimised(model, ["prune"], normal(width=8), sparsity=0.5)
    assert sizes_of(made.path) == {(8, 10), (10, 3)}
    fresh = normal(seed=7, width=8)
    np.testing.assert_allclose(outputs_of(after, fresh)["y"], outputs_of(before, fresh)["y"], rtol=0, atol=2e-5)


def test_units_that_somebody_else_reads_stay(optimised):
    model = perceptron(random_weights(8))
    model.graph.output.append(models._floats("h1", 20))
    with pytest.raises(NotOptimised, match="no units to remove"):
        optimised(model, ["prune"], normal(width=8))


def test_weights_are_pruned_to_the_sparsity_and_compress(optimised):
    network = models.mlp((64, 128, 128, 4))
    rows = normal(width=64)
    before, after, made = optimised(network, ["prune"], rows, prune="weights", sparsity=0.8)
    for tensor in onnx.load(str(made.path)).graph.initializer:
        if len(tensor.dims) == 2:
            values = numpy_helper.to_array(tensor)
            assert (values == 0).mean() == pytest.approx(0.8, abs=1e-3)
    source = made.path.parent.parent / "source/model.onnx"
    measured = measure((before, [source]), (after, [made.path]), rows, sizes=[1])
    assert measured.after.gzip_bytes < 0.5 * measured.before.gzip_bytes
    assert measured.after.bytes == pytest.approx(measured.before.bytes, rel=0.05)


# -- low rank ---------------------------------------------------------------------------------------------------------


def test_a_convolution_and_a_branch_are_left_alone(optimised):
    """Weights inside of an If are not the main graph's."""
    inner = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["t"])],
        "then",
        [],
        [helper.make_tensor_value_info("t", TensorProto.FLOAT, None)],
    )
    other = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["e"])],
        "else",
        [],
        [helper.make_tensor_value_info("e", TensorProto.FLOAT, None)],
    )
    nodes = [helper.make_node("If", ["yes"], ["y"], then_branch=inner, else_branch=other)]
    weights = [
        numpy_helper.from_array(np.array(True), "yes"),
        numpy_helper.from_array(np.ones((8, 8), np.float32), "w"),
    ]
    model = models._model(nodes, [models._floats("x", 8)], [models._floats("y", 8)], weights)
    with pytest.raises(NotOptimised, match="nothing to factor"):
        optimised(model, ["low-rank"], normal(width=8))


def test_factors_that_save_nothing_are_not_made(optimised):
    with pytest.raises(NotOptimised, match="none of the 3 matrices takes fewer multiplications"):
        optimised(models.mlp(), ["low-rank"], normal(), energy=1.0)


def test_the_rank_can_be_given(optimised):
    _, _, made = optimised(models.mlp((64, 128, 128, 4)), ["low-rank"], normal(width=64), rank=5)
    assert {(64, 5), (5, 128), (128, 5)} <= sizes_of(made.path)


def test_every_method_is_known_to_the_chain():
    assert set(METHODS) | {"ort"} == {
        "graph", "fp16", "int8", "int8-static", "ort", "prune", "low-rank", "distil",
    }  # fmt: skip
