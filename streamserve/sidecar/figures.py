"""The monitors' figures on their way to Prometheus: counters as differences, scores as they are.

A monitor counts since it was made, its rebuild included; what it counted before it was ready was counted by its
predecessor, so the first look at a monitor only sets the mark.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from streamserve.sidecar.contracts import Monitor
from streamserve.sidecar.metrics import MAX_COLUMNS, SidecarMetrics, VersionFigures, WindowFigures

Counts = tuple[Counter[str], Counter[str], Counter[str]]


class Figures:
    """Moves figures from monitors into metrics.

    Args:
        metrics: where they go.
    """

    def __init__(self, metrics: SidecarMetrics) -> None:
        self._metrics = metrics
        self._marks: WeakKeyDictionary[Monitor, Counts] = WeakKeyDictionary()

    def mark(self, monitor: Monitor) -> None:
        """What the monitor counted until now is not news."""
        self._marks[monitor] = _counts(monitor.metrics())

    def move(self, monitors: Sequence[Monitor]) -> None:
        """Tell everything that is new."""
        versions: list[VersionFigures] = []
        incidents = 0
        for monitor in monitors:
            found: Any = monitor.metrics()
            counts = _counts(found)
            known = self._marks.get(monitor, (Counter(), Counter(), Counter()))
            # A difference of counters leaves out what has shrunk: models and versions that were dropped.
            self._metrics.count(counts[0] - known[0], counts[1] - known[1], counts[2] - known[2])
            self._marks[monitor] = counts
            incidents += found["open_incidents"]
            versions += [_version(each) for each in found["versions"]]
        self._metrics.drift_open_incidents.set(incidents)
        self._metrics.show(versions)


def _counts(found: Any) -> Counts:
    """Chunks, rows and labels by outcome."""
    return Counter(found["chunks"]), Counter(found["rows"]), Counter(found["labels"])


def _version(found: Any) -> VersionFigures:
    return VersionFigures(
        model=found["model"],
        version=found["version"],
        reference=found["reference"],
        provisional=found["provisional"],
        columns=list(found["columns"][:MAX_COLUMNS]),
        windows={
            window["window_s"]: WindowFigures(
                rows=window["rows"],
                scores={name: list(values[:MAX_COLUMNS]) for name, values in window["scores"].items()},
                drifted=list(window["drifted"]),
            )
            for window in found["windows"]
        },
    )
