"""Batches padded up to a few sizes, for engines to which every new size is a cost: memory, a search, a graph.

Rows are filled up with copies of the last one, which the model takes like any other, and cut off again behind it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence

import numpy as np

from streamserve.batch import Tensors
from streamserve.ports import Engine, Signature

OnPadding = Callable[[int, int], None]
"""Told, for every run of the model, how many rows were real and how many were padding."""


class PaddedEngine:
    """An `Engine` around an engine that then meets batches of these sizes alone.

    Args:
        engine: the engine.
        buckets: batch sizes, ascending. A batch beyond the last goes as it is.
        on_padding: see `OnPadding`.
    """

    def __init__(self, engine: Engine, buckets: Sequence[int], on_padding: OnPadding) -> None:
        self._engine = engine
        self._buckets = buckets
        self._on_padding = on_padding
        self._first_input = engine.signature.inputs[0].name

    @property
    def signature(self) -> Signature:
        return self._engine.signature

    @property
    def provider(self) -> str:
        return self._engine.provider

    def infer(self, inputs: Tensors) -> Tensors:
        rows = len(inputs[self._first_input]) if self._first_input in inputs else 0
        missing = self._bucket(rows) - rows
        if missing and rows:
            inputs = {
                name: np.concatenate([tensor, np.repeat(tensor[-1:], missing, axis=0)])
                for name, tensor in inputs.items()
            }
        outputs = self._engine.infer(inputs)
        self._on_padding(rows, missing)
        return {name: tensor[:rows] for name, tensor in outputs.items()} if missing else outputs

    def warm(self, sizes: Sequence[int]) -> None:
        """Run the buckets that these sizes fall into."""
        self._engine.warm(sorted({self._bucket(size) for size in sizes}))

    def close(self) -> None:
        self._engine.close()

    def _bucket(self, rows: int) -> int:
        """The size that so many rows are padded to."""
        place = bisect_left(self._buckets, rows)
        return self._buckets[place] if place < len(self._buckets) else rows
