"""Every metric of the sidecar, declared once; the same rules as for a worker's (`telemetry.metrics`).

Series are bounded: one per column only for the columns that rank highest, whatever the width of a model.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

import streamserve
from streamserve.drift.label_join import Outcome as LabelOutcome
from streamserve.telemetry.declare import counter, counters, declarations, gauge, series

MAX_COLUMNS = 200
"""Columns per model version that have series of their own, by rank."""

ChunkOutcome = Literal["merged", "duplicate", "broken", "foreign", "unknown_reference"]
RowOutcome = Literal["merged", "late", "future"]
AlertOutcome = Literal["sent", "given_up", "failed_attempt"]
Counts = Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowFigures:
    """One window of one model version, all rows.

    Attributes:
        rows: sampled rows in it.
        scores: statistic -> value per column.
        drifted: per column.
    """

    rows: int
    scores: Mapping[str, list[float | None]]
    drifted: list[bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionFigures:
    """One model version.

    Attributes:
        reference: hash of its reference; empty while there is none.
        columns: names, the worst first; the order of every list in `windows`.
        windows: by seconds.
    """

    model: str
    version: str
    reference: str = ""
    provisional: bool = False
    columns: list[str] = field(default_factory=list)
    windows: Mapping[float, WindowFigures] = field(default_factory=dict)


class SidecarMetrics:
    """The metrics of one sidecar, all series with its pipeline.

    Args:
        registry: where a scrape finds them.
        pipeline: value of the label that every series has.
    """

    drift_chunks = counters(
        "drift_chunks_total",
        "Messages of the samples topic by what became of them.",
        {"outcome": get_args(ChunkOutcome)},
    )
    drift_labels = counters(
        "drift_labels_total",
        "Labels, and predictions to be joined with one, by what became of them.",
        {"outcome": get_args(LabelOutcome)},
    )
    drift_rows = counters(
        "drift_rows_total",
        "Sampled rows: merged, or left out as too late or from the future.",
        {"outcome": get_args(RowOutcome)},
    )
    drift_events = counter("drift_events_published_total", "Reports, alerts and other events published.")
    drift_events_left_out = counter(
        "drift_events_left_out_total",
        "Events that were not published because their topic does not take so large a one.",
    )
    drift_webhooks = counters(
        "drift_webhooks_total",
        "Alerts that webhooks were sent or that were given up, and attempts that failed.",
        {"outcome": get_args(AlertOutcome)},
    )
    drift_rebuilds = counter("drift_rebuilds_total", "Partitions taken over and rebuilt.")
    drift_partitions_dropped = counter(
        "drift_partitions_dropped_total", "Partitions dropped after an error, fencing included."
    )
    drift_fenced = counter("drift_fenced_total", "Partitions that another sidecar took over while they were owned.")

    drift_score = series(
        "drift_score",
        f"Statistic of a column in a window, of the {MAX_COLUMNS} columns of a version that rank highest.",
        ("model", "version", "feature", "statistic", "window"),
    )
    drift_alarm = series(
        "drift_alarm",
        "1 for a column that drifted in a window; others are absent.",
        ("model", "version", "feature", "window"),
    )
    drift_drifted_columns = series(
        "drift_drifted_columns",
        f"Columns that drifted in a window, {MAX_COLUMNS} at most.",
        ("model", "version", "window"),
    )
    drift_samples = series("drift_samples", "Sampled rows in a window.", ("model", "version", "window"))
    drift_reference_info = series(
        "drift_reference_info", "1 for the reference in use.", ("model", "version", "reference", "provisional")
    )
    drift_open_incidents = gauge("drift_open_incidents", "Incidents that are open.")
    drift_owned_partitions = gauge("drift_owned_partitions", "Partitions of the samples topic owned now.")
    drift_rebuild_seconds = gauge(
        "drift_rebuild_seconds", "How long the last rebuild of a partition took.", unknown=True
    )
    drift_behind_seconds = gauge(
        "drift_behind_seconds", "Age of the oldest chunk that waits to be merged, 0 when none waits.", unknown=True
    )
    drift_input_lag_records = gauge(
        "drift_input_lag_records", "Records of the input topics that no worker has committed.", unknown=True
    )
    sidecar_build_info = series(
        "sidecar_build_info", "1 for the streamserve and Python in use.", ("streamserve", "python")
    )

    def __init__(self, registry: CollectorRegistry, *, pipeline: str) -> None:
        self._collectors = [declared.bind(self, {"pipeline": pipeline}) for declared in declarations(type(self))]
        self.sidecar_build_info.replace({(streamserve.__version__, platform.python_version()): 1})
        registry.register(self)

    def count(self, chunks: Counts, rows: Counts, labels: Counts) -> None:
        """Add what monitors counted since the last time; outcomes that are not declared are left out."""
        for outcome in get_args(RowOutcome):
            self.drift_rows[outcome,].inc(rows.get(outcome, 0))
        for outcome in get_args(ChunkOutcome):
            self.drift_chunks[outcome,].inc(chunks.get(outcome, 0))
        for outcome in get_args(LabelOutcome):
            self.drift_labels[outcome,].inc(labels.get(outcome, 0))

    def webhook(self, outcome: AlertOutcome) -> None:
        """Count an alert, or an attempt."""
        self.drift_webhooks[outcome,].inc()

    def show(self, figures: Iterable[VersionFigures]) -> None:
        """Make these the scores, alarms and references that are told."""
        scores: dict[tuple[str, ...], float] = {}
        alarms: dict[tuple[str, ...], float] = {}
        drifted: dict[tuple[str, ...], float] = {}
        samples: dict[tuple[str, ...], float] = {}
        references: dict[tuple[str, ...], float] = {}
        for each in figures:
            who = (each.model, each.version)
            if each.reference:
                references[*who, each.reference, str(each.provisional).lower()] = 1
            names = each.columns[:MAX_COLUMNS]
            for window_s, window in each.windows.items():
                label = f"{window_s:g}"
                samples[*who, label] = window.rows
                drifted[*who, label] = sum(window.drifted)
                alarms |= {(*who, name, label): 1 for name, on in zip(names, window.drifted, strict=False) if on}
                for statistic, values in window.scores.items():
                    pairs = zip(names, values, strict=False)
                    scores |= {(*who, name, statistic, label): v for name, v in pairs if v is not None}
        self.drift_score.replace(scores)
        self.drift_alarm.replace(alarms)
        self.drift_drifted_columns.replace(drifted)
        self.drift_samples.replace(samples)
        self.drift_reference_info.replace(references)

    def describe(self) -> Iterator[Metric]:
        """Names and types, for the registry's check against duplicates."""
        for declared in declarations(type(self)):
            yield Metric(declared.spec.family, declared.spec.help, declared.spec.kind)

    def collect(self) -> Iterator[Metric]:
        """Every family that has something to say."""
        for collector in self._collectors:
            for family in collector.collect():
                family.samples = [
                    sample
                    for sample in family.samples
                    if not sample.name.endswith("_created") and sample.value == sample.value
                ]
                if family.samples:
                    yield family
