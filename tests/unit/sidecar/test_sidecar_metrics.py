"""The sidecar's metrics as a scrape sees them."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from streamserve.drift.chunk import encode
from streamserve.drift.monitor import Monitor
from streamserve.sidecar.figures import Figures
from streamserve.sidecar.metrics import MAX_COLUMNS, SidecarMetrics, VersionFigures, WindowFigures
from tests.unit.drift.streams import Fixed, Stream, reference, settings


@pytest.fixture
def registry():
    return CollectorRegistry()


@pytest.fixture
def metrics(registry):
    return SidecarMetrics(registry, pipeline="payments")


def value(registry, name, **labels):
    return registry.get_sample_value(f"streamserve_{name}", {"pipeline": "payments", **labels})


def test_a_monitors_rebuild_is_not_counted_again(registry, metrics):
    monitor, figures = Monitor(settings(), Fixed(reference())), Figures(metrics)
    chunks = list(Stream(900, 50, seed=1, shift=1.0, shift_at_s=300).chunks(500))
    for offset, chunk in enumerate(chunks[:60]):
        monitor.chunk(encode(chunk), offset, chunk.written_ms)
    figures.mark(monitor)
    for offset, chunk in enumerate(chunks[60:], 60):
        monitor.chunk(encode(chunk), offset, chunk.written_ms)
    monitor.chunk(b"?", len(chunks), 1)
    figures.move([monitor])
    figures.move([monitor])
    assert value(registry, "drift_chunks_total", outcome="merged") == len(chunks) - 60
    assert value(registry, "drift_chunks_total", outcome="broken") == 1
    assert value(registry, "drift_rows_total", outcome="merged") == 500 * (len(chunks) - 60)
    assert value(registry, "drift_open_incidents") == 1
    who = {"model": "fraud", "version": "3"}
    assert value(registry, "drift_alarm", **who, feature="x", window="600") == 1
    assert value(registry, "drift_alarm", **who, feature="y", window="600") is None
    assert value(registry, "drift_score", **who, feature="x", statistic="psi", window="60") > 0.1
    assert value(registry, "drift_samples", **who, window="60") == 3000
    assert value(registry, "drift_reference_info", **who, reference=reference().hash, provisional="false") == 1


def test_the_number_of_series_is_bounded_and_what_is_gone_is_gone(registry, metrics):
    names = [f"f{i}" for i in range(5000)]
    window = WindowFigures(rows=1, scores={"psi": [0.5] * 5000, "js": [None] * 5000}, drifted=[True] * 5000)
    metrics.show([VersionFigures(model="m", version="1", reference="r", columns=names, windows={60.0: window})])
    text = generate_latest(registry).decode()
    assert text.count("streamserve_drift_score{") == MAX_COLUMNS
    assert text.count("streamserve_drift_alarm{") == MAX_COLUMNS
    metrics.show([])
    assert "streamserve_drift_score{" not in generate_latest(registry).decode()


def test_gauges_are_absent_until_they_are_known(registry, metrics):
    assert value(registry, "drift_behind_seconds") is None
    assert value(registry, "drift_webhooks_total", outcome="given_up") == 0
