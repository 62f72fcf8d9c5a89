"""Faults on demand: which call of an in-memory twin fails, with what, and before or after it took effect."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator

from streamserve.errors import StreamServeError


class FaultPlan:
    """Errors to be raised at the n-th call of an operation, each once. Thread-safe.

    The sink's operations are `open`, `begin`, `add`, `flush`, `commit` and `recover`, the source's `poll`,
    `rewind` and `commit_offsets`.

    Attributes:
        reached: calls per operation so far.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._planned: dict[tuple[str, int], tuple[StreamServeError, bool]] = {}
        self.reached: Counter[str] = Counter()

    def fail(self, operation: str, error: StreamServeError, *, at: int = 1, afterwards: bool = False) -> None:
        """Have a call fail.

        Args:
            operation: which.
            error: what it raises.
            at: which call from now on, the next one being 1.
            afterwards: raise when all was done, as when only the answer is lost.
        """
        with self._lock:
            self._planned[operation, self.reached[operation] + at] = (error, afterwards)

    @property
    def pending(self) -> int:
        """Faults that have not come to pass yet."""
        return len(self._planned)

    @contextlib.contextmanager
    def around(self, operation: str) -> Iterator[None]:
        """Used by the twins: the body is the operation."""
        with self._lock:
            self.reached[operation] += 1
            error, afterwards = self._planned.pop((operation, self.reached[operation]), (None, False))
        if error is not None and not afterwards:
            raise error
        yield
        if error is not None:
            raise error
