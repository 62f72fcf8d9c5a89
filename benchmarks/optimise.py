"""`model optimize` method by method, on the flights model and on a network of 784, 2048, 2048 and 10 units.

    python -m benchmarks.optimise flights|network [variant ...]

Prints a table for docs/optimise.md. The network stands for a trained one: the singular values of its hidden matrices
fall as a power law, a tenth of its units never change, its rows lie in ten clusters near a space of 40 dimensions, and
its last layer is fitted to the clusters (ridge regression). Weights and rows come from one seed.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import orjson
from onnx import helper, numpy_helper

from benchmarks import models
from streamserve.batch import Tensors
from streamserve.cli.model_optimize import split
from streamserve.cli.optimise_rows import inputs_of_file
from streamserve.config.engine_settings import EngineSettings
from streamserve.config.loading import load
from streamserve.demo import flights
from streamserve.engines.onnx import OnnxEngine
from streamserve.optimise.chain import run
from streamserve.optimise.errors import NotOptimised
from streamserve.optimise.measure import BATCH_SIZES, Measured, measure
from streamserve.optimise.wish import Wish

SIZES = (784, 2048, 2048, 10)
DECAY = 1.0
DEAD = 0.1
DIMENSIONS = 40
CONFIDENCE = 5
ROWS = 6000
CPU = EngineSettings(device="cpu")
VARIANTS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "graph": (["graph"], {}),
    "ort": (["ort"], {}),
    "fp16": (["fp16"], {}),
    "int8": (["int8"], {}),
    "int8-static": (["int8-static"], {}),
    "prune": (["prune"], {"sparsity": 0.1}),
    "prune-more": (["prune"], {"sparsity": 0.3}),
    "prune-weights": (["prune"], {"sparsity": 0.5, "prune": "weights"}),
    "low-rank": (["low-rank"], {"energy": 0.999}),
    "low-rank-int8": (["low-rank", "int8"], {"energy": 0.999}),
    "distil": (["distil"], {}),
}
"""Name -> methods, and what they are given on the network."""


def network() -> onnx.ModelProto:
    """`x` float32[n, 784] -> `scores` float32[n, 10], a softmax; 25 MB."""
    random = np.random.default_rng(0)
    rows, labels = clusters(random, ROWS)
    nodes, weights, below, hidden = [], [], "x", rows
    for i, (k, n) in enumerate(pairwise(SIZES)):
        if i < len(SIZES) - 2:
            matrix, bias = _matrix(random, k, n), random.normal(0, 0.05, n)
            bias[random.choice(n, int(DEAD * n), replace=False)] = -20
            hidden = np.maximum(hidden @ matrix + bias, 0)
        else:
            matrix = np.linalg.solve(hidden.T @ hidden + len(rows) * 1e-3 * np.eye(k), hidden.T @ np.eye(n)[labels])
            matrix, bias = CONFIDENCE * matrix, np.zeros(n)
        weights += [
            numpy_helper.from_array(matrix.astype(np.float32), f"w{i}"),
            numpy_helper.from_array(bias.astype(np.float32), f"b{i}"),
        ]
        nodes.append(helper.make_node("Gemm", [below, f"w{i}", f"b{i}"], [f"z{i}"]))
        nodes.append(helper.make_node("Relu", [f"z{i}"], [f"a{i}"]))
        below = f"a{i}"
    nodes[-1] = helper.make_node("Softmax", [f"z{len(SIZES) - 2}"], ["scores"], axis=1)
    return models._model(nodes, [models._floats("x", SIZES[0])], [models._floats("scores", SIZES[-1])], weights)  # noqa: SLF001


def _matrix(random: np.random.Generator, k: int, n: int) -> np.ndarray:
    """A matrix whose singular values fall as a power law and that keeps the size of what it multiplies."""
    left, _ = np.linalg.qr(random.normal(size=(k, min(k, n))))
    right, _ = np.linalg.qr(random.normal(size=(n, min(k, n))))
    matrix = (left * np.arange(1, min(k, n) + 1) ** -DECAY) @ right.T
    return matrix * np.sqrt(n) / np.linalg.norm(matrix) * 1.4


def clusters(random: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of ten clusters, near a space of few dimensions as images are, and the cluster of each."""
    shape = np.random.default_rng(1)
    basis = shape.normal(size=(DIMENSIONS, SIZES[0])) / np.sqrt(DIMENSIONS)
    centres = shape.normal(size=(SIZES[-1], DIMENSIONS))
    labels = random.integers(0, SIZES[-1], n)
    within = centres[labels] + random.normal(0, 0.8, (n, DIMENSIONS))
    return within @ basis + random.normal(0, 0.05, (n, SIZES[0])), labels


def network_rows() -> Tensors:
    """Rows that the network was not fitted to."""
    rows, _ = clusters(np.random.default_rng(2), ROWS)
    return {"x": rows.astype(np.float32)}


def flights_model(folder: Path) -> tuple[onnx.ModelProto, Tensors, dict[str, float]]:
    """The demo's model and its first 20,000 departures."""
    root = Path(flights.__file__).parent
    settings = load(root / "streamserve.yaml", {}).settings
    path = root / "models/flight-delay/1/model.onnx"
    file = folder / "rows.jsonl"
    events = flights.Flights.load().events(0, 20_000)
    file.write_bytes(b"".join(orjson.dumps(event) + b"\n" for event in events))
    signature = OnnxEngine(path, CPU).signature
    rows, _ = inputs_of_file(file, settings, signature, 20_000)
    return onnx.load(str(path)), rows, settings.output.decisions


def main(which: str, only: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, rows, thresholds = flights_model(folder) if which == "flights" else (network(), network_rows(), {})
        source = models.save(model, folder / "source")
        before = OnnxEngine(source, CPU)
        hidden = (256, 128) if which == "network" else (64, 64)
        wish = Wish(signature=before.signature, rows=rows, hidden=hidden)
        print(_line("by", "file", "gzip", *(f"batch of {size}" for size in BATCH_SIZES), "max", "mean", "decide alike"))
        print(_line(*["---"] * 9))
        for variant in only or VARIANTS:
            methods, changes = VARIANTS[variant]
            made = folder / variant
            made.mkdir()
            learned, fresh = split(rows, methods)
            try:
                result = run(source, methods, replace(wish, rows=learned, **changes), made)
            except NotOptimised as error:
                print(_line(variant, str(error)), flush=True)
                continue
            after = OnnxEngine(result.path, CPU)
            measured = measure((before, [source]), (after, [result.path]), fresh, thresholds)
            if variant == "ort":
                print(_line("original", *_before(measured)), flush=True)
            print(_line(variant, *_after(measured)), "  ", "; ".join(result.done.values()), flush=True)


def _before(measured: Measured) -> list[str]:
    times = [f"{seconds * 1e3:.3g} ms" for seconds in measured.latency_before_s.values()]
    return [_bytes(measured.before.bytes), _bytes(measured.before.gzip_bytes), *times, "", "", ""]


def _after(measured: Measured) -> list[str]:
    ratios = [
        f"{after_s * 1e3:.3g} ms ({after_s / before_s:.2f})"
        for before_s, after_s in zip(measured.latency_before_s.values(), measured.latency_after_s.values(), strict=True)
    ]
    found = measured.comparison
    figures = [f"{found.difference('max'):.2g}", f"{found.difference('mean'):.2g}", f"{found.agreement or 0:.2%}"]
    return [_bytes(measured.after.bytes), _bytes(measured.after.gzip_bytes), *ratios, *figures]


def _bytes(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
