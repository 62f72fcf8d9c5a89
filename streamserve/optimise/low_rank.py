"""Low rank: a large matrix product as two small ones, by the truncated singular value decomposition.

Of W[k, n] = U diag(s) V the r largest singular values stay, which is the matrix of rank r nearest to W (Eckart and
Young, 1936, "The approximation of one matrix by another of lower rank"). x W takes k n multiplications a row, (x U_r)
V_r takes r (k + n): a layer is replaced only where that is less.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from streamserve.batch import F64, Tensor
from streamserve.optimise.errors import NotOptimised
from streamserve.optimise.graph import (
    Dense,
    Weights,
    copy_of,
    dense_layers,
    drop_unused,
    hoist_constants,
    replace_nodes,
)
from streamserve.optimise.wish import Step, Wish


def low_rank(model: onnx.ModelProto, wish: Wish) -> Step:
    """Replace the products that take fewer multiplications in two."""
    model = copy_of(model)
    hoist_constants(model)
    weights = Weights(model)
    done: list[str] = []
    factored: dict[str, list[onnx.NodeProto]] = {}
    halves: dict[str, tuple[str, str] | None] = {}
    layers = dense_layers(model, weights)
    for layer in layers:
        if layer.weight not in halves:
            halves[layer.weight] = _halves(layer, weights, wish)
        split = halves[layer.weight]
        if split is not None:
            factored[layer.node.output[0]] = _factored(layer, *split)
            k, n = layer.matrix.shape
            done.append(f"{layer.weight} {k} x {n} to rank {weights.get(split[0]).shape[1]}")
    if not done:
        raise NotOptimised(_nothing(layers, wish))
    replace_nodes(model.graph, factored)
    drop_unused(model)
    return Step(model, f"{len(done)} of {len(layers)} matrices: {', '.join(done)}")


def _nothing(layers: list[Dense], wish: Wish) -> str:
    if not layers:
        return "low-rank: the model has no MatMul or Gemm by a constant matrix, so there is nothing to factor"
    kept = f"rank {wish.rank}" if wish.rank is not None else f"{wish.energy:g} of the energy"
    return (
        f"low-rank: at {kept} none of the {len(layers)} matrices takes fewer multiplications in two factors; lower"
        " --energy or --rank"
    )


def _halves(layer: Dense, weights: Weights, wish: Wish) -> tuple[str, str] | None:
    """Names of the two factors, [k, r] and [r, n], if they are worth it."""
    k, n = layer.matrix.shape
    u, s, v = np.linalg.svd(layer.matrix.astype(np.float64), full_matrices=False)
    rank = kept_rank(s, wish, (k, n))
    if rank * (k + n) >= k * n:
        return None
    root: F64 = np.sqrt(s[:rank])
    left, right = f"{layer.weight}.left", f"{layer.weight}.right"
    weights.put(left, (u[:, :rank] * root).astype(layer.matrix.dtype))
    weights.put(right, (root[:, None] * v[:rank]).astype(layer.matrix.dtype))
    return left, right


def kept_rank(s: Tensor, wish: Wish, shape: tuple[int, ...]) -> int:
    """How many singular values stay, at least one; `s` is descending.

    With all the energy: those above rounding, as in numpy's `matrix_rank` for float32.
    """
    if wish.rank is not None:
        return min(wish.rank, len(s))
    if wish.energy >= 1:
        return max(1, int((s > s[0] * max(shape) * np.finfo(np.float32).eps).sum()))
    share = np.cumsum(np.square(s)) / max(float(np.square(s).sum()), np.finfo(np.float64).tiny)
    return min(len(s), 1 + int(np.searchsorted(share, wish.energy)))


def _factored(layer: Dense, left: str, right: str) -> list[onnx.NodeProto]:
    """The nodes of (x L) R + b."""
    between = f"{layer.node.output[0]}.low_rank"
    second = onnx.NodeProto()
    second.CopyFrom(layer.node)
    second.input[0], second.input[1] = between, right
    for each in second.attribute:
        if each.name == "transB":
            each.i = 0
    return [helper.make_node("MatMul", [layer.node.input[0], left], [between], f"{between}.left"), second]
