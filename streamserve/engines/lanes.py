"""What engines on a device share: two batches under way, each in buffers of its own that are made once a shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from queue import LifoQueue
from typing import Generic, TypeVar

from streamserve.batch import Tensor, Tensors

LANES = 2
MAX_SHAPES = 256
"""Shapes whose buffers one lane keeps. Batches are padded to few (`padding`, `buckets`); beyond, the least recently
used go."""

Run = Callable[[Tensors], list[Tensor]]
"""Inputs by name to outputs in the order of the signature."""
T = TypeVar("T")


class Lanes:
    """Lets as many callers in as there are lanes, each into one of its own; the next one waits.

    Args:
        lanes: each is used by one thread at a time, not always the same.
    """

    def __init__(self, lanes: Sequence[Run]) -> None:
        self._free: LifoQueue[Run] = LifoQueue()
        for lane in lanes:
            self._free.put(lane)

    def run(self, inputs: Tensors) -> list[Tensor]:
        lane = self._free.get()
        try:
            return lane(inputs)
        finally:
            self._free.put(lane)


class ByShape(Generic[T]):
    """What was made for the shapes and dtypes of inputs."""

    def __init__(self) -> None:
        self._made: dict[tuple[tuple[str, tuple[int, ...], str], ...], T] = {}

    def get(self, inputs: Tensors, make: Callable[[Tensors], T]) -> T:
        """What was made for such inputs; made now when they come for the first time."""
        shapes = tuple((name, array.shape, array.dtype.str) for name, array in inputs.items())
        found = self._made.pop(shapes, None)
        if found is None:
            while len(self._made) >= MAX_SHAPES:
                del self._made[next(iter(self._made))]
            found = make(inputs)
        self._made[shapes] = found  # the last one is the most recently used
        return found
