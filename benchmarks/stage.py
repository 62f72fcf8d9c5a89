"""One case of the stage benches: what is timed, and how.

A case is timed by the CPU of its own thread: neither other processes nor the client library's threads are in it;
only what waits for somebody else (a transaction) is timed by the clock on the wall.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

Run = Callable[[], object]
BATCH = 512
"""Events of one run, unless the case says otherwise: the default `engine.max_batch_size`."""
LEAST_RUNS = 3


class Case(NamedTuple):
    """A line of the table.

    Attributes:
        name: of the stage and its variant.
        run: what is timed.
        rows: how many events one run is.
        between: what has to happen between two runs, not timed.
    """

    name: str
    run: Run
    rows: int = BATCH
    between: Run | None = None

    def measure(self, seconds: float) -> float:
        """CPU microseconds of this thread an event, in the fastest of the runs that fit into `seconds`."""
        loops = max(1, BATCH // self.rows) if self.between is None else 1
        best_s, runs, until_s = float("inf"), 0, time.perf_counter() + seconds
        while runs < LEAST_RUNS or time.perf_counter() < until_s:
            start_s = time.thread_time()
            for _ in range(loops):
                self.run()
            best_s = min(best_s, time.thread_time() - start_s)
            runs += 1
            if self.between is not None:
                self.between()
        return best_s / loops / self.rows * 1e6


class Waiting(NamedTuple):
    """A line about something that mostly waits.

    Attributes:
        name: of the stage and its variant.
        run: what is timed.
    """

    name: str
    run: Run

    def measure(self, seconds: float) -> float:
        """Milliseconds on the wall a run, in the median of the runs that fit into `seconds`."""
        took_s: list[float] = []
        until_s = time.perf_counter() + seconds
        while len(took_s) < LEAST_RUNS or time.perf_counter() < until_s:
            start_s = time.perf_counter()
            self.run()
            took_s.append(time.perf_counter() - start_s)
        return statistics.median(took_s) * 1e3
