"""Low rank: with all the energy the product is the same, with less of it the error is what the spectrum says."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from benchmarks import models
from streamserve.optimise.errors import NotOptimised
from streamserve.optimise.graph import tensors_of
from streamserve.optimise.low_rank import low_rank
from streamserve.optimise.wish import Wish
from streamserve.ports import Signature

NO_SIGNATURE = Signature(inputs=(), outputs=())


def matrix(k: int, n: int, rank: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return (random.normal(size=(k, rank)) @ random.normal(size=(rank, n))).astype(np.float32)


def product(weight: np.ndarray, *, gemm: bool, transposed: bool):
    """x W + b, as a Gemm or as a MatMul and an Add."""
    k, n = weight.shape
    tensors = [
        numpy_helper.from_array(np.ascontiguousarray(weight.T if transposed and gemm else weight), "w"),
        numpy_helper.from_array(np.linspace(-1, 1, n).astype(np.float32), "b"),
    ]
    if gemm:
        nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=int(transposed))]
    else:
        nodes = [helper.make_node("MatMul", ["x", "w"], ["z"]), helper.make_node("Add", ["z", "b"], ["y"])]
    return models._model(nodes, [models._floats("x", k)], [models._floats("y", n)], tensors)


def outputs(model, k: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(seed).normal(size=(16, k)).astype(np.float32)
    return x, tensors_of(model, ["y"], {"x": x})["y"]


@settings(deadline=None, max_examples=40)
@given(
    k=st.integers(8, 60),
    n=st.integers(8, 60),
    rank=st.integers(1, 3),
    seed=st.integers(0, 1000),
    gemm=st.booleans(),
    transposed=st.booleans(),
)
def test_all_the_energy_is_exact_but_for_rounding(k, n, rank, seed, gemm, transposed):
    weight = matrix(k, n, rank, seed)
    model = product(weight, gemm=gemm, transposed=transposed)
    step = low_rank(model, Wish(signature=NO_SIGNATURE, rows={}, energy=1.0))
    assert f"to rank {rank}" in step.done
    x, exact = outputs(model, k, seed)
    _, factored = outputs(step.model, k, seed)
    scale = np.abs(x).sum(axis=1).max() * np.abs(weight).max()
    np.testing.assert_allclose(factored, exact, rtol=0, atol=1e-5 * scale + 1e-6)


@settings(deadline=None, max_examples=40)
@given(k=st.integers(10, 50), n=st.integers(10, 50), energy=st.floats(0.3, 0.99), seed=st.integers(0, 1000))
def test_what_is_lost_is_at_most_the_energy_given_up(k, n, energy, seed):
    weight = np.random.default_rng(seed).normal(size=(k, n)).astype(np.float32)
    weight *= np.float32(0.7) ** np.arange(n, dtype=np.float32)
    model = product(weight, gemm=True, transposed=False)
    try:
        step = low_rank(model, Wish(signature=NO_SIGNATURE, rows={}, energy=energy))
    except NotOptimised:
        return
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in step.model.graph.initializer}
    left, right = held["w.left"], held["w.right"]
    assert left.shape[1] * (k + n) < k * n
    lost = np.square(weight - left @ right).sum() / np.square(weight).sum()
    assert lost <= 1 - energy + 1e-5
