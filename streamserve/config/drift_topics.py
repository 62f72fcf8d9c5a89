"""The topics of the `drift` block by name, defaults filled in: the one place that knows `<pipeline>.samples`."""

from __future__ import annotations

from dataclasses import dataclass

from streamserve.config.drift_settings import DriftSettings
from streamserve.config.settings import PipelineSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftTopics:
    """Names of the topics around drift.

    Attributes:
        samples: sample chunks, written by workers.
        reports: a report a window, written by the sidecar.
        alerts: incidents, and requests for retraining, written by the sidecar.
        labels: what came true, written by users; None when no labels are read.
    """

    samples: str
    reports: str
    alerts: str
    labels: str | None


def drift_topics(settings: PipelineSettings) -> DriftTopics:
    """The topics of a pipeline; of one without a `drift` block, what they would be called."""
    drift, name = settings.drift or DriftSettings(), settings.pipeline
    return DriftTopics(
        samples=drift.samples_topic or f"{name}.samples",
        reports=drift.reports_topic or f"{name}.drift.reports",
        alerts=drift.alerts_topic or f"{name}.drift.alerts",
        labels=(drift.labels.topic or f"{name}.labels") if drift.labels else None,
    )
