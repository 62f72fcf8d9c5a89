"""An ONNX graph as the methods look at it: constant weights, the layers that multiply by them, who uses which tensor.

Only the main graph is looked at; what lies inside of loops and branches is left as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from onnx import helper, numpy_helper

from streamserve.batch import Tensor, Tensors
from streamserve.errors import ContractError

MAX_MODEL_BYTES: Final = (1 << 31) - 1
"""Protobuf holds no larger message, so a larger model cannot be rewritten in one."""
BATCH_ROWS: Final = 512


def read_model(path: str | Path) -> onnx.ModelProto:
    """Load a model, external data too. Raises: ContractError for what cannot be rewritten."""
    if Path(path).suffix != ".onnx":
        raise ContractError(
            f"{path} is no ONNX model: only model.onnx can be optimised. Name the version that it was made from"
        )
    model = onnx.load(str(path))
    if model.ByteSize() > MAX_MODEL_BYTES:
        raise ContractError(f"{path} holds {model.ByteSize():,} bytes; at most 2 GiB can be rewritten")
    return model


def copy_of(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that may be changed."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


class Weights:
    """The constant tensors of a model's main graph; what is put is written into the model."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._graph = model.graph
        self._at = {tensor.name: i for i, tensor in enumerate(model.graph.initializer)}
        given = {value.name for value in model.graph.input}
        self._constant = self._at.keys() - given

    def __contains__(self, name: str) -> bool:
        return name in self._constant

    def get(self, name: str) -> Tensor:
        return numpy_helper.to_array(self._graph.initializer[self._at[name]])

    def floats(self, name: str) -> bool:
        """Whether it is there and holds float32 or float64."""
        kinds = {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE}
        return name in self and self._graph.initializer[self._at[name]].data_type in kinds

    def put(self, name: str, values: Tensor) -> None:
        """Replace a tensor, or add one."""
        tensor = numpy_helper.from_array(values, name)
        if name in self._at:
            self._graph.initializer[self._at[name]].CopyFrom(tensor)
        else:
            self._at[name] = len(self._graph.initializer)
            self._constant = self._constant | {name}
            self._graph.initializer.append(tensor)


def hoist_constants(model: onnx.ModelProto) -> None:
    """Make initialisers of `Constant` nodes with a tensor, so that weights stand in one place."""
    hoisted: dict[str, tuple[onnx.NodeProto, ...]] = {}
    for node in model.graph.node:
        value = attribute(node, "value")
        if node.op_type == "Constant" and not node.domain and isinstance(value, onnx.TensorProto):
            tensor = model.graph.initializer.add()
            tensor.CopyFrom(value)
            tensor.name = node.output[0]
            hoisted[node.output[0]] = ()
    replace_nodes(model.graph, hoisted)


def attribute(node: onnx.NodeProto, name: str, default: object = None) -> object:
    """An attribute of a node."""
    for each in node.attribute:
        if each.name == name:
            return helper.get_attribute_value(each)
    return default


def consumers(graph: onnx.GraphProto) -> Mapping[str, list[onnx.NodeProto]]:
    """Tensor -> the nodes that read it, those of sub-graphs included (as the node that holds them)."""
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in _reads(node):
            found.setdefault(name, []).append(node)
    return found


def uses(graph: onnx.GraphProto) -> Counter[str]:
    """Tensor -> how often it is read, as an output of the graph too."""
    found = Counter(name for node in graph.node for name in _reads(node))
    found.update(value.name for value in graph.output)
    return found


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    yield from filter(None, node.input)
    for each in node.attribute:
        for graph in (each.g, *each.graphs):
            for inner in graph.node:
                yield from _reads(inner)


@dataclass(frozen=True, slots=True)
class Dense:
    """A MatMul or Gemm by a constant matrix.

    Attributes:
        node: the node.
        weight: name of the matrix.
        matrix: float[k, n], from k inputs to n outputs.
        transposed: whether the model holds it as [n, k].
    """

    node: onnx.NodeProto
    weight: str
    matrix: Tensor
    transposed: bool

    @property
    def plain(self) -> bool:
        """Whether nothing is scaled: the output is input times matrix, plus the bias of a Gemm."""
        return attribute(self.node, "alpha", 1.0) == 1.0 and attribute(self.node, "beta", 1.0) == 1.0

    @property
    def bias(self) -> str:
        """Name of the bias of a Gemm, or nothing."""
        return self.node.input[2] if self.node.op_type == "Gemm" and len(self.node.input) > 2 else ""


def dense_layers(model: onnx.ModelProto, weights: Weights) -> list[Dense]:
    """The layers that multiply by a constant matrix, in the graph's order."""
    return [layer for node in model.graph.node if (layer := dense(node, weights)) is not None]


def dense(node: onnx.NodeProto, weights: Weights) -> Dense | None:
    """A node as such a layer, if it is one."""
    if node.domain or node.op_type not in {"MatMul", "Gemm"} or not weights.floats(node.input[1]):
        return None
    matrix = weights.get(node.input[1])
    if matrix.ndim != 2 or (node.op_type == "Gemm" and attribute(node, "transA", 0)):
        return None
    transposed = bool(attribute(node, "transB", 0))
    return Dense(node, node.input[1], matrix.T if transposed else matrix, transposed)


def replace_nodes(graph: onnx.GraphProto, others: Mapping[str, Sequence[onnx.NodeProto]]) -> None:
    """Put other nodes in the place of some; `others` names a node by its first output."""
    nodes = [new for node in graph.node for new in others.get(node.output[0], (node,))]
    copies = onnx.GraphProto(node=nodes)
    del graph.node[:]
    graph.node.extend(copies.node)


def drop_unused(model: onnx.ModelProto) -> None:
    """Remove initialisers that nothing reads any more, and the shapes noted of tensors that are gone or changed."""
    graph, used = model.graph, uses(model.graph)
    kept = [tensor for tensor in graph.initializer if used[tensor.name]]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    del graph.value_info[:]


def tensors_of(model: onnx.ModelProto, names: Sequence[str], rows: Tensors) -> Tensors:
    """What the tensors `names`, whose first axis is the batch, hold while the model is run on `rows`."""
    parts = list(batches_of(model, names, rows))
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def batches_of(model: onnx.ModelProto, names: Sequence[str], rows: Tensors) -> Iterator[Tensors]:
    """What the tensors `names` hold, batch after batch of the rows."""
    import onnxruntime

    shown = copy_of(model)
    present = {value.name for value in shown.graph.output}
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in present)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(shown.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for batch in in_batches(rows, BATCH_ROWS):
        yield dict(zip(names, session.run(list(names), batch), strict=True))


def in_batches(rows: Tensors, size: int) -> Iterator[Tensors]:
    """Rows, `size` at a time."""
    for start in range(0, len(next(iter(rows.values()))), size):
        yield {name: values[start : start + size] for name, values in rows.items()}
