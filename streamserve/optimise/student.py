"""The student of a distillation as an ONNX graph: the teacher's inputs and outputs around a perceptron.

Numbers are standardised and cut at ten standard deviations, texts become one column per category (none for a text that
was not seen), all inside of the graph, so that a student takes the place of its teacher. The first half is run by
itself to make the columns that it is trained on: there is one encoding, not two.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from streamserve.batch import F32, Tensor, Tensors
from streamserve.optimise.errors import NotOptimised
from streamserve.ports import Signature, TensorSpec

OPSET: Final = 17
ML_OPSET: Final = 3
IR_VERSION: Final = 8
MAX_CATEGORIES: Final = 256
"""The most frequent ones of a column; the others are like texts that were not seen."""
CUT: Final = 10.0
FEATURES: Final = "student.features"

Kind = Literal["probability", "distribution", "number"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """One output of the teacher, and how it is learned.

    Attributes:
        spec: the output.
        kind: a probability, a distribution over its elements, or just numbers.
        width: elements a row.
        mean, scale: float32[width], of numbers.
    """

    spec: TensorSpec
    kind: Kind
    width: int
    mean: F32
    scale: F32

    @staticmethod
    def of(spec: TensorSpec, values: Tensor) -> Head:
        """How to learn an output, by what the teacher gives on the rows. Raises: NotOptimised."""
        if spec.dtype not in {"float32", "float64"} or any(axis < 0 for axis in spec.shape[1:]):
            raise NotOptimised(
                f"distil: output {spec.name} is {spec.dtype}{list(spec.shape)}; a student learns numbers of a fixed"
                " shape"
            )
        flat = values.reshape(len(values), -1).astype(np.float64)
        unit = flat.size > 0 and flat.min() >= 0 and flat.max() <= 1
        whole = unit and flat.shape[1] > 1 and np.allclose(flat.sum(axis=1), 1, atol=1e-4)
        kind: Kind = "distribution" if whole else "probability" if unit else "number"
        scale = flat.std(axis=0)
        return Head(
            spec=spec,
            kind=kind,
            width=flat.shape[1],
            mean=flat.mean(axis=0).astype(np.float32),
            scale=np.where(scale > 0, scale, 1).astype(np.float32),
        )


class Graph:
    """A graph that grows node by node."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def constant(self, values: Tensor) -> str:
        name = f"student.{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def add(self, kind: str, inputs: Sequence[str], output: str = "", *, domain: str = "", **attributes: Any) -> str:
        """Append a node. Returns: the name of its output."""
        output = output or f"student.node.{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], output, domain=domain, **attributes))
        return output

    def model(self, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, "student", inputs, outputs, self.weights)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
        onnx.checker.check_model(model)
        return model


def encode(graph: Graph, signature: Signature, rows: Tensors) -> None:
    """Add the encoding of the inputs, by what the rows hold: makes `FEATURES`, float32[n, columns]."""
    columns = []
    for spec in signature.inputs:
        if any(axis < 0 for axis in spec.shape[1:]):
            raise NotOptimised(
                f"distil: input {spec.name} is {list(spec.shape)}; a student takes inputs of a fixed shape"
            )
        width = math.prod(spec.shape[1:])
        values = rows[spec.name].reshape(-1, width)
        flat = graph.add("Reshape", [spec.name, graph.constant(np.array([-1, width], dtype=np.int64))])
        columns += _categories(graph, flat, values) if spec.dtype == "str" else [_numbers(graph, flat, values)]
    graph.add("Concat", columns, FEATURES, axis=1)


def _numbers(graph: Graph, flat: str, values: Tensor) -> str:
    """Standardised numbers."""
    held = values.astype(np.float64)
    scale = held.std(axis=0)
    mean = graph.constant(held.mean(axis=0).astype(np.float32))
    unit = graph.constant(np.where(scale > 0, scale, 1).astype(np.float32))
    cast = graph.add("Cast", [flat], to=TensorProto.FLOAT)
    standard = graph.add("Div", [graph.add("Sub", [cast, mean]), unit])
    return graph.add("Clip", [standard, *(graph.constant(np.array(end, dtype=np.float32)) for end in (-CUT, CUT))])


def _categories(graph: Graph, flat: str, values: Tensor) -> list[str]:
    """One column per category of each column of texts."""
    found = []
    for column in range(values.shape[1]):
        counts = Counter(map(str, values[:, column].tolist()))
        known = sorted(text for text, _ in counts.most_common(MAX_CATEGORIES))
        text = graph.add("Gather", [flat, graph.constant(np.array(column, dtype=np.int64))], axis=1)
        found.append(graph.add("OneHotEncoder", [text], domain="ai.onnx.ml", cats_strings=known, zeros=1))
    return found


def finish(graph: Graph, head: Head, logits: str) -> None:
    """Add what makes an output of a head's logits, float32[n, width]."""
    match head.kind:
        case "probability":
            values = graph.add("Sigmoid", [logits])
        case "distribution":
            values = graph.add("Softmax", [logits], axis=1)
        case "number":
            scaled = graph.add("Mul", [logits, graph.constant(head.scale)])
            values = graph.add("Add", [scaled, graph.constant(head.mean)])
    if head.spec.dtype == "float64":
        values = graph.add("Cast", [values], to=TensorProto.DOUBLE)
    shape = np.array([-1, *head.spec.shape[1:]], dtype=np.int64)
    graph.add("Reshape", [values, graph.constant(shape)], head.spec.name)
