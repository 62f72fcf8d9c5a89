"""Distillation: a small perceptron learns what a large model answers, on recorded rows, without labels.

Source: Hinton et al., 2015, "Distilling the knowledge in a neural network".

The student has the teacher's inputs and outputs (`student`). Probabilities and distributions are learned by cross
entropy against the teacher's, other numbers by squared error. A tenth of the rows is held back and the best epoch on
them is kept. With one seed, machine and release of torch the same student comes out.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np
import onnx

from streamserve.batch import F32
from streamserve.optimise.errors import NotOptimised, need
from streamserve.optimise.graph import tensors_of
from streamserve.optimise.student import FEATURES, Graph, Head, encode, finish
from streamserve.optimise.wish import Step, Wish

if TYPE_CHECKING:
    import torch

MIN_ROWS: Final = 100
BATCH: Final = 256
RATE: Final = 2e-3
HELD_BACK: Final = 10
"""One row in so many."""


def distil(model: onnx.ModelProto, wish: Wish) -> Step:
    """Train a student on the answers of a model."""
    need("torch")
    n = len(next(iter(wish.rows.values())))
    if n < MIN_ROWS:
        raise NotOptimised(f"distil: {n} rows to learn from, at least {MIN_ROWS} are needed; give more --rows")
    outputs = [spec.name for spec in wish.signature.outputs]
    answers = tensors_of(model, outputs, wish.rows)
    heads = [Head.of(spec, answers[spec.name]) for spec in wish.signature.outputs]
    graph = Graph()
    features = _features(graph, model, wish)
    targets = np.concatenate([_target(head, answers[head.spec.name]) for head in heads], axis=1)
    layers, epoch = _train(features, targets, heads, wish)
    below = FEATURES
    for weight, bias in layers[:-1]:
        below = graph.add("Relu", [graph.add("Gemm", [below, graph.constant(weight), graph.constant(bias)])])
    weight, bias = layers[-1]
    start = 0
    for head in heads:
        part = slice(start, start := start + head.width)
        logits = graph.add("Gemm", [below, graph.constant(weight[:, part]), graph.constant(bias[part])])
        finish(graph, head, logits)
    made = graph.model(model.graph.input, model.graph.output)
    sizes = " x ".join(map(str, (features.shape[1], *wish.hidden, targets.shape[1])))
    return Step(made, f"a perceptron of {sizes}, trained on {n:,} rows, the best of {wish.epochs} epochs was {epoch}")


def _features(graph: Graph, model: onnx.ModelProto, wish: Wish) -> F32:
    """The rows as the student sees them, float32[n, columns]."""
    name = encode(graph, wish.signature, wish.rows)
    shown = onnx.ValueInfoProto(name=name)
    shown.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    values = tensors_of(graph.model(model.graph.input, [shown]), [name], wish.rows)[name]
    return values.astype(np.float32)


def _target(head: Head, values: np.typing.NDArray[np.generic]) -> F32:
    flat = values.reshape(len(values), -1).astype(np.float32)
    return (flat - head.mean) / head.scale if head.kind == "number" else flat


Layers = list[tuple[F32, F32]]
"""Weight [in, out] and bias [out] of each layer."""


def _train(features: F32, targets: F32, heads: Sequence[Head], wish: Wish) -> tuple[Layers, int]:
    """Train. Returns: the layers of the best epoch, and which it was, from 1 on."""
    import torch

    generator = torch.Generator().manual_seed(wish.seed)
    order = torch.randperm(len(features), generator=generator)
    held, learned = order[: len(order) // HELD_BACK], order[len(order) // HELD_BACK :]
    x, y = torch.from_numpy(features), torch.from_numpy(targets)
    network = _network((features.shape[1], *wish.hidden, targets.shape[1]), generator)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=1e-4)
    steps = wish.epochs * -(-len(learned) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    best, layers, best_epoch = float("inf"), _layers(network), 0
    for epoch in range(1, wish.epochs + 1):
        for part in learned[torch.randperm(len(learned), generator=generator)].split(BATCH):
            optimizer.zero_grad()
            _loss(network(x[part]), y[part], heads).backward()
            optimizer.step()
            schedule.step()
        with torch.inference_mode():
            loss = float(_loss(network(x[held]), y[held], heads))
        if loss < best:
            best, layers, best_epoch = loss, _layers(network), epoch
        if epoch % 20 == 0:
            wish.progress(f"distil: epoch {epoch} of {wish.epochs}, loss on rows held back {loss:.4g}")
    return layers, best_epoch


def _network(sizes: Sequence[int], generator: torch.Generator) -> torch.nn.Sequential:
    """A perceptron with ReLU between its layers, started from the seed."""
    import torch

    modules: list[torch.nn.Module] = []
    for below, above in pairwise(sizes):
        layer = torch.nn.Linear(below, above)
        torch.nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu", generator=generator)
        torch.nn.init.zeros_(layer.bias)
        modules += [layer, torch.nn.ReLU()]
    return torch.nn.Sequential(*modules[:-1])


def _loss(logits: torch.Tensor, targets: torch.Tensor, heads: Sequence[Head]) -> torch.Tensor:
    """The sum of the heads' losses."""
    import torch
    from torch.nn import functional

    total, start = torch.zeros(()), 0
    for head in heads:
        part = slice(start, start := start + head.width)
        z, y = logits[:, part], targets[:, part]
        match head.kind:
            case "probability":
                total = total + functional.binary_cross_entropy_with_logits(z, y)
            case "distribution":
                total = total + functional.cross_entropy(z, y)
            case "number":
                total = total + functional.mse_loss(z, y)
    return total


def _layers(network: torch.nn.Sequential) -> Layers:
    import torch

    linear = [module for module in network if isinstance(module, torch.nn.Linear)]
    return [(m.weight.detach().numpy().T.copy(), m.bias.detach().numpy().copy()) for m in linear]
