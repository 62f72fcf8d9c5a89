"""Calls that only the poll thread may make, asked for by others.

The consumer is the poll thread's alone. The commit thread asks it to rewind after an abort, and under at least once to
commit offsets; the caller waits for the result. Calls marked `in_rebalance` may also run inside a rebalance callback,
where the poll thread waits for what is in flight.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, TypeVar

from streamserve.errors import SourceError

T = TypeVar("T")


class PollCalls:
    """A queue of calls with results."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Callable[[], Any], bool, Future[Any]]] = deque()
        self._closed = False

    def run(self, call: Callable[[], T], *, timeout_s: float, in_rebalance: bool = False) -> T:
        """Have the poll thread make `call`, and wait.

        Raises: what it raises; SourceError when it takes too long, or when the poll thread has ended.
        """
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                raise _ended()
            self._waiting.append((call, in_rebalance, future))
        try:
            return future.result(timeout_s)
        except FutureTimeout:
            future.cancel()
            raise SourceError(f"the poll thread did not answer within {timeout_s:.0f} s", retryable=True) from None

    def serve(self, *, in_rebalance: bool = False) -> None:
        """Make the calls that wait. Poll thread only."""
        while self._waiting:
            with self._lock:
                index = next((i for i, (_, fits, _) in enumerate(self._waiting) if fits or not in_rebalance), None)
                if index is None:
                    return
                call, _, future = self._waiting[index]
                del self._waiting[index]
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(call())
            except Exception as error:
                future.set_exception(error)

    def close(self) -> None:
        """The poll thread ends: who waits need not wait for it any more, and nobody has to begin."""
        with self._lock:
            self._closed = True
            waiting = [future for _, _, future in self._waiting]
            self._waiting.clear()
        for future in waiting:
            if future.set_running_or_notify_cancel():
                future.set_exception(_ended())


def _ended() -> SourceError:
    return SourceError("the poll thread has ended", retryable=True)
