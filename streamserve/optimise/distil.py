"""Distillation: a small perceptron learns what a large model answers, on recorded rows, without labels.

The student has the teacher's inputs and outputs (`student`). Probabilities and distributions are learned by cross
entropy against the teacher's, other numbers by squared error. A tenth of the rows is held back and the best epoch on
them is kept. The teacher can be asked about more rows than were recorded: copies in which a fifth of the values come
from other rows. With one seed, machine and release of torch the same student comes out.

Sources: Hinton et al., 2015, "Distilling the knowledge in a neural network"; Bucila et al., 2006, "Model compression"
(made-up rows, there drawn from near neighbours).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np
import onnx

from streamserve.batch import F32, I64, Tensor, Tensors
from streamserve.optimise.errors import NotOptimised, need
from streamserve.optimise.graph import tensors_of
from streamserve.optimise.student import FEATURES, Graph, Head, encode, finish
from streamserve.optimise.wish import Step, Wish

if TYPE_CHECKING:
    import torch

MIN_ROWS: Final = 100
BATCHES: Final = (32, 512)
"""Fewest and most rows a step: few rows are seen in small batches, so that an epoch has steps enough."""
STEPS: Final = 50
RATE: Final = 3e-3
HELD_BACK: Final = 10
"""One row in so many."""
COPIES: Final = 3
SWAPPED: Final = 0.2
"""On 16,000 flights the mean difference falls from 0.030 without copies to 0.025."""


def distil(model: onnx.ModelProto, wish: Wish) -> Step:
    """Train a student on the answers of a model."""
    n = len(next(iter(wish.rows.values())))
    if n < MIN_ROWS:
        raise NotOptimised(f"distil: {n} rows to learn from, at least {MIN_ROWS} are needed; give more --rows")
    need("torch")
    random = np.random.default_rng(wish.seed)
    order = random.permutation(n)
    held, learned = _taken(wish.rows, order[: n // HELD_BACK]), _taken(wish.rows, order[n // HELD_BACK :])
    learned = with_copies(learned, random)
    outputs = [spec.name for spec in wish.signature.outputs]
    answers = [tensors_of(model, outputs, rows) for rows in (learned, held)]
    heads = [Head.of(spec, answers[0][spec.name]) for spec in wish.signature.outputs]
    graph = Graph()
    encode(graph, wish.signature, wish.rows)
    learn = Lesson(_features(graph, model, learned), _targets(heads, answers[0]))
    exam = Lesson(_features(graph, model, held), _targets(heads, answers[1]))
    with _one_thread():
        layers, epoch = _train(learn, exam, heads, wish)
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
    sizes = " x ".join(str(len(weight)) for weight, _ in layers) + f" x {layers[-1][0].shape[1]}"
    return Step(
        made, f"a perceptron of {sizes}, trained on {n:,} rows and copies, the best of {wish.epochs} epochs was {epoch}"
    )


@dataclass(frozen=True, slots=True)
class Lesson:
    """Rows as the student sees them, float32[n, columns], and what it should make of them, float32[n, width]."""

    features: F32
    targets: F32


def with_copies(rows: Tensors, random: np.random.Generator) -> Tensors:
    """The rows, and copies of them in which each value comes from another row with a chance of a fifth."""
    n = len(next(iter(rows.values())))
    parts = [rows]
    for _ in range(COPIES):
        part: Tensors = {}
        for name, values in rows.items():
            flat = values.reshape(n, -1).copy()
            for column in range(flat.shape[1]):
                swapped = random.random(n) < SWAPPED
                flat[swapped, column] = flat[random.integers(0, n, int(swapped.sum())), column]
            part[name] = flat.reshape(values.shape)
        parts.append(part)
    return {name: np.concatenate([part[name] for part in parts]) for name in rows}


def _taken(rows: Tensors, index: I64) -> Tensors:
    return {name: values[index] for name, values in rows.items()}


def _features(graph: Graph, model: onnx.ModelProto, rows: Tensors) -> F32:
    """The rows by the first half of the student's own graph."""
    shown = onnx.helper.make_tensor_value_info(FEATURES, onnx.TensorProto.FLOAT, [None, None])
    values = tensors_of(graph.model(model.graph.input, [shown]), [FEATURES], rows)[FEATURES]
    return values.astype(np.float32)


def _targets(heads: Sequence[Head], answers: Tensors) -> F32:
    return np.concatenate([_target(head, answers[head.spec.name]) for head in heads], axis=1)


def _target(head: Head, values: Tensor) -> F32:
    flat = values.reshape(len(values), -1).astype(np.float32)
    return (flat - head.mean) / head.scale if head.kind == "number" else flat


@contextmanager
def _one_thread() -> Iterator[None]:
    """Torch on one thread: these matrices are small, and waiting threads cost more than they do."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


Layers = list[tuple[F32, F32]]
"""Weight [in, out] and bias [out] of each layer."""


def _train(learn: Lesson, exam: Lesson, heads: Sequence[Head], wish: Wish) -> tuple[Layers, int]:
    """Train. Returns: the layers of the best epoch on the rows held back, and which it was, from 1 on."""
    import torch

    generator = torch.Generator().manual_seed(wish.seed)
    x, y = torch.from_numpy(learn.features), torch.from_numpy(learn.targets)
    held_x, held_y = torch.from_numpy(exam.features), torch.from_numpy(exam.targets)
    network = _network((x.shape[1], *wish.hidden, y.shape[1]), generator)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=1e-4)
    batch = min(max(len(x) // STEPS, BATCHES[0]), BATCHES[1])
    steps = wish.epochs * -(-len(x) // batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    best, layers, best_epoch = float("inf"), _layers(network), 0
    for epoch in range(1, wish.epochs + 1):
        for part in torch.randperm(len(x), generator=generator).split(batch):
            optimizer.zero_grad()
            _loss(network(x[part]), y[part], heads).backward()
            optimizer.step()
            schedule.step()
        with torch.inference_mode():
            loss = float(_loss(network(held_x), held_y, heads))
        if loss < best:
            best, layers, best_epoch = loss, _layers(network), epoch
        if epoch % 5 == 0:
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
