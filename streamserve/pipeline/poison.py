"""Inference that gives up a row and not a batch.

An engine fails for a whole batch. Here the batch is bisected until the row at fault stands alone and
becomes a `Reject`; everybody else gets the outputs of a real inference over a part of the batch. Running
out of memory is no row's fault as long as there is more than one: the batch is halved and a `BatchBound`
remembers the size that passed.

Pure: no threads, no I/O, nothing but the engine that is handed in. A failure that speaks of the device
rather than of the rows (`EngineError.retryable`) is not bisected but passed on: the process has to be
replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from streamserve.batch import FeatureBatch, Reject, Tensor, Tensors
from streamserve.errors import EngineError, EngineOutOfMemory
from streamserve.ports import Engine, Signature, TensorSpec

UNBOUNDED = 1 << 62
"""More rows than any batch has."""
PATIENCE_BATCHES = 1000
"""Full batches that must pass at a bound before a larger one is tried."""
PATIENCE_MAX = 64 * PATIENCE_BATCHES


@dataclass(slots=True)
class BatchBound:
    """The largest batch that is believed to fit into memory; used by one thread at a time.

    Halved when memory runs out. Doubled, up to where it stood before the first failure, after `patience`
    batches of the full bound have passed; every further failure doubles the patience (at most 64,000
    batches), so that a bound that is there to stay costs next to nothing.

    Attributes:
        rows: most rows of one inference.
        patience: full batches to pass before `rows` grows.
        on_change: told the new `rows`.
    """

    rows: int = UNBOUNDED
    patience: int = PATIENCE_BATCHES
    on_change: Callable[[int], None] = field(default=lambda _rows: None, repr=False)
    _passed: int = field(default=0, repr=False)
    _ceiling: int = field(default=UNBOUNDED, repr=False)

    def failed(self, rows: int) -> None:
        """`rows` (at least 2) were too many."""
        if self._ceiling == UNBOUNDED:
            self._ceiling = rows
        else:
            self.patience = min(self.patience * 2, PATIENCE_MAX)
        self._move(max(1, min(self.rows, rows // 2)))

    def passed(self, rows: int) -> None:
        """`rows` went through. Counts only when that was all the bound allows."""
        if rows < self.rows or self._ceiling == UNBOUNDED:
            return
        self._passed += 1
        if self._passed >= self.patience and self.rows < self._ceiling:
            self._move(min(self.rows * 2, self._ceiling))

    def _move(self, rows: int) -> None:
        self.rows = rows
        self._passed = 0
        self.on_change(rows)


@dataclass(slots=True)
class _Survey:
    """What a bisection has found so far; positions ascend because the parts are visited in order.

    Attributes:
        parts, kept, rejects: what `infer_isolating` returns, in pieces.
        alone: positions of rows that failed by themselves.
        starved: parts of more than one row that ran out of memory.
    """

    parts: list[Tensors]
    kept: list[int]
    rejects: list[Reject]
    alone: list[int]
    starved: list[tuple[int, int]]

    def too_large(self) -> int | None:
        """Rows of the smallest part that ran out of memory without a row in it that does so alone."""
        sizes = [
            stop - start for start, stop in self.starved if not any(start <= position < stop for position in self.alone)
        ]
        return min(sizes, default=None)


def infer_isolating(
    engine: Engine, features: FeatureBatch, bound: BatchBound
) -> tuple[Tensors, Sequence[int], list[Reject]]:
    """Infer a batch and leave out the rows that the engine cannot take.

    With k rows at fault among n the engine is called O(k log n) times, once when there are none.

    Args:
        engine: the engine.
        features: n rows.
        bound: the memory bound, changed by what happens here.

    Returns:
        The outputs of the rows that passed, their positions in `features` (ascending), and a reject for
        every other
        row: together every row once.

    Raises:
        EngineError: the device failed, not a row (`retryable`).
    """
    rows = len(features)
    if 0 < rows <= bound.rows:
        try:
            outputs = engine.infer(features.inputs)
        except EngineError as error:
            if error.retryable:
                raise
            return _bisect(engine, features, bound, error)
        bound.passed(rows)
        return outputs, range(rows), []
    return _bisect(engine, features, bound, None)


def empty_outputs(signature: Signature) -> Tensors:
    """The outputs of a batch of no rows: a free axis has length 0."""
    return {spec.name: np.empty(_no_rows(spec), dtype=_numpy_dtype(spec)) for spec in signature.outputs}


def _no_rows(spec: TensorSpec) -> tuple[int, ...]:
    return (0, *(max(size, 0) for size in spec.shape[1:]))


def _numpy_dtype(spec: TensorSpec) -> str:
    return "object" if spec.dtype == "str" else spec.dtype


def _bisect(
    engine: Engine, features: FeatureBatch, bound: BatchBound, known: EngineError | None
) -> tuple[Tensors, Sequence[int], list[Reject]]:
    """Visit the batch part by part, from left to right; `known` is how all of it failed, if it was tried."""
    survey = _Survey([], [], [], [], [])
    ahead = [(0, len(features))] if features else []
    while ahead:
        start, stop = ahead.pop()
        rows = stop - start
        if known is None and rows > bound.rows:
            ahead += reversed(_pieces(start, stop, bound.rows))
            continue
        error = known or _attempt(engine, features, start, stop, survey)
        known = None
        if error is None:
            bound.passed(rows)
        elif rows == 1:
            survey.alone.append(start)
            survey.rejects.append(
                Reject(row=features.events.row[start], stage="infer", reason="infer", detail=str(error))
            )
        else:
            if isinstance(error, EngineOutOfMemory):
                survey.starved.append((start, stop))
            middle = start + rows // 2
            ahead += [(middle, stop), (start, middle)]
    too_large = survey.too_large()
    if too_large is not None:
        bound.failed(too_large)
    return _joined(survey.parts, engine.signature), survey.kept, survey.rejects


def _attempt(engine: Engine, features: FeatureBatch, start: int, stop: int, survey: _Survey) -> EngineError | None:
    """Infer one part and add it to the survey, or say why it failed."""
    try:
        outputs = engine.infer({name: tensor[start:stop] for name, tensor in features.inputs.items()})
    except EngineError as error:
        if error.retryable:
            raise
        return error
    survey.parts.append(outputs)
    survey.kept.extend(range(start, stop))
    return None


def _pieces(start: int, stop: int, size: int) -> list[tuple[int, int]]:
    return [(at, min(at + size, stop)) for at in range(start, stop, size)]


def _joined(parts: list[Tensors], signature: Signature) -> Tensors:
    """The outputs of all parts, one after the other.

    Raises:
        EngineError: an output changes its trailing shape from part to part, so that no tensor can hold it.
    """
    if not parts:
        return empty_outputs(signature)
    try:
        return {name: _stacked([part[name] for part in parts]) for name in parts[0]}
    except ValueError as error:
        raise EngineError(f"the model's outputs change shape with the batch: {error}") from error


def _stacked(tensors: list[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else np.concatenate(tensors)
