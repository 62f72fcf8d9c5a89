"""When a model should be trained anew: an incident that lasts, performance under a floor, or a schedule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from streamserve.config.drift_settings import RetrainSettings
from streamserve.drift.events import RetrainRequest
from streamserve.drift.metrics import Metric
from streamserve.drift.version_watch import Identity


class Retraining:
    """Asks at most once in a while. Event time, milliseconds."""

    def __init__(self, settings: RetrainSettings) -> None:
        self._settings = settings
        self._asked_ms: int | None = None
        self._since_ms: int | None = None

    def ask(
        self,
        identity: Identity,
        now_ms: int,
        *,
        opened_ms: int | None,
        incident: Mapping[str, Any] | None,
        performance: Mapping[str, Metric],
    ) -> RetrainRequest | None:
        """A request, when there is a reason and the last one is long enough ago.

        Args:
            identity: who would be trained anew.
            now_ms: the watermark.
            opened_ms: since when an incident is open.
            incident: its last alert, the evidence.
            performance: figures of the longest window, by labels.
        """
        if self._since_ms is None:
            self._since_ms = now_ms
        reason = self._reason(now_ms, opened_ms, performance)
        last_ms = self._asked_ms
        if reason is None or (last_ms is not None and now_ms - last_ms < self._settings.at_most_every_s * 1000):
            return None
        self._asked_ms = now_ms
        return RetrainRequest(
            pipeline=identity.pipeline,
            model=identity.model,
            version=identity.version,
            reason=reason,
            at_ms=now_ms,
            evidence={
                "incident": dict(incident) if incident is not None else None,
                "performance": {name: metric.value for name, metric in performance.items()},
            },
        )

    def _reason(self, now_ms: int, opened_ms: int | None, performance: Mapping[str, Metric]) -> str | None:
        settings = self._settings
        if settings.after_s is not None and opened_ms is not None and now_ms - opened_ms >= settings.after_s * 1000:
            return f"an incident has been open for {(now_ms - opened_ms) / 1000:.0f} s"
        main = main_metric(performance)
        if settings.performance_below is not None and main is not None:
            name, metric = main
            at_best = (-metric.low if metric.low is not None else None) if name == "mae" else metric.high
            if at_best is not None and at_best < settings.performance_below:
                return f"{name} is {metric.value:.4g}, surely under its floor"
        since_ms = self._asked_ms if self._asked_ms is not None else self._since_ms
        if settings.every_s is not None and since_ms is not None and now_ms - since_ms >= settings.every_s * 1000:
            return "the schedule"
        return None

    def to_document(self) -> dict[str, int | None]:
        """JSON."""
        return {"asked_ms": self._asked_ms, "since_ms": self._since_ms}

    def restore(self, document: Mapping[str, int | None]) -> None:
        """Go on from what `to_document` gave."""
        self._asked_ms, self._since_ms = document["asked_ms"], document["since_ms"]


def main_metric(performance: Mapping[str, Metric]) -> tuple[str, Metric] | None:
    """The figure that stands for all: accuracy, for regression the mean absolute error."""
    for name in ("accuracy", "mae"):
        if name in performance:
            return name, performance[name]
    return None
