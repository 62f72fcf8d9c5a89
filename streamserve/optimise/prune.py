"""Pruning: whole hidden units, which makes matrices smaller, or single weights to zero, which compresses alone.

Units: between two dense layers with nothing but elementwise operators between them, a unit is a column of the first
matrix and a row of the second. Replacing a unit's activation by its mean over the rows changes what the second layer
sums by (a - mean) w, so a unit's score is the standard deviation of its activation times the norm of its row. The
lowest go, and their means times their rows join the second layer's bias: units that never change cost nothing at all.

Weights: of each matrix or convolution those of the smallest magnitude (Han et al., 2015, "Learning both weights and
connections for efficient neural networks", without their retraining).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from streamserve.batch import F64, Tensor
from streamserve.optimise.errors import NotOptimised
from streamserve.optimise.graph import (
    Dense,
    Weights,
    consumers,
    copy_of,
    dense,
    dense_layers,
    drop_unused,
    hoist_constants,
    replace_nodes,
    tensors_of,
    uses,
)
from streamserve.optimise.wish import Step, Wish

ELEMENTWISE: Final = frozenset(
    [
        *("Relu", "LeakyRelu", "Elu", "Selu", "Celu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Softplus"),
        *("Softsign", "Gelu", "Mish", "ThresholdedRelu", "Erf", "Identity"),
    ]
)
BY_UNIT: Final = frozenset({"Add", "Mul", "Sub", "Div"})
"""Elementwise too, with a constant that has a number per unit, or one for all."""
MAX_ROWS: Final = 2048
MULTIPLYING: Final = frozenset({"MatMul", "Gemm", "Conv", "ConvTranspose"})


def prune(model: onnx.ModelProto, wish: Wish) -> Step:
    """Remove a share of the hidden units, or of the weights."""
    return prune_units(model, wish) if wish.prune == "units" else prune_weights(model, wish)


def prune_weights(model: onnx.ModelProto, wish: Wish) -> Step:
    """Set the smallest weights of every matrix and convolution to zero."""
    model = copy_of(model)
    hoist_constants(model)
    weights = Weights(model)
    names = {node.input[1] for node in model.graph.node if node.op_type in MULTIPLYING and not node.domain}
    names = {name for name in names if weights.floats(name)}
    if not names:
        raise NotOptimised("prune: the model multiplies by no constant matrix, so there are no weights to prune")
    zeros = total = 0
    for name in sorted(names):
        values = weights.get(name)
        order = np.argsort(np.abs(values), axis=None, kind="stable")
        pruned = values.flatten()
        pruned[order[: round(wish.sparsity * values.size)]] = 0
        weights.put(name, pruned.reshape(values.shape))
        zeros, total = zeros + int((pruned == 0).sum()), total + values.size
    return Step(model, f"{zeros:,} of {total:,} weights are zero: no fewer operations, but smaller when compressed")


def prune_units(model: onnx.ModelProto, wish: Wish) -> Step:
    """Remove the units of hidden layers that matter least on the rows, layer by layer."""
    model = copy_of(model)
    hoist_constants(model)
    removed = total = 0
    for output in [hidden.second.node.output[0] for hidden in _hidden_layers(model)]:
        hidden = next(each for each in _hidden_layers(model) if each.second.node.output[0] == output)
        activations = _activations(model, hidden, wish)
        keep, mean = _kept(hidden, activations, wish.sparsity)
        removed, total = removed + int((~keep).sum()), total + len(keep)
        _remove(model, hidden, keep, mean)
    if not removed:
        raise NotOptimised(
            "prune: there are no units to remove: no two dense layers with elementwise operators alone between them"
            if not total
            else f"prune: --sparsity {wish.sparsity:g} removes none of the {total} units"
        )
    drop_unused(model)
    return Step(model, f"{removed:,} of {total:,} hidden units removed, their means kept in the biases")


@dataclass(frozen=True, slots=True)
class _Hidden:
    """A layer of hidden units.

    Attributes:
        first: makes them, one a column.
        by_unit: names of the constants between them that have a number per unit.
        second: reads them, one a row.
    """

    first: Dense
    by_unit: tuple[str, ...]
    second: Dense


def _hidden_layers(model: onnx.ModelProto) -> list[_Hidden]:
    graph, weights = model.graph, Weights(model)
    readers, used = consumers(graph), uses(graph)
    found = [_hidden(layer, weights, readers, used) for layer in dense_layers(model, weights)]
    return [hidden for hidden in found if hidden is not None]


def _hidden(
    first: Dense, weights: Weights, readers: Mapping[str, list[onnx.NodeProto]], used: Counter[str]
) -> _Hidden | None:
    """The units of a layer, if nothing but another dense layer reads them and no constant of theirs is shared."""
    units = first.matrix.shape[1]
    owned = [first.weight, *([first.bias] if first.bias else [])]
    tensor = first.node.output[0]
    while used[tensor] == 1 and tensor in readers:
        node = readers[tensor][0]
        second = dense(node, weights)
        if second is not None and node.input[0] == tensor:
            owned.append(second.weight)
            own = all(used[name] == 1 and name in weights for name in owned)
            return _Hidden(first, tuple(owned[1:-1]), second) if own and second.plain else None
        if node.domain or node.op_type not in ELEMENTWISE | BY_UNIT:
            return None
        if node.op_type in BY_UNIT:
            other = node.input[1] if node.input[0] == tensor else node.input[0]
            if not weights.floats(other) or not _by_unit(weights.get(other), units):
                return None
            if weights.get(other).size > 1:
                owned.append(other)
        tensor = node.output[0]
    return None


def _by_unit(values: Tensor, units: int) -> bool:
    """One number for all units, or one for each."""
    return values.size == 1 or (values.size == units and values.shape[-1] == units)


def _activations(model: onnx.ModelProto, hidden: _Hidden, wish: Wish) -> F64:
    """What the units hold on the rows, float64[n, units]."""
    rows = {name: values[:MAX_ROWS] for name, values in wish.rows.items()}
    name = hidden.second.node.input[0]
    values = tensors_of(model, [name], rows)[name]
    return values.reshape(-1, values.shape[-1]).astype(np.float64)


def _kept(hidden: _Hidden, activations: F64, sparsity: float) -> tuple[npt.NDArray[np.bool_], F64]:
    """Which units stay, at least one, and the mean of each."""
    norms = np.linalg.norm(hidden.second.matrix.astype(np.float64), axis=1)
    score = activations.std(axis=0) * norms
    keep = np.ones(len(score), dtype=np.bool_)
    keep[np.argsort(score, kind="stable")[: min(round(sparsity * len(score)), len(score) - 1)]] = False
    return keep, activations.mean(axis=0)


def _remove(model: onnx.ModelProto, hidden: _Hidden, keep: npt.NDArray[np.bool_], mean: F64) -> None:
    """Cut the units out of both matrices and of what stands between; their means go into the second bias."""
    weights, first, second = Weights(model), hidden.first, hidden.second
    _put(weights, first, first.matrix[:, keep])
    for name in hidden.by_unit:
        if weights.get(name).size > 1:
            weights.put(name, weights.get(name)[..., keep])
    gone = second.matrix[~keep].astype(np.float64)
    shift: F64 = mean[~keep] @ gone
    _put(weights, second, second.matrix[keep])
    if not shift.any():
        return
    if second.bias in weights and uses(model.graph)[second.bias] == 1:
        bias = weights.get(second.bias)
        weights.put(second.bias, (bias.astype(np.float64) + shift).astype(bias.dtype))
        return
    name = second.node.output[0]
    node = onnx.NodeProto()
    node.CopyFrom(second.node)
    node.output[0] = f"{name}.pruned"
    weights.put(f"{name}.shift", shift.astype(second.matrix.dtype))
    add = helper.make_node("Add", [node.output[0], f"{name}.shift"], [name], f"{name}.add")
    replace_nodes(model.graph, {name: (node, add)})


def _put(weights: Weights, layer: Dense, matrix: Tensor) -> None:
    weights.put(layer.weight, matrix.T if layer.transposed else matrix)
