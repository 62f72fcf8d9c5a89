"""Half precision: weights and arithmetic in float16, inputs and outputs as they were.

A float16 ends at 65,504. What would overflow stays in float32: operators whose tensors pass half of that on the rows,
or whose weights pass it. Processors without float16 arithmetic convert back and forth, which the measurement shows.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx

from streamserve.optimise.errors import NotOptimised
from streamserve.optimise.graph import Weights, attribute, batches_of, copy_of, hoist_constants, replace_nodes, uses
from streamserve.optimise.quiet import quiet
from streamserve.optimise.wish import Step, Wish

LIMIT: Final = float(np.finfo(np.float16).max) / 2
"""The other half is for rows that were not seen."""


def half(model: onnx.ModelProto, wish: Wish) -> Step:
    """Convert what can be converted."""
    with quiet():
        from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

        model = _named(copy_of(model))
        hoist_constants(model)
        blocked = _overflowing(model, wish)
        made = convert_float_to_float16(
            copy_of(model),
            keep_io_types=True,
            op_block_list=[*DEFAULT_OP_BLOCK_LIST, "TreeEnsemble"],
            node_block_list=blocked,
            disable_shape_infer=False,
        )
        _join_float32(made)
    saved = sum(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in made.graph.initializer)
    if not saved:
        raise NotOptimised(
            "fp16: the model holds no float32 weights outside of operators that stay in float32 (trees, for example),"
            " so there is nothing to halve"
        )
    kept = f", {len(blocked)} operators kept in float32: they come near the end of float16" if blocked else ""
    return Step(made, f"{saved} tensors in float16{kept}")


def _named(model: onnx.ModelProto) -> onnx.ModelProto:
    """Every node with a name of its own: the converter knows nodes by it."""
    for number, node in enumerate(model.graph.node):
        node.name = f"{node.name or node.op_type}.{number}"
    return model


def _overflowing(model: onnx.ModelProto, wish: Wish) -> list[str]:
    """Names of the nodes that read or write what float16 does not hold."""
    weights = Weights(model)
    shapes = onnx.shape_inference.infer_shapes(model)
    known = {value.name for value in shapes.graph.value_info if _is_float(value)}
    known |= {value.name for value in model.graph.output if _is_float(value)}
    made = [name for node in model.graph.node for name in node.output if name in known]
    large = {
        name for part in batches_of(model, made, wish.rows) for name, values in part.items() if _largest(values) > LIMIT
    }
    large |= {name for name, values in wish.rows.items() if values.dtype.kind == "f" and _largest(values) > LIMIT}
    large |= {
        t.name for t in model.graph.initializer if weights.floats(t.name) and _largest(weights.get(t.name)) > LIMIT
    }
    return [node.name for node in model.graph.node if large.intersection((*node.input, *node.output))]


def _join_float32(model: onnx.ModelProto) -> None:
    """Take out casts to float16 and back between operators in float32: what lies between would overflow there."""
    shapes = onnx.shape_inference.infer_shapes(model).graph
    single = {value.name for value in (*shapes.value_info, *shapes.input) if _is_float(value)}
    down = {
        node.output[0]: node.input[0]
        for node in model.graph.node
        if _casts_to(node, onnx.TensorProto.FLOAT16) and node.input[0] in single
    }
    back = {
        node.output[0]: down[node.input[0]]
        for node in model.graph.node
        if _casts_to(node, onnx.TensorProto.FLOAT) and node.input[0] in down
    }
    for node in model.graph.node:
        for at, name in enumerate(node.input):
            node.input[at] = back.get(name, name)
    used = uses(model.graph)
    idle = {name: () for name in back if not used[name]}
    replace_nodes(model.graph, idle)
    used = uses(model.graph)
    replace_nodes(model.graph, {name: () for name in down if not used[name]})


def _casts_to(node: onnx.NodeProto, kind: int) -> bool:
    return node.op_type == "Cast" and attribute(node, "to") == kind


def _is_float(value: onnx.ValueInfoProto) -> bool:
    return value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT


def _largest(values: np.typing.NDArray[np.generic]) -> float:
    return float(np.abs(values).max()) if values.size else 0.0
