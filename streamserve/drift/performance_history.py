"""The main figure of a version over its last looks, by labels and by estimate, for the page."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from streamserve.drift.metrics import Metric
from streamserve.drift.retrain import main_metric

LOOKS = 200


@dataclass(slots=True)
class PerformanceHistory:
    """One point a look at the longest window."""

    end_ms: deque[int] = field(default_factory=lambda: deque(maxlen=LOOKS))
    realised: deque[float | None] = field(default_factory=lambda: deque(maxlen=LOOKS))
    estimated: deque[float | None] = field(default_factory=lambda: deque(maxlen=LOOKS))

    def add(self, end_ms: int, realised: Mapping[str, Metric], estimated: Mapping[str, Metric]) -> None:
        """Note a look."""
        self.end_ms.append(end_ms)
        for series, figures in ((self.realised, realised), (self.estimated, estimated)):
            main = main_metric(figures)
            series.append(None if main is None else main[1].value)

    def document(self) -> dict[str, list[object]]:
        """Columns for the page."""
        return {"end_ms": list(self.end_ms), "realised": list(self.realised), "estimated": list(self.estimated)}
