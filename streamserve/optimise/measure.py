"""How large, how fast and how different a new version is, on this machine, in the engine that a worker would use.

Latency is taken of both versions by turns, so that whatever else the machine does falls on both alike, and told as the
median. Sizes are those of the files, and of the files compressed as a download would be.
"""

from __future__ import annotations

import gzip
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np

from streamserve.batch import Tensors
from streamserve.optimise.graph import BATCH_ROWS, in_batches
from streamserve.ports import Engine
from streamserve.recorded.compare import Comparison, compare

BATCH_SIZES: Final = (1, 64, 512)
REPEATS: Final = 15
"""Least repetitions of each batch size."""
BUDGET_S: Final = 0.6
"""After so long for one batch size the least repetitions are enough."""
MAX_REPEATS: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Bytes of a model's files, and of them compressed with gzip."""

    bytes: int
    gzip_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Both versions beside each other.

    Attributes:
        before, after: sizes.
        latency_before_s, latency_after_s: batch size -> median seconds of an inference.
        comparison: of the outputs on the rows.
    """

    before: Size
    after: Size
    latency_before_s: Mapping[int, float]
    latency_after_s: Mapping[int, float]
    comparison: Comparison

    @property
    def smaller(self) -> bool:
        return self.after.bytes < self.before.bytes

    @property
    def faster(self) -> bool:
        """Whether the largest batch takes less time: what throughput depends on."""
        largest = max(self.latency_after_s)
        return self.latency_after_s[largest] < self.latency_before_s[largest]


def measure(
    before: tuple[Engine, Sequence[Path]],
    after: tuple[Engine, Sequence[Path]],
    rows: Tensors,
    thresholds: Mapping[str, float] | None = None,
    sizes: Sequence[int] = BATCH_SIZES,
) -> Measured:
    """Measure a version against the one it was made from.

    Args:
        before: the original's engine and files.
        after: the new version's.
        rows: input -> array[n, ...], at least one row, that no method learned from.
        thresholds: output -> value from which on it means yes.
        sizes: batch sizes.

    Raises:
        EngineError: one of them cannot run the rows.
    """
    latency_before_s, latency_after_s = _latencies(before[0], after[0], rows, sizes)
    return Measured(
        before=size_of(before[1]),
        after=size_of(after[1]),
        latency_before_s=latency_before_s,
        latency_after_s=latency_after_s,
        comparison=compare(outputs_of(before[0], rows), outputs_of(after[0], rows), thresholds),
    )


def size_of(files: Sequence[Path]) -> Size:
    """Bytes of files, as they are and compressed."""
    contents = [file.read_bytes() for file in files]
    return Size(
        bytes=sum(map(len, contents)),
        gzip_bytes=sum(len(gzip.compress(content, compresslevel=6, mtime=0)) for content in contents),
    )


def outputs_of(engine: Engine, rows: Tensors, batch: int = BATCH_ROWS) -> Tensors:
    """The outputs of all rows, a batch at a time."""
    parts = [engine.infer(part) for part in in_batches(rows, batch)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _latencies(
    before: Engine, after: Engine, rows: Tensors, sizes: Sequence[int]
) -> tuple[dict[int, float], dict[int, float]]:
    """Median seconds per batch size, the two engines by turns."""
    found: tuple[dict[int, float], dict[int, float]] = ({}, {})
    n = len(next(iter(rows.values())))
    for size in sizes:
        index = np.arange(size) % n
        inputs = {name: np.ascontiguousarray(values[index]) for name, values in rows.items()}
        times: tuple[list[float], list[float]] = ([], [])
        before.infer(inputs)
        after.infer(inputs)
        until_s = time.perf_counter() + BUDGET_S
        for repeat in range(MAX_REPEATS):
            for engine, taken in zip((before, after), times, strict=True):
                start_s = time.perf_counter()
                engine.infer(inputs)
                taken.append(time.perf_counter() - start_s)
            if repeat + 1 >= REPEATS and time.perf_counter() > until_s:
                break
        for medians, taken in zip(found, times, strict=True):
            medians[size] = median(taken)
    return found
