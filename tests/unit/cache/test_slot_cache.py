"""What a worker sees of the cache."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from streamserve.batch import ModelIdentity, PredictionBatch, TopicPartition
from streamserve.cache.keys import offset_version
from streamserve.cache.memory_server import MemoryServer
from streamserve.cache.prediction_log import PredictionLog
from streamserve.cache.repair import TailRepair
from streamserve.cache.slot_cache import SlotCache
from streamserve.codecs.prediction import JsonPredictionEncoder
from streamserve.config.settings import CacheSettings, OutputSettings
from streamserve.ports import TensorSpec
from streamserve.telemetry.logs import Log
from streamserve.telemetry.versions import VersionMetrics
from tests.records import settings
from tests.unit.cache.clocks import HandClock
from tests.unit.cache.test_entries import events, records


@pytest.fixture
def make():
    with MemoryServer() as server:

        def slot_cache(**options):
            return SlotCache(
                settings({"field": "x", "size": 1}),
                CacheSettings(url=server.url, timeout_ms=5000, **options),
                {},
                {"in": 4},
                VersionMetrics(CollectorRegistry(), pipeline="p", model="m", version="1"),
                HandClock(),
                Log.open(stream=io.StringIO()),
            )

        yield slot_cache


def scored(cache, encoder):
    """Counts and versions of one batch, by document and by entry, the cache thread taking its turn in between."""
    batch = events(records(2), [0, 1], [b"a", b"b"])
    outputs = {"p": np.zeros(2, np.float32)}
    outbound, _ = encoder.encode(
        PredictionBatch(events=batch, outputs=outputs, model=ModelIdentity(name="m", version="1"))
    )
    cache._writer.step()
    made = cache.entries(batch, outbound)
    return [json.loads(value)["source"]["partitions"] for value in outbound.value], made.version


def test_document_and_version_of_a_record_tell_one_partition_count_while_a_topic_grows(make, monkeypatch):
    today = {"in": 4}
    monkeypatch.setattr(PredictionLog, "input_counts", lambda _: dict(today))
    cache = make()
    spec = TensorSpec(name="p", dtype="float32", shape=(-1,))
    encoder = JsonPredictionEncoder(OutputSettings(topic="out"), [spec], partition_count=cache.partition_count)
    today["in"] = 8
    cache._counts.request()
    for count in (4, 8):
        assert scored(cache, encoder) == ([count] * 2, [offset_version(count, 100), offset_version(count, 101)])


def test_an_assignment_looks_at_the_counts_at_once(make, monkeypatch):
    looks = []
    monkeypatch.setattr(PredictionLog, "input_counts", lambda _: looks.append(1) or {"in": 4})
    monkeypatch.setattr(TailRepair, "step", lambda *_: False)
    cache = make()
    cache._writer.step()
    assert not looks
    cache.assigned([TopicPartition("in", 7)])
    cache._writer.step()
    assert looks == [1]


def test_by_event_time_nobody_asks_for_counts(make, monkeypatch):
    looks = []
    monkeypatch.setattr(PredictionLog, "input_counts", lambda _: looks.append(1) or {})
    cache = make(order="event_time")
    assert cache.partition_count is None
    cache._counts.request()
    cache._writer.step()
    assert not looks


def test_a_repair_can_be_asked_for(make, monkeypatch):
    asked = []
    monkeypatch.setattr(TailRepair, "request", lambda _: asked.append(1))
    make().request_repair()
    assert asked == [1]
