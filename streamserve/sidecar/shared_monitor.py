"""A monitor that one thread feeds while another one looks at it.

A chunk may take the monitor half a minute, when a reference is learned of a wide model; whoever looks meanwhile gets
what was seen last. So the page and the metrics wait for no merge, and the event loop, where they are made, turns.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from streamserve.sidecar.contracts import Document, Event, Label, Monitor

PATIENCE_S = 0.05
"""How long a look waits for a merge, most of which take less."""
MAX_COLUMNS = 64
"""Columns remembered, the newest."""

T = TypeVar("T")


class SharedMonitor:
    """Port `Monitor`, for one thread that feeds and one that looks.

    Args:
        monitor: what is fed; nobody else may call it.
        wall_ms: epoch milliseconds, of the first look.
    """

    def __init__(self, monitor: Monitor, wall_ms: int) -> None:
        self._monitor = monitor
        self._lock = threading.Lock()
        self._columns: dict[tuple[str, str, float, str, str], Document] = {}
        self._overview = monitor.overview(wall_ms)
        self._metrics = monitor.metrics()

    def restore(self, documents: Iterable[Document]) -> int | None:
        """See `Monitor`."""
        with self._lock:
            return self._monitor.restore(documents)

    def rebuilt(self, labels: Mapping[int, int]) -> None:
        """See `Monitor`."""
        with self._lock:
            self._monitor.rebuilt(labels)

    def chunk(self, data: bytes | None, offset: int, wall_ms: int) -> list[Event]:
        """See `Monitor`."""
        with self._lock:
            return list(self._monitor.chunk(data, offset, wall_ms))

    def labels(self, records: Sequence[Label]) -> None:
        """See `Monitor`."""
        with self._lock:
            self._monitor.labels(records)

    def overview(self, wall_ms: int) -> Document:
        """See `Monitor`; that of the last look while it is fed."""
        self._overview = self._look(lambda: self._monitor.overview(wall_ms), self._overview)
        return self._overview

    def column(self, model: str, version: str, window_s: float, segment: str, name: str) -> Document | None:
        """See `Monitor`; that of the last look while it is fed, None when nobody has asked for it before."""
        asked = (model, version, window_s, segment, name)
        found = self._look(lambda: self._monitor.column(*asked), self._columns.pop(asked, None))
        if found is not None:
            self._columns[asked] = found
        if len(self._columns) > MAX_COLUMNS:
            del self._columns[next(iter(self._columns))]
        return found

    def metrics(self) -> Document:
        """See `Monitor`; those of the last look while it is fed."""
        self._metrics = self._look(self._monitor.metrics, self._metrics)
        return self._metrics

    def _look(self, ask: Callable[[], T], last: T) -> T:
        if not self._lock.acquire(timeout=PATIENCE_S):
            return last
        try:
            return ask()
        finally:
            self._lock.release()
