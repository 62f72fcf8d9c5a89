"""The demo's faults through its own decoder, features, model, reference and drift block: found, and named.

No Kafka here: the same events, a batch a chunk, to the monitor that the sidecar runs. That a year without a fault is
quiet until its timetable changes is what makes the faults visible.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

from streamserve.batch import RecordBatch
from streamserve.codecs import build_decoder
from streamserve.config.loading import load
from streamserve.demo.flights import CONFIG, ROOT, Flights
from streamserve.demo.injection import FIELD, Fault, Injection, Injections
from streamserve.drift.chunk import SampleChunk, Span, TextColumn
from streamserve.drift.model_monitor import ModelMonitor
from streamserve.engines import build_engine
from streamserve.enrich import FeatureEnricher
from streamserve.registry.references import FolderReferences
from streamserve.registry.repository import FolderRepository

pytest.importorskip("onnxruntime")
CHUNK = 500
WRITTEN_MS = 1_400_000_000_000


@pytest.fixture(scope="module")
def flights():
    return Flights.load()


class Watched:
    """The demo's pipeline from values to alerts."""

    def __init__(self):
        settings = load(CONFIG, environ={}).settings
        version = FolderRepository(ROOT / "models").resolve(settings.model.name, "latest")
        self.engine = build_engine(version, settings.engine)
        self.decoder, self.features = build_decoder(settings), settings.features
        self.enricher = FeatureEnricher(settings.features, self.engine.signature)
        self.monitor = ModelMonitor("flights", settings.model.name, settings.drift, FolderReferences(ROOT / "models"))
        self.named = set()

    def take(self, events, offset):
        n = len(events)
        offsets = list(range(offset, offset + n))
        values = [json.dumps(event).encode() for event in events]
        batch = RecordBatch(
            topic=["t"] * n, partition=[0] * n, offset=offsets, timestamp_ms=[0] * n, key=[b""] * n, value=values
        )
        decoded, _ = self.decoder.decode(batch)
        features, rejects = self.enricher.enrich(decoded)
        assert not rejects
        columns = {feature.name: self._column(events, feature) for feature in self.features}
        columns["output.probability"] = self.engine.infer(features.inputs)["probability"]
        chunk = SampleChunk(
            pipeline="flights", model="flight-delay", version="1", role="stable", reference="",
            spans=(Span("t", 0, offset, offset + n, n),), span=np.zeros(n, np.uint32), offset=np.asarray(offsets),
            event_time_ms=np.array([event["event_time"] for event in events]), timestamp_ms=np.full(n, -1),
            level=np.zeros(n, np.uint8), id=tuple(event["flight_id"] for event in events), entity=("",) * n,
            columns=columns, rejects=(), written_ms=WRITTEN_MS,
        )  # fmt: skip
        for told in self.monitor.chunk(chunk, offset, WRITTEN_MS):
            if told.kind == "alert":
                self.named |= {reason["column"] for reason in told.reasons}

    @staticmethod
    def _column(events, feature):
        values = [event.get(feature.name) for event in events]
        if feature.dtype == "string":
            return TextColumn.of(values)
        return np.array([np.nan if value is None else value for value in values], np.float64)


def named(flights, rows, *faults):
    """What the alerts name in a replay of so many flights."""
    watched = Watched()
    injections = Injections(faults, 2000.0, rows)
    for start in range(0, rows, CHUNK):
        events = enumerate(flights.events(start, min(start + CHUNK, rows)), start=start)
        watched.take([injections.event(row, event) for row, event in events], start)
    watched.engine.close()
    return watched.named


@pytest.mark.parametrize(
    ("fault", "rows"),
    [(Fault.SHIFT, 18_000), (Fault.NEW_CATEGORY, 14_000), (Fault.MISSING, 36_000), (Fault.STUCK_SENSOR, 36_000)],
)
def test_a_fault_is_told_by_the_name_of_its_field(flights, fault, rows):
    assert FIELD[fault] in named(flights, rows, Injection(fault=fault, at_s=4.0))


def test_january_without_a_fault_is_told_of_nothing(flights):
    assert named(flights, 30_000) == set()
