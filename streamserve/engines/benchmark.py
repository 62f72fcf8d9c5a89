"""How fast an engine is by itself: latency and throughput by batch size, and the line through them.

Nothing of a worker is in it but padding to buckets. The sizes take turns, so that whatever else the machine does falls
on all of them alike. `streamserve model bench` shows it; a worker is held against it (docs/performance.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from streamserve.batch import Tensor, Tensors
from streamserve.pipeline.latency_model import LatencyModel, Line
from streamserve.pipeline.sequences import PaddedInput, shared_lengths
from streamserve.ports import Engine, Signature

LEAST_RUNS = 3
"""Of each size, however long they take."""
NEARLY_BEST = 0.98
SYNTHETIC_ROWS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeResult:
    """One batch size.

    Attributes:
        rows: of a batch.
        runs: how many were timed.
        p50_s, p99_s: seconds of a batch.
        rows_per_s: all rows over all seconds.
    """

    rows: int
    runs: int
    p50_s: float
    p99_s: float
    rows_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult:
    """One length of sequences, or the only case of a model without any.

    Attributes:
        length: what the sequences are padded to; None without sequences.
        sizes: by batch size, ascending.
        line: through all of them.
    """

    length: int | None
    sizes: list[SizeResult]
    line: Line

    @property
    def best(self) -> SizeResult:
        """The smallest size whose throughput is all but the best one's."""
        most = max(size.rows_per_s for size in self.sizes)
        return next(size for size in self.sizes if size.rows_per_s >= NEARLY_BEST * most)


def cases(rows: Tensors, padded: Sequence[PaddedInput]) -> dict[int | None, Tensors]:
    """Rows by the length that their sequences are padded to."""
    own = [each for each in padded if each.input.name in rows]
    if not own:
        return {None: rows}
    longest = np.maximum.reduce([np.fromiter(map(len, rows[each.input.name]), np.int64) for each in own])
    lengths = np.array(shared_lengths(own) or (max(1, int(longest.max())),))
    target = lengths[np.searchsorted(lengths, longest)]
    return {
        int(length): {name: values[target == length] for name, values in rows.items()} for length in np.unique(target)
    }


def synthetic(signature: Signature, padded: Sequence[PaddedInput], seed: int = 0) -> Tensors:
    """Rows that every model takes: normal floats, zeros for whole numbers, empty strings.

    Sequences come in the lengths of their buckets, as many of each; other free axes are 1 long.
    """
    generator = np.random.default_rng(seed)
    sequences = {each.input.name for each in padded}
    masks = {each.mask.name for each in padded if each.mask is not None}
    lengths = shared_lengths(padded) if padded else ()
    lengths = lengths or tuple(each.max_length for each in padded[:1])

    def values(dtype: str, shape: tuple[int, ...]) -> Tensor:
        if dtype == "str":
            return np.full(shape, "", object)
        if dtype.startswith("float"):
            return generator.standard_normal(shape).astype(dtype)
        return np.zeros(shape, dtype)

    rows: Tensors = {}
    for spec in signature.inputs:
        if spec.name in sequences:
            column = np.empty(SYNTHETIC_ROWS, object)
            for i in range(SYNTHETIC_ROWS):
                column[i] = values(spec.dtype, (lengths[i % len(lengths)],))
            rows[spec.name] = column
        elif spec.name not in masks:
            rows[spec.name] = values(spec.dtype, (SYNTHETIC_ROWS, *(max(size, 1) for size in spec.shape[1:])))
    return rows


def measure(
    engine: Engine,
    by_length: Mapping[int | None, Tensors],
    sizes: Sequence[int],
    seconds: float,
    progress: Callable[[str], None] = lambda _: None,
) -> list[CaseResult]:
    """Time every size on every case.

    Args:
        engine: the engine; need not be warm.
        by_length: see `cases`.
        sizes: batch sizes, ascending; rows are repeated where there are too few.
        seconds: for all of it, about; each size runs a few times in any case.
        progress: told of every case.

    Raises:
        EngineError: it cannot run the rows.
    """
    results = []
    for length, rows in by_length.items():
        progress("sizes " + ", ".join(map(str, sizes)) + (f", length {length}" if length is not None else ""))
        times = _times(engine, rows, sizes, seconds / len(by_length))
        results.append(_result(length, times))
    return results


def _times(engine: Engine, rows: Tensors, sizes: Sequence[int], seconds: float) -> dict[int, list[float]]:
    count = len(next(iter(rows.values())))
    batches = {
        size: {name: np.ascontiguousarray(values[np.arange(size) % count]) for name, values in rows.items()}
        for size in sizes
    }
    for batch in batches.values():
        engine.infer(batch)
    times: dict[int, list[float]] = {size: [] for size in sizes}
    until_s = perf_counter() + seconds
    share_s = seconds / len(sizes)
    while True:
        # A small size runs more often, for as long as a large one takes.
        for size, batch in batches.items():
            taken = times[size]
            if len(taken) >= LEAST_RUNS and sum(taken) >= share_s:
                continue
            start_s = perf_counter()
            engine.infer(batch)
            taken.append(perf_counter() - start_s)
        enough = all(len(taken) >= LEAST_RUNS for taken in times.values())
        if enough and (perf_counter() >= until_s or all(sum(taken) >= share_s for taken in times.values())):
            return times


def _result(length: int | None, times: Mapping[int, Sequence[float]]) -> CaseResult:
    model = LatencyModel()
    for turn in range(max(map(len, times.values()))):
        for size, taken in times.items():
            if turn < len(taken):
                model.observe(size, taken[turn])
    line = model.line
    if line is None:
        raise ValueError("no size was run")
    sizes = [
        SizeResult(
            rows=size,
            runs=len(taken),
            p50_s=float(np.percentile(taken, 50)),
            p99_s=float(np.percentile(taken, 99)),
            rows_per_s=size * len(taken) / sum(taken),
        )
        for size, taken in times.items()
    ]
    return CaseResult(length=length, sizes=sizes, line=line)
