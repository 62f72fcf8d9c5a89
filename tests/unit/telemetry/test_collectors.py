"""The histogram that is fed columns, beside the library's that is fed values."""

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from streamserve.telemetry.collectors import ColumnHistogram, SeriesGauge

BUCKETS = (0.001, 0.01, 0.1, 1.0, 10.0)
LABELS = {"pipeline": "p", "model": "m"}
VALUES = st.one_of(st.floats(-5, 50), st.sampled_from(BUCKETS), st.integers(-3, 30).map(float))


def samples(collector):
    return {
        (s.name, tuple(sorted(s.labels.items()))): s.value
        for family in collector.collect()
        for s in family.samples
        if not s.name.endswith("_created")
    }


def library(values):
    histogram = Histogram("x_seconds", "h", list(LABELS), buckets=BUCKETS, registry=None)
    child = histogram.labels(**LABELS)
    for value in values:
        child.observe(value)
    return samples(histogram)


@given(st.lists(st.lists(VALUES, max_size=40), max_size=5))
def test_columns_count_like_the_librarys_histogram_fed_one_by_one(batches):
    histogram = ColumnHistogram("x_seconds", "h", BUCKETS, LABELS)
    for batch in batches:
        histogram.observe_many(np.array(batch, dtype=np.float64))
    ours, theirs = samples(histogram), library([value for batch in batches for value in batch])
    assert ours.keys() == theirs.keys()
    assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-9)


@given(st.lists(VALUES, max_size=40))
def test_one_by_one_and_in_columns_is_the_same(values):
    single, column = (ColumnHistogram("x", "h", BUCKETS) for _ in range(2))
    for value in values:
        single.observe(value)
    column.observe_many(np.array(values))
    assert samples(single) == pytest.approx(samples(column), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "int32"])
def test_any_number_type_will_do(dtype):
    histogram = ColumnHistogram("x", "h", BUCKETS)
    histogram.observe_many(np.array([0, 1, 2, 100], dtype=dtype))
    assert samples(histogram)["x_sum", ()] == 103
    assert samples(histogram)["x_bucket", (("le", "1.0"),)] == 2


def test_values_that_are_not_finite_are_left_out():
    histogram = ColumnHistogram("x", "h", BUCKETS)
    histogram.observe_many(np.array([np.nan, 0.5, np.inf, -np.inf]))
    histogram.observe(float("nan"))
    assert samples(histogram)["x_count", ()] == 1
    assert samples(histogram)["x_sum", ()] == 0.5


@pytest.mark.parametrize("buckets", [(), (1.0, 1.0), (2.0, 1.0)])
def test_buckets_must_ascend(buckets):
    with pytest.raises(ValueError, match="ascending"):
        ColumnHistogram("x", "h", buckets)


def test_no_observation_is_lost_between_threads():
    histogram = ColumnHistogram("x", "h", BUCKETS)
    column = np.full(10, 0.5)

    def feed():
        for _ in range(500):
            histogram.observe_many(column)
            histogram.observe(0.5)

    threads = [threading.Thread(target=feed) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert samples(histogram)["x_count", ()] == 4 * 500 * 11
    assert samples(histogram)["x_sum", ()] == 4 * 500 * 11 * 0.5


def test_a_series_that_left_is_gone():
    gauge = SeriesGauge("lag", "h", {"pipeline": "p"}, ("topic", "partition"))
    registry = CollectorRegistry()
    registry.register(gauge)
    gauge.replace({("t", 0): 5, ("t", 1): 7})
    gauge.replace({("t", 1): 8})
    assert generate_latest(registry).decode().splitlines()[2:] == ['lag{partition="1",pipeline="p",topic="t"} 8.0']
