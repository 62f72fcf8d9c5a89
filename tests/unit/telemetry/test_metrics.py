"""The metrics of a worker as a scrape sees them, against the contract's list of names."""

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import DuplicateTimeseries

from streamserve.batch import TopicPartition
from streamserve.sidecar.metrics import SidecarMetrics
from streamserve.telemetry.declare import declarations
from streamserve.telemetry.metrics import LATENCY_BUCKETS, STAGE_BUCKETS, WorkerMetrics
from streamserve.telemetry.reference import render

COUNTERS = {
    *("records_consumed_total", "predictions_total", "records_rejected_total", "inference_executions_total"),
    *("inference_elements_total", "inference_padding_total"),
    *("records_late_total", "batch_close_total", "commits_total", "producer_recycles_total", "rebalances_total"),
    *("cache_writes_total", "cache_skipped_total", "cache_errors_total"),
    *("model_loads_total", "model_load_failures_total", "model_evictions_total"),
    *("samples_total", "samples_left_out_total", "sample_chunks_total", "sample_chunk_bytes_total"),
    *("shadow_rows_total", "shadow_dropped_total", "shadow_errors_total"),
    *("shadow_compared_total", "shadow_difference_total", "shadow_disagreements_total"),
    "guard_rollbacks_total",
}
HISTOGRAMS = {
    "batch_size",
    *(f"{stage}_duration_seconds" for stage in ("poll", "decode", "enrich", "infer", "encode", "sample", "commit")),
    *("cache_write_duration_seconds", "queue_wait_seconds", "event_latency_seconds"),
}
GAUGES = {
    *("consumer_lag_records", "consumer_lag_seconds", "assigned_partitions", "paused", "inflight_batches"),
    *("catching_up", "batch_bound_rows"),
    *("models_loaded", "model_memory_bytes"),
    *("last_commit_timestamp_seconds", "sample_level", "model_info", "build_info", "gpu_memory_used_bytes"),
}


@pytest.fixture
def registry():
    return CollectorRegistry()


@pytest.fixture
def metrics(registry):
    return WorkerMetrics(registry, pipeline="flights", model="delay", version="3")


def use_everything(metrics):
    metrics.consumer_lag_seconds.set(1)
    metrics.last_commit_timestamp_seconds.set(2)
    metrics.gpu_memory_used_bytes.set(3)
    metrics.models_loaded.set(1)
    metrics.model_memory_bytes.set(5)
    metrics.sample_level.set(0)
    metrics.batch_bound_rows.set(64)
    metrics.model_loaded(sha256="ab", provider="CPUExecutionProvider", role="stable")
    metrics.lag({TopicPartition("t", 0): 4})
    for by_output in (metrics.shadow_compared, metrics.shadow_difference, metrics.shadow_disagreements):
        by_output.add("probability", 1)


def families(registry):
    return {f.name: f for f in text_string_to_metric_families(generate_latest(registry).decode())}


def value(registry, name, **labels):
    base = {"pipeline": "flights", "model": "delay", "version": "3"}
    return registry.get_sample_value(f"streamserve_{name}", {**base, **labels})


def test_names_and_types_are_the_contracts(registry, metrics):
    use_everything(metrics)
    found = {(name.removeprefix("streamserve_"), family.type) for name, family in families(registry).items()}
    assert found == {
        *((name.removesuffix("_total"), "counter") for name in COUNTERS),
        *((name, "histogram") for name in HISTOGRAMS),
        *((name, "gauge") for name in GAUGES),
    }


def test_every_series_has_the_base_labels_and_topic_only_on_lag(registry, metrics):
    use_everything(metrics)
    for name, family in families(registry).items():
        for sample in family.samples:
            assert {"pipeline", "model", "version"} <= sample.labels.keys()
            assert ("topic" in sample.labels) == (name == "streamserve_consumer_lag_records")


def test_nothing_is_created(registry, metrics):
    use_everything(metrics)
    assert b"_created" not in generate_latest(registry)


def test_openmetrics_parses_too(registry, metrics):
    use_everything(metrics)
    encode, _ = choose_encoder("application/openmetrics-text; version=1.0.0")
    text = encode(registry).decode()
    parsed = list(openmetrics_parser.text_string_to_metric_families(text))
    assert {f.name for f in parsed} == set(families(registry))


def test_counts_arrive(registry, metrics):
    metrics.records_consumed.inc(10)
    metrics.predictions.inc(7)
    metrics.rejected("decode", "schema", 2)
    metrics.rejected("enrich", "out_of_range")
    metrics.batch_closed("idle")
    metrics.committed("committed")
    metrics.rebalanced("revoked")
    metrics.decode_seconds.observe(0.002)
    metrics.event_latency.observe_many(np.array([0.002, 0.2]))
    assert value(registry, "records_rejected_total", stage="decode", reason="schema") == 2
    assert value(registry, "batch_close_total", reason="idle") == 1
    assert value(registry, "commits_total", outcome="committed") == 1
    assert value(registry, "rebalances_total", kind="revoked") == 1
    assert value(registry, "decode_duration_seconds_bucket", le="0.0025") == 1
    assert value(registry, "event_latency_seconds_count") == 2
    rejected = sum(s.value for s in families(registry)["streamserve_records_rejected"].samples)
    assert value(registry, "records_consumed_total") == value(registry, "predictions_total") + rejected


def test_the_number_of_series_does_not_grow_with_use(registry, metrics):
    def count():
        return sum(len(f.samples) for f in families(registry).values())

    use_everything(metrics)
    before = count()
    for stage, reason in list(metrics.records_rejected):
        metrics.rejected(stage, reason, 3)
    for _ in range(10):
        use_everything(metrics)
    assert count() == before


def test_a_label_value_that_is_not_declared_is_refused(metrics):
    with pytest.raises(KeyError):
        metrics.rejected("decode", "because")


def test_gauges_not_known_yet_are_absent(registry, metrics):
    for name in ("last_commit_timestamp_seconds", "gpu_memory_used_bytes", "consumer_lag_seconds"):
        assert value(registry, name) is None
    metrics.gpu_memory_used_bytes.set(0)
    assert value(registry, "gpu_memory_used_bytes") == 0
    assert value(registry, "paused") == 0


def test_lag_of_a_partition_that_left_vanishes_and_an_unknown_one_never_shows(registry, metrics):
    metrics.lag({TopicPartition("t", 0): 4, TopicPartition("t", 1): 5})
    metrics.lag({TopicPartition("t", 1): 6, TopicPartition("t", 2): -1})
    assert value(registry, "consumer_lag_records", topic="t", partition="0") is None
    assert value(registry, "consumer_lag_records", topic="t", partition="1") == 6
    assert value(registry, "consumer_lag_records", topic="t", partition="2") is None


def test_a_new_model_replaces_the_old_ones_info(registry, metrics):
    for digest in ("aa", "bb"):
        metrics.model_loaded(sha256=digest, provider="cpu", role="stable")
    [sample] = families(registry)["streamserve_model_info"].samples
    assert sample.labels["sha256"] == "bb"


def test_two_workers_do_not_share_a_registry_by_accident(registry, metrics):
    with pytest.raises(DuplicateTimeseries):
        WorkerMetrics(registry, pipeline="other", model="m", version="1")
    WorkerMetrics(CollectorRegistry(), pipeline="other", model="m", version="1")


def test_buckets_are_the_contracts(registry, metrics):
    contract = ".0001 .00025 .0005 .001 .0025 .005 .01 .025 .05 .1 .25 .5 1 2.5"
    assert list(STAGE_BUCKETS) == [float(bound) for bound in contract.split()]
    assert (LATENCY_BUCKETS[0], LATENCY_BUCKETS[-1]) == (0.001, 300)
    for name in HISTOGRAMS - {"batch_size", "event_latency_seconds"}:
        bounds = {s.labels["le"] for s in families(registry)[f"streamserve_{name}"].samples if "le" in s.labels}
        assert {float(bound) for bound in bounds} == {*STAGE_BUCKETS, float("inf")}


def test_the_reference_lists_every_metric_once():
    text = render(SidecarMetrics)
    for declared in declarations(WorkerMetrics):
        assert text.count(f"| `{declared.spec.name}` |") == 1
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
