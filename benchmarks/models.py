"""Small ONNX models, built and not trained: for tests and benchmarks.

Weights come from a seeded generator, so a model is the same on every machine. Needs the `onnx` package.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 8


def save(model: onnx.ModelProto, folder: Path, name: str = "model.onnx") -> Path:
    """Check a model and write it into a folder, which is made."""
    onnx.checker.check_model(model)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(model.SerializeToString())
    return path


def mlp(sizes: Sequence[int] = (16, 64, 64, 1), seed: int = 0) -> onnx.ModelProto:
    """A perceptron: `x` float32[n, sizes[0]] -> `probability` float32[n, sizes[-1]]; ReLU, sigmoid last."""
    nodes, weights = _layers(sizes, seed)
    nodes.append(helper.make_node("Sigmoid", [f"z{len(sizes) - 2}"], ["probability"]))
    return _model(nodes, [_floats("x", sizes[0])], [_floats("probability", sizes[-1])], weights)


def ffnn(seed: int = 0) -> onnx.ModelProto:
    """The network of Crayfish (EDBT 2024): `x` float32[n, 784] -> `scores` float32[n, 10], a softmax."""
    sizes = (784, 32, 32, 32, 10)
    nodes, weights = _layers(sizes, seed)
    nodes.append(helper.make_node("Softmax", ["z3"], ["scores"], axis=1))
    return _model(nodes, [_floats("x", 784)], [_floats("scores", 10)], weights)


def deep(layers: int = 64, width: int = 1024, seed: int = 0) -> onnx.ModelProto:
    """A perceptron that is slow and not large: `x` float32[n, 16] -> `probability` float32[n, 1].

    All hidden layers share one matrix of width by width, so that it costs 2 * layers * width^2 operations a row and
    stays in the cache; with the defaults 134 million, some milliseconds on one thread.
    """
    generator = np.random.default_rng(seed)

    def weights(name: str, rows: int, columns: int) -> onnx.TensorProto:
        scale = np.sqrt(2 / rows)
        return numpy_helper.from_array((scale * generator.standard_normal((rows, columns))).astype(np.float32), name)

    nodes = [helper.make_node("MatMul", ["x", "first"], ["h0"])]
    for layer in range(layers):
        nodes.append(helper.make_node("MatMul", [f"h{layer}", "hidden"], [f"m{layer}"]))
        nodes.append(helper.make_node("Relu", [f"m{layer}"], [f"h{layer + 1}"]))
    nodes.append(helper.make_node("MatMul", [f"h{layers}", "last"], ["z"]))
    nodes.append(helper.make_node("Sigmoid", ["z"], ["probability"]))
    parts = [weights("first", 16, width), weights("hidden", width, width), weights("last", width, 1)]
    return _model(nodes, [_floats("x", 16)], [_floats("probability", 1)], parts)


def words_and_numbers() -> onnx.ModelProto:
    """`carrier` str[n, 1] and `dense` float32[n, 3] -> `carrier_out` str[n, 1], `total` float32[n, 1]."""
    nodes = [
        helper.make_node("Identity", ["carrier"], ["carrier_out"]),
        helper.make_node("ReduceSum", ["dense", "axes"], ["total"], keepdims=1),
    ]
    carrier = helper.make_tensor_value_info("carrier", TensorProto.STRING, ["n", 1])
    out = helper.make_tensor_value_info("carrier_out", TensorProto.STRING, ["n", 1])
    axes = numpy_helper.from_array(np.array([1], dtype=np.int64), "axes")
    return _model(nodes, [carrier, _floats("dense", 3)], [out, _floats("total", 1)], [axes])


def text_classifier(
    words: Sequence[str] = (), *, vocabulary: int = 1000, width: int = 16, classes: int = 4, seed: int = 0
) -> onnx.ModelProto:
    """A bag of layers over a text: embedding, one ReLU layer per position, mean over the mask, scores.

    `tokens` int64[n, length] (with `words`: str[n, length], unknown words are the last of the vocabulary) and `mask`
    int64[n, length] -> `scores` float32[n, classes] and, per position, `hidden` float32[n, length, width].
    """
    generator = np.random.default_rng(seed)
    shapes = {"table": (vocabulary, width), "w0": (width, width), "w1": (width, classes)}
    weights = [
        numpy_helper.from_array(generator.normal(0, shape[-1] ** -0.5, shape).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    weights += [
        numpy_helper.from_array(np.array([axis], np.int64), name) for name, axis in (("positions", 1), ("last", 2))
    ]
    weights.append(numpy_helper.from_array(np.array(1, np.float32), "one"))
    nodes = [
        helper.make_node("Gather", ["table", "ids" if words else "tokens"], ["embedded"], axis=0),
        helper.make_node("MatMul", ["embedded", "w0"], ["z0"]),
        helper.make_node("Relu", ["z0"], ["hidden"]),
        helper.make_node("Cast", ["mask"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["real", "last"], ["weight"]),
        helper.make_node("Mul", ["hidden", "weight"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "positions"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["real", "positions"], ["length"], keepdims=1),
        helper.make_node("Max", ["length", "one"], ["positions_real"]),
        helper.make_node("Div", ["sum", "positions_real"], ["mean"]),
        helper.make_node("MatMul", ["mean", "w1"], ["scores"]),
    ]
    kind = TensorProto.INT64
    if words:
        kind = TensorProto.STRING
        encoder = helper.make_node(
            "LabelEncoder",
            ["tokens"],
            ["ids"],
            domain="ai.onnx.ml",
            keys_strings=list(words),
            values_int64s=list(range(len(words))),
            default_int64=vocabulary - 1,
        )
        nodes.insert(0, encoder)
    inputs = [
        helper.make_tensor_value_info("tokens", kind, ["n", "length"]),
        helper.make_tensor_value_info("mask", TensorProto.INT64, ["n", "length"]),
    ]
    hidden = helper.make_tensor_value_info("hidden", TensorProto.FLOAT, ["n", "length", width])
    return _model(nodes, inputs, [_floats("scores", classes), hidden], weights)


def looks_up() -> onnx.ModelProto:
    """`x` float32[n] -> `y` float32[n], its square from a table of 0..99; fails when an x is not in it."""
    nodes = [
        helper.make_node("Cast", ["x"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "index"], ["y"], axis=0),
    ]
    table = numpy_helper.from_array(np.arange(100, dtype=np.float32) ** 2, "table")
    return _model(nodes, [_floats("x")], [_floats("y")], [table])


def grows_with_value() -> onnx.ModelProto:
    """Needs n * max(x) * 4 bytes: `x` int64[n] -> `y` float32[n] of zeros. For running out of memory."""
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["widest"], keepdims=1),
        helper.make_node("Shape", ["x"], ["rows"]),
        helper.make_node("Concat", ["rows", "widest"], ["shape"], axis=0),
        helper.make_node("ConstantOfShape", ["shape"], ["wide"]),
        helper.make_node("ReduceSum", ["wide", "axes"], ["y"], keepdims=0),
    ]
    axes = numpy_helper.from_array(np.array([1], dtype=np.int64), "axes")
    x = helper.make_tensor_value_info("x", TensorProto.INT64, ["n"])
    return _model(nodes, [x], [_floats("y")], [axes])


def sums_the_batch() -> onnx.ModelProto:
    """A model that is none: `x` float32[n, 2] -> `y` float32[1], whatever the batch."""
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
        helper.make_node("Reshape", ["s", "one"], ["y"]),
    ]
    one = numpy_helper.from_array(np.array([1], dtype=np.int64), "one")
    return _model(nodes, [_floats("x", 2)], [_floats("y")], [one])


def fixed_batch() -> onnx.ModelProto:
    """Exported for a batch of exactly 1: `x` float32[1, 2] -> `y` float32[1, 2]."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])
    return _model([helper.make_node("Identity", ["x"], ["y"])], [x], [y], [])


def gives_a_sequence() -> onnx.ModelProto:
    """An output that is no tensor: `x` float32[n] -> `y` sequence of tensors."""
    y = helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)
    return _model([helper.make_node("SequenceConstruct", ["x"], ["y"])], [_floats("x")], [y], [])


def with_external_data(location: str, count: int = 4) -> onnx.ModelProto:
    """`x` float32[n, count] plus weights that lie in the file `location` -> `y` float32[n, count]."""
    weights = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[count])
    weights.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(4 * count))):
        weights.external_data.add(key=key, value=value)
    return _model([helper.make_node("Add", ["x", "w"], ["y"])], [_floats("x", count)], [_floats("y", count)], [weights])


def _layers(sizes: Sequence[int], seed: int) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Dense layers with ReLU between them; the last is `z<i>`, without activation."""
    random = np.random.default_rng(seed)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []
    below = "x"
    for i, (rows, columns) in enumerate(pairwise(sizes)):
        weight = random.normal(0, rows**-0.5, (rows, columns)).astype(np.float32)
        weights += [
            numpy_helper.from_array(weight, f"w{i}"),
            numpy_helper.from_array(random.normal(0, 0.1, columns).astype(np.float32), f"b{i}"),
        ]
        nodes.append(helper.make_node("Gemm", [below, f"w{i}", f"b{i}"], [f"z{i}"]))
        nodes.append(helper.make_node("Relu", [f"z{i}"], [f"a{i}"]))
        below = f"a{i}"
    return nodes[:-1], weights


def _floats(name: str, *sizes: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *sizes])


def _model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    weights: Sequence[onnx.TensorProto],
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "model", inputs, outputs, weights)
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", 3)],
        ir_version=IR_VERSION,
    )
