"""The same small models in ONNX, `torch.export` and TorchScript, built and not trained; and some that misbehave.

Needs PyTorch, so tests import it inside fixtures and tests (marker `torch`).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from benchmarks import models
from streamserve.ports import Signature, TensorSpec

if TYPE_CHECKING:
    from pathlib import Path

BATCH = torch.export.Dim("batch", min=1, max=65536)
LENGTH = torch.export.Dim("length", min=1, max=512)


@dataclass(frozen=True)
class Model:
    """A module, what it takes, and how to export it.

    Attributes:
        module: the network.
        example: inputs by name, in the order of `forward`.
        signature: inputs and outputs.
        dynamic: free axes of the inputs, for `torch.export`.
        onnx: the same network.
    """

    module: nn.Module
    example: dict[str, torch.Tensor]
    signature: Signature
    dynamic: dict[str, dict[int, torch.export.Dim]]
    onnx: onnx.ModelProto | None = None

    def save(self, folder: Path, kind: str) -> Path:
        """Write it as `model.onnx`, `model.pt2` or `model.ts`."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"model.{kind}"
        if kind == "onnx":
            return models.save(self.onnx, folder)
        if kind == "pt2":
            program = torch.export.export(self.module, tuple(self.example.values()), dynamic_shapes=self.dynamic)
            torch.export.save(program, path)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # TorchScript is deprecated, and still read
                torch.jit.script(self.module).save(str(path))
        return path


def mlp(sizes: tuple[int, ...] = (16, 64, 64, 1)) -> Model:
    """`benchmarks.models.mlp`: `x` float32[n, 16] -> `probability` float32[n, 1], with the same weights."""
    graph = models.mlp(sizes)
    weights = {w.name: torch.from_numpy(numpy_helper.to_array(w).copy()) for w in graph.graph.initializer}
    layers: list[nn.Module] = []
    for i in range(len(sizes) - 1):
        linear = nn.Linear(sizes[i], sizes[i + 1])
        linear.weight = nn.Parameter(weights[f"w{i}"].T.contiguous())
        linear.bias = nn.Parameter(weights[f"b{i}"])
        layers += [linear, nn.ReLU()]
    network = nn.Sequential(*layers[:-1], nn.Sigmoid())
    return Model(
        module=Named(network).eval(),
        example={"x": torch.zeros(4, sizes[0])},
        signature=_signature({"x": ("float32", sizes[0])}, {"probability": ("float32", sizes[-1])}),
        dynamic={"x": {0: BATCH}},
        onnx=graph,
    )


def text(words: int = 200, width: int = 16, labels: int = 3) -> Model:
    """`tokens` int64[n, l], `mask` bool[n, l] -> `scores` float32[n, 3], `length` float32[n, 1]: a bag of embeddings."""
    random = np.random.default_rng(7)
    table = random.normal(size=(words, width)).astype(np.float32)
    dense = random.normal(size=(width, labels)).astype(np.float32)
    module = Bag(torch.from_numpy(table), torch.from_numpy(dense)).eval()
    return Model(
        module=module,
        example={"tokens": torch.zeros(4, 5, dtype=torch.int64), "mask": torch.ones(4, 5, dtype=torch.bool)},
        signature=_signature(
            {"tokens": ("int64", -1), "mask": ("bool", -1)}, {"scores": ("float32", labels), "length": ("float32", 1)}
        ),
        dynamic={"tokens": {0: BATCH, 1: LENGTH}, "mask": {0: BATCH, 1: LENGTH}},
        onnx=_text_onnx(table, dense),
    )


def looks_up() -> Model:
    """`benchmarks.models.looks_up`: `x` float32[n] -> `y` float32[n], fails when an x is not in its table."""
    return _one_to_one(LooksUp())


def grows_with_value() -> Model:
    """`x` float32[n] -> `y` float32[n] of zeros, by way of sum(x) * 8 bytes; for running out of memory."""
    return _one_to_one(Grows())


def sums_the_batch() -> Model:
    """A model that is none: `x` float32[n] -> `y` float32[1], whatever the batch."""
    return _one_to_one(Sums())


def fixed_batch() -> Model:
    """Exported for a batch of exactly 4: `x` float32[4] -> `y` float32[4]."""
    return _one_to_one(LooksUp(), dynamic={"x": {}})


class Named(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"probability": self.network(x)}


class Bag(nn.Module):
    def __init__(self, table: torch.Tensor, dense: torch.Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(table)
        self.dense = nn.Parameter(dense)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        real = mask.to(torch.float32).unsqueeze(-1)
        length = real.sum(1)
        return ((self.table[tokens] * real).sum(1) / length) @ self.dense, length


class LooksUp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.arange(100.0) ** 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.table[x.to(torch.int64)]


class Grows(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = torch.repeat_interleave(x.to(torch.int64))
        return x * 0 + wide.sum() * 0


class Sums(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum(0, keepdim=True)


def _one_to_one(module: nn.Module, dynamic: dict[str, dict[int, torch.export.Dim]] | None = None) -> Model:
    vector = TensorSpec(name="x", dtype="float32", shape=(-1,))
    return Model(
        module=module.eval(),
        example={"x": torch.ones(4)},
        signature=Signature(inputs=(vector,), outputs=(TensorSpec(name="y", dtype="float32", shape=(-1,)),)),
        dynamic=dynamic or {"x": {0: BATCH}},
    )


def _signature(inputs: dict[str, tuple[str, int]], outputs: dict[str, tuple[str, int]]) -> Signature:
    def specs(tensors: dict[str, tuple[str, int]]) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(name=n, dtype=dtype, shape=(-1, size)) for n, (dtype, size) in tensors.items())

    return Signature(inputs=specs(inputs), outputs=specs(outputs))


def _text_onnx(table: np.ndarray, dense: np.ndarray) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Gather", ["table", "tokens"], ["embedded"], axis=0),
        helper.make_node("Cast", ["mask"], ["real2"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["real2", "last"], ["real"]),
        helper.make_node("Mul", ["embedded", "real"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "one"], ["total"], keepdims=0),
        helper.make_node("ReduceSum", ["real", "one"], ["length"], keepdims=0),
        helper.make_node("Div", ["total", "length"], ["mean"]),
        helper.make_node("MatMul", ["mean", "dense"], ["scores"]),
    ]
    weights = [
        numpy_helper.from_array(table, "table"),
        numpy_helper.from_array(dense, "dense"),
        numpy_helper.from_array(np.array([-1]), "last"),
        numpy_helper.from_array(np.array([1]), "one"),
    ]
    inputs = [
        helper.make_tensor_value_info("tokens", TensorProto.INT64, ["n", "l"]),
        helper.make_tensor_value_info("mask", TensorProto.BOOL, ["n", "l"]),
    ]
    outputs = [
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", dense.shape[1]]),
        helper.make_tensor_value_info("length", TensorProto.FLOAT, ["n", 1]),
    ]
    graph = helper.make_graph(nodes, "text", inputs, outputs, weights)
    opset = [helper.make_opsetid("", models.OPSET)]
    return helper.make_model(graph, opset_imports=opset, ir_version=models.IR_VERSION)
