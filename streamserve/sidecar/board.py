"""What the dashboard shows of all partitions that are owned here: the monitors' documents, put together.

A monitor knows its own models only; most partitions hold none. The worst state speaks for all. What the monitors do
not know is added: how far behind the workers and the sidecar are, and that partitions are being rebuilt.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import streamserve
from streamserve.clock import Clock
from streamserve.sidecar.contracts import Document, Monitor
from streamserve.sidecar.web import Changes

STATES = ("empty", "ok", "learning", "stale", "error", "alarm")
"""From the one that says least to the one that matters most."""
LAG_POINTS = 240
MAX_INCIDENTS = 50


class SidecarBoard:
    """Answers the dashboard (port `web.Board`), on the event loop.

    Args:
        pipeline: its name.
        monitors: of the partitions that are ready now.
        rebuilding: how many partitions are owned and not ready.
    """

    def __init__(
        self,
        pipeline: str,
        monitors: Callable[[], Sequence[Monitor]],
        rebuilding: Callable[[], int],
        clock: Clock,
    ) -> None:
        self._pipeline = pipeline
        self._monitors = monitors
        self._rebuilding = rebuilding
        self._clock = clock
        self._changes = Changes()
        self._lag: deque[tuple[int, int | None]] = deque(maxlen=LAG_POINTS)
        self.behind_s: float | None = None

    @property
    def changes(self) -> Changes:
        """Grows whenever `overview` would give something new."""
        return self._changes

    def lag(self, records: int | None) -> None:
        """The workers' lag as of now."""
        self._lag.append((self._clock.epoch_ms(), records))

    def overview(self) -> Document:
        """Everything but the details of columns."""
        wall_ms = self._clock.epoch_ms()
        found: list[Any] = [monitor.overview(wall_ms) for monitor in self._monitors()]
        worst = max(found, key=lambda each: STATES.index(each["state"]), default=_nothing(self._rebuilding()))
        return {
            "pipeline": self._pipeline,
            "wall_ms": wall_ms,
            "now_ms": max((each.get("now_ms", wall_ms) for each in found), default=wall_ms),
            "state": worst["state"],
            "state_since_ms": worst["state_since_ms"],
            "message": worst["message"],
            "budget": next((each["budget"] for each in found if each.get("budget")), None),
            "models": _models(found),
            "incidents": _incidents(found),
            "traffic": _with_lag(_traffic([each["traffic"] for each in found if each.get("traffic")]), self._lag),
            "sidecar": {
                **_sums(each["sidecar"] for each in found if each.get("sidecar")),
                "behind_s": self.behind_s,
                "version": streamserve.__version__,
            },
        }

    def column(self, model: str, version: str, window_s: float, segment: str, name: str) -> Document | None:
        """One column in one window and segment, of whichever monitor knows it."""
        found = (monitor.column(model, version, window_s, segment, name) for monitor in self._monitors())
        return next((each for each in found if each is not None), None)


def _nothing(rebuilding: int) -> dict[str, object]:
    if rebuilding:
        return {"state": "learning", "state_since_ms": None, "message": "Reading what came before this start."}
    return {"state": "empty", "state_since_ms": None, "message": "No partition of the samples topic is ours."}


def _models(found: Iterable[Any]) -> list[Document]:
    """All versions, the newest rows first; one that moved to another partition is shown as it is there."""
    newest: dict[tuple[str, str], Any] = {}
    for each in found:
        for model in each["models"]:
            known = newest.get((model["model"], model["version"]))
            if known is None or known["newest_ms"] < model["newest_ms"]:
                newest[model["model"], model["version"]] = model
    return sorted(newest.values(), key=lambda model: (model["model"], -model["newest_ms"]))


def _incidents(found: Iterable[Any]) -> list[Document]:
    incidents = [incident for each in found for incident in each["incidents"]]
    return sorted(incidents, key=lambda incident: -incident["opened_ms"])[:MAX_INCIDENTS]


def _sums(blocks: Iterable[Mapping[str, object]]) -> dict[str, int]:
    """Counts, added up."""
    total = dict.fromkeys(("chunks", "skipped", "bad", "late_rows", "future_rows"), 0)
    for block in blocks:
        for name in total:
            count = block.get(name, 0)
            total[name] += count if isinstance(count, int) else 0
    return total


def _traffic(series: Sequence[Mapping[str, Sequence[Any]]]) -> dict[str, list[Any]]:
    """Rates are added up, of latencies the worst is taken, by time."""
    rows: dict[int, dict[str, Any]] = {}
    for each in series:
        for i, at_ms in enumerate(each["wall_ms"]):
            row = rows.setdefault(at_ms, {})
            for name, values in each.items():
                value, known = values[i], row.get(name)
                if value is None or known is None:
                    row[name] = known if value is None else value
                else:
                    row[name] = known + value if name.endswith("_per_s") else max(known, value)
    names = ("wall_ms", "events_per_s", "rejects_per_s", "latency_p50_ms", "latency_p99_ms")
    return {name: [rows[at_ms].get(name) for at_ms in sorted(rows)] for name in names}


def _with_lag(traffic: dict[str, list[Any]], lag: Sequence[tuple[int, int | None]]) -> dict[str, list[Any]]:
    """The newest lag known at each point in time."""
    if not traffic["wall_ms"]:
        empty = [None] * len(lag)
        names = ("events_per_s", "rejects_per_s", "latency_p50_ms", "latency_p99_ms")
        return {
            "wall_ms": [at_ms for at_ms, _ in lag],
            **{name: list(empty) for name in names},
            "lag": [records for _, records in lag],
        }
    points = deque(lag)
    found, current = [], None
    for at_ms in traffic["wall_ms"]:
        while points and points[0][0] <= at_ms:
            current = points.popleft()[1]
        found.append(current)
    return {**traffic, "lag": found}
