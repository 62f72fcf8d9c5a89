"""Ends the process when it does not do its work any more, so that its supervisor starts a new one.

A thread of its own: an event loop that hangs cannot find itself. It asks `Health`, which the loop, the merging and the
look at the backlog report to.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from streamserve.telemetry.health import Health
from streamserve.telemetry.logs import Log

EVERY_S = 1.0


class Watchdog:
    """Watches from `open` to `close`.

    Args:
        health: what is asked.
        end: called once, from the watchdog's thread, when the process is of no use any more.
    """

    def __init__(self, health: Health, end: Callable[[], None], log: Log) -> None:
        self._health = health
        self._end = end
        self._log = log
        self._closed = threading.Event()

    def open(self) -> None:
        """Start watching."""
        threading.Thread(target=self._run, name="watchdog", daemon=True).start()

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.wait(EVERY_S):
            verdict = self._health.live()
            if not verdict.ok:
                self._log.error("watchdog", why=list(verdict.why))
                self._end()
                return
