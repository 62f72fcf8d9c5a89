"""Every metric of a worker, declared once.

`WorkerMetrics` is made by the composition root and handed to whoever counts something; there is no global
registry. The table below is all there is: names are a contract (docs/metrics.md is generated from it), the
series are bound when the object is made, and their number does not grow with keys, ids or messages. Law,
checked in tests and dashboards: records consumed = predictions + records rejected.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from typing import Literal, TypeVar, get_args

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.metrics_core import Metric

import streamserve
from streamserve.batch import CloseReason, Reason, SampleRecords, Stage
from streamserve.telemetry.declare import (
    BASE_LABELS,
    PREFIX,
    column_histogram,
    counter,
    counter_by_output,
    counters,
    declarations,
    gauge,
    histogram,
    series,
)

ShadowDrop = Literal["behind", "queue", "switched", "off", "broker"]
"""Why rows were not scored by a shadow: the worker did not keep up, the shadow did not, it is not (or no longer) the
version to score them, it failed before, or the producer had no room for what it said."""
GuardRule = Literal["errors", "latency", "drift"]
ShadowStage = Literal["enrich", "infer", "encode", "produce"]
CommitOutcome = Literal["committed", "aborted", "failed"]
RebalanceKind = Literal["assigned", "revoked", "lost"]
PaddedAxis = Literal["batch", "length"]
LateOutcome = Literal["processed", "dead_letter", "fallback"]

P = TypeVar("P", bound=tuple[str, int])

STAGE_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
LATENCY_BUCKETS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1, 2.5, 5, 10, 30, 60, 120, 300),
)
GAUGES_OF_A_VERSION = frozenset(PREFIX + name for name in ("model_info", "model_memory_bytes", "batch_bound_rows"))
"""All other gauges tell of the slot."""
SIZE_BUCKETS = tuple(float(1 << power) for power in range(17))


class WorkerMetrics:
    """The metrics of one worker slot, all series bound to its pipeline, model and version.

    Registers itself as one collector. Creation timestamps of the library (`_created`) and gauges that are not
    known yet are left out of what is exposed. Every metric may be used from any thread.

    Args:
        registry: where a scrape finds them; None when somebody else collects them (`versions`).
        pipeline, model, version: values of the labels that every series has.
    """

    records_consumed = counter("records_consumed_total", "Input records committed: predicted or rejected.")
    predictions = counter("predictions_total", "Predictions committed to the output topic.")
    records_rejected = counters(
        "records_rejected_total",
        "Records sent to the dead-letter topic.",
        {"stage": get_args(Stage), "reason": get_args(Reason)},
    )
    inference_executions = counter("inference_executions_total", "Runs of the model; a batch is one run.")
    inference_elements = counters(
        "inference_elements_total",
        "Rows of batches that were padded (`batch`), positions of sequences (`length`), padding included.",
        {"axis": get_args(PaddedAxis)},
    )
    inference_padding = counters(
        "inference_padding_total",
        "How many of `inference_elements_total` were padding.",
        {"axis": get_args(PaddedAxis)},
    )
    records_late = counters(
        "records_late_total",
        "Records committed that could not make `engine.slo_ms` any more, by what became of them.",
        {"outcome": get_args(LateOutcome)},
    )
    batch_close = counters(
        "batch_close_total", "Batches by what ended their growth.", {"reason": get_args(CloseReason)}
    )
    commits = counters("commits_total", "Commits by how they ended.", {"outcome": get_args(CommitOutcome)})
    producer_recycles = counter("producer_recycles_total", "Producers replaced by a new client of the same id.")
    rebalances = counters("rebalances_total", "Changes of the assignment by kind.", {"kind": get_args(RebalanceKind)})
    cache_writes = counter("cache_writes_total", "Entries written to the cache.")
    cache_skipped = counter("cache_skipped_total", "Entries not written because the cache had newer ones.")
    cache_errors = counter("cache_errors_total", "Writes to the cache that failed.")
    samples = counter("samples_total", "Rows sampled for the drift monitor and committed.")
    samples_left_out = counter("samples_left_out_total", "Sampled rows that were too large for the samples topic.")
    sample_chunks = counter("sample_chunks_total", "Sample chunks committed.")
    sample_chunk_bytes = counter("sample_chunk_bytes_total", "Bytes of the sample chunks committed, uncompressed.")
    model_loads = counter("model_loads_total", "Times the version was loaded and warmed.")
    model_load_failures = counter("model_load_failures_total", "Times the version could not be loaded or used.")
    model_evictions = counter("model_evictions_total", "Times the version was dropped to free its memory.")

    shadow_rows = counter("shadow_rows_total", "Rows scored as a shadow and handed to its topic's producer.")
    shadow_dropped = counters(
        "shadow_dropped_total", "Rows that the shadow was not given or not asked for.", {"reason": get_args(ShadowDrop)}
    )
    shadow_errors = counters(
        "shadow_errors_total",
        "Rows that the shadow failed on, by stage; what the brokers did not take is `produce`.",
        {"stage": get_args(ShadowStage)},
    )
    shadow_compared = counter_by_output("shadow_compared_total", "Rows compared with what was predicted.")
    shadow_difference = counter_by_output(
        "shadow_difference_total", "Sum over the rows compared of the mean absolute difference from what was predicted."
    )
    shadow_disagreements = counter_by_output(
        "shadow_disagreements_total", "Rows compared for which the shadow decides something else."
    )
    guard_rollbacks = counters(
        "guard_rollbacks_total",
        "Rollbacks that the guard of this worker asked for, by the rule that the version broke.",
        {"rule": get_args(GuardRule)},
    )

    batch_size = histogram("batch_size", "Events in one run of the model.", SIZE_BUCKETS)
    poll_seconds = histogram("poll_duration_seconds", "Time in one poll that gave records.", STAGE_BUCKETS)
    decode_seconds = histogram("decode_duration_seconds", "Time to decode one batch.", STAGE_BUCKETS)
    enrich_seconds = histogram("enrich_duration_seconds", "Time to build one batch's inputs.", STAGE_BUCKETS)
    infer_seconds = histogram("infer_duration_seconds", "Time in the model for one batch.", STAGE_BUCKETS)
    encode_seconds = histogram("encode_duration_seconds", "Time to encode one batch.", STAGE_BUCKETS)
    sample_seconds = histogram("sample_duration_seconds", "Time to sample one transaction.", STAGE_BUCKETS)
    commit_seconds = histogram("commit_duration_seconds", "Time to commit one transaction.", STAGE_BUCKETS)
    cache_write_seconds = histogram(
        "cache_write_duration_seconds", "Time to write one batch to the cache.", STAGE_BUCKETS
    )
    queue_wait_seconds = histogram(
        "queue_wait_seconds", "Time from the poll of a batch's oldest record to its decoding.", STAGE_BUCKETS
    )
    event_latency = column_histogram(
        "event_latency_seconds", "Time from a record's timestamp to its commit, per record.", LATENCY_BUCKETS
    )

    consumer_lag = series(
        "consumer_lag_records", "Records behind the end of a partition owned now.", ("topic", "partition")
    )
    consumer_lag_seconds = gauge("consumer_lag_seconds", "Age of the oldest record not committed yet.", unknown=True)
    assigned_partitions = gauge("assigned_partitions", "Partitions owned now.")
    paused = gauge("paused", "1 while fetching is paused because the queue is full, else 0.")
    catching_up = gauge("catching_up", "1 while batches are made for throughput because records are behind, else 0.")
    batch_bound_rows = gauge(
        "batch_bound_rows", "Most rows of a run that fits into memory; absent until it ran out.", unknown=True
    )
    inflight_batches = gauge("inflight_batches", "Batches polled and not committed.")
    last_commit_timestamp_seconds = gauge(
        "last_commit_timestamp_seconds", "Time of the last commit, seconds since 1970.", unknown=True
    )
    sample_level = gauge("sample_level", "About one row in 2^level is sampled now; absent without drift.", unknown=True)
    model_info = series(
        "model_info",
        "1 for the model in use: digest, execution provider, role.",
        ("sha256", "provider", "role"),
    )
    models_loaded = gauge("models_loaded", "Versions loaded now.", unknown=True)
    model_memory_bytes = gauge(
        "model_memory_bytes", "Memory that the loaded version takes, as measured or estimated.", unknown=True
    )
    build_info = series("build_info", "1 for the streamserve and Python in use.", ("streamserve", "python"))
    gpu_memory_used_bytes = gauge("gpu_memory_used_bytes", "Device memory in use; absent without a GPU.", unknown=True)

    def __init__(self, registry: CollectorRegistry | None, *, pipeline: str, model: str, version: str) -> None:
        base = dict(zip(BASE_LABELS, (pipeline, model, version), strict=True))
        self._collectors = [declared.bind(self, base) for declared in declarations(type(self))]
        self.build_info.replace({(streamserve.__version__, platform.python_version()): 1})
        if registry is not None:
            registry.register(self)

    def rejected(self, stage: Stage, reason: Reason, n: int = 1) -> None:
        """Count `n` rejects."""
        self.records_rejected[stage, reason].inc(n)

    def shadow_drop(self, reason: ShadowDrop, rows: int) -> None:
        """Count rows that the shadow does not score."""
        self.shadow_dropped[reason,].inc(rows)

    def shadow_error(self, stage: ShadowStage, rows: int) -> None:
        """Count rows that the shadow failed on."""
        self.shadow_errors[stage,].inc(rows)

    def batch_closed(self, reason: CloseReason) -> None:
        """Count a batch by what ended its growth."""
        self.batch_close[reason,].inc()

    def committed(self, outcome: CommitOutcome) -> None:
        """Count a commit by how it ended."""
        self.commits[outcome,].inc()

    def rebalanced(self, kind: RebalanceKind) -> None:
        """Count a change of the assignment."""
        self.rebalances[kind,].inc()

    def sampled(self, records: SampleRecords) -> None:
        """Count the sample chunks of a transaction."""
        self.samples.inc(records.rows)
        self.samples_left_out.inc(records.left_out)
        self.sample_level.set(records.level)
        self.sample_chunks.inc(len(records.outbound))
        self.sample_chunk_bytes.inc(sum(len(value or b"") for value in records.outbound.value))

    def lag(self, records: Mapping[P, float]) -> None:
        """Set the lag of every partition owned now; others vanish, so do unknown (negative) lags."""
        self.consumer_lag.replace({key: lag for key, lag in records.items() if lag >= 0})

    def model_loaded(self, *, sha256: str, provider: str, role: str) -> None:
        """Say which model is in use; replaces what was said before."""
        self.model_info.replace({(sha256, provider, role): 1})

    def padded(self, axis: PaddedAxis, real: int, padding: int) -> None:
        """Count what went through the model along a padded axis."""
        self.inference_elements[axis,].inc(real + padding)
        self.inference_padding[axis,].inc(padding)

    def take_over(self, before: WorkerMetrics) -> None:
        """Start with the gauges of another version: what they tell is the slot's, whichever version is stable."""
        for declared in declarations(type(self)):
            gauge, other = vars(self)[declared.attribute], vars(before)[declared.attribute]
            if isinstance(gauge, Gauge) and declared.spec.name not in GAUGES_OF_A_VERSION:
                gauge.set(next(iter(other.collect())).samples[0].value)
        self.consumer_lag.replace(before.consumer_lag.series)

    @classmethod
    def describe(cls) -> Iterator[Metric]:
        """Names and types, for the registry's check against duplicates."""
        for declared in declarations(cls):
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
