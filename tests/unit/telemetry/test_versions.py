"""Metrics of several versions under one collector, as a scrape sees them."""

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from streamserve.telemetry.versions import KEPT, ServedModel, VersionMetrics


@pytest.fixture
def registry():
    return CollectorRegistry()


@pytest.fixture
def metrics(registry):
    return VersionMetrics(registry, pipeline="p", model="m", version="1")


def value(registry, name, version, **labels):
    base = {"pipeline": "p", "model": "m", "version": version}
    return registry.get_sample_value(f"streamserve_{name}", {**base, **labels})


def test_a_family_is_told_once_with_the_series_of_every_version(registry, metrics):
    metrics.now.predictions.inc(3)
    metrics.of("2").predictions.inc(4)
    names = [family.name for family in text_string_to_metric_families(generate_latest(registry).decode())]
    assert len(names) == len(set(names))
    assert (value(registry, "predictions_total", "1"), value(registry, "predictions_total", "2")) == (3, 4)


def test_the_law_holds_over_the_sum_of_the_versions(registry, metrics):
    metrics.now.records_consumed.inc(5)
    metrics.now.predictions.inc(2)
    metrics.stable("2")
    metrics.now.records_consumed.inc(4)
    metrics.of("1").predictions.inc(3)  # scored before the switch, committed after it
    metrics.of("2").predictions.inc(3)
    metrics.of("2").rejected("infer", "non_finite")
    consumed = sum(value(registry, "records_consumed_total", v) for v in "12")
    predicted = sum(value(registry, "predictions_total", v) for v in "12")
    rejected = value(registry, "records_rejected_total", "2", stage="infer", reason="non_finite")
    assert consumed == predicted + rejected == 9


def test_the_slots_gauges_go_on_under_the_new_stable_version_and_vanish_under_the_old(registry, metrics):
    metrics.now.assigned_partitions.set(3)
    metrics.now.lag({("t", 0): 7})
    metrics.now.last_commit_timestamp_seconds.set(12)
    metrics.loaded(["1", "2"])
    metrics.stable("2")
    assert value(registry, "assigned_partitions", "2") == 3
    assert value(registry, "consumer_lag_records", "2", topic="t", partition="0") == 7
    assert value(registry, "last_commit_timestamp_seconds", "2") == 12
    assert value(registry, "models_loaded", "2") == 2
    for name in ("assigned_partitions", "last_commit_timestamp_seconds", "models_loaded", "paused"):
        assert value(registry, name, "1") is None


def test_counters_of_a_version_that_serves_no_more_stay(registry, metrics):
    metrics.now.commits["committed",].inc(2)
    metrics.stable("2")
    assert value(registry, "commits_total", "1", outcome="committed") == 2
    assert value(registry, "commits_total", "2", outcome="committed") == 0


def test_a_rollback_counts_on_where_the_version_left_off(registry, metrics):
    first = metrics.now
    metrics.stable("2")
    metrics.stable("1")
    assert metrics.now is first


def test_model_info_names_every_version_that_serves_and_no_other(registry, metrics):
    stable, canary = ServedModel("1", "aa", "CPU", "stable"), ServedModel("2", "bb", "CPU", "canary")
    metrics.serving([stable, canary])
    assert value(registry, "model_info", "2", sha256="bb", provider="CPU", role="canary") == 1
    metrics.serving([ServedModel("2", "bb", "CPU", "stable")])
    assert value(registry, "model_info", "1", sha256="aa", provider="CPU", role="stable") is None
    assert value(registry, "model_info", "2", sha256="bb", provider="CPU", role="canary") is None
    assert value(registry, "model_info", "2", sha256="bb", provider="CPU", role="stable") == 1


def test_memory_is_told_of_every_version_that_is_loaded(registry, metrics):
    metrics.of("1").model_memory_bytes.set(10)
    metrics.of("2").model_memory_bytes.set(20)
    assert value(registry, "model_memory_bytes", "2") == 20
    metrics.of("2").model_memory_bytes.set(float("nan"))
    assert value(registry, "model_memory_bytes", "2") is None
    metrics.stable("3")
    assert value(registry, "model_memory_bytes", "3") is None  # not taken over: it is the version's own


def exposed(registry):
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {sample.labels["version"] for family in families for sample in family.samples}


def test_versions_that_are_long_out_of_use_are_not_exposed_any_more(registry, metrics):
    metrics.serving([ServedModel("1", "aa", "CPU", "stable"), ServedModel("2", "bb", "CPU", "canary")])
    metrics.loaded(["1", "2", "3"])
    for version in range(3, 3 + 50):
        metrics.of(str(version)).predictions.inc()
    newest = {str(version) for version in range(53 - KEPT, 53)}
    assert exposed(registry) == {"1", "2", "3", *newest}
    metrics.stable("52")
    metrics.serving([ServedModel("52", "cc", "CPU", "stable")])
    metrics.loaded(["52"])
    assert exposed(registry) == {"3", *newest}
    assert value(registry, "predictions_total", "52") == 1


def test_a_version_that_is_asked_for_again_outlives_those_that_are_not(registry, metrics):
    metrics.of("2").predictions.inc()
    for version in range(3, 50):
        metrics.of(str(version))
        metrics.of("2")
    assert value(registry, "predictions_total", "2") == 1


def test_a_version_that_was_dropped_counts_from_zero(registry, metrics):
    metrics.of("2").predictions.inc()
    for version in range(3, 50):
        metrics.of(str(version))
    metrics.of("2").predictions.inc()
    assert value(registry, "predictions_total", "2") == 1
