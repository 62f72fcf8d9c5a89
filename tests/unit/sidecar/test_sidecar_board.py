"""Several monitors, one page."""

from __future__ import annotations

import numpy as np
import orjson

from streamserve.drift.chunk import encode
from streamserve.drift.monitor import Monitor
from streamserve.sidecar.board import SidecarBoard
from streamserve.testing import ManualClock
from tests.unit.drift.streams import MODEL, START_MS, VERSION, Fixed, Stream, reference, settings


def board(*monitors, rebuilding=0):
    clock = ManualClock()
    clock._epoch_ms = START_MS
    return SidecarBoard("payments", lambda: monitors, lambda: rebuilding, clock)


def fed(*, shift_at_s=1e9, model=MODEL, seconds=900):
    monitor = Monitor(settings(), Fixed(reference()))
    stream = Stream(seconds, 50, seed=3, shift=1.0, shift_at_s=shift_at_s)
    for offset, chunk in enumerate(stream.chunks(500)):
        monitor.chunk(encode(chunk), offset, chunk.written_ms)
    return monitor


def test_no_partition_and_a_rebuild_have_words_of_their_own():
    assert board().overview()["state"] == "empty"
    rebuilding = board(rebuilding=1).overview()
    assert rebuilding["state"] == "learning"
    assert rebuilding["models"] == rebuilding["incidents"] == []


def test_the_worst_state_speaks_and_partitions_without_a_model_do_not():
    empty = Monitor(settings(), Fixed())
    quiet, loud = fed(), fed(shift_at_s=300)
    assert board(empty).overview()["state"] == "empty"
    assert board(empty, quiet).overview()["state"] in {"ok", "stale"}
    found = board(empty, loud, quiet).overview()
    assert found["state"] == "alarm"
    assert len(found["incidents"]) == 1
    assert found["sidecar"]["chunks"] == 2 * quiet.metrics()["chunks"]["merged"]


def test_a_model_that_moved_to_another_partition_is_shown_once_as_it_is_there():
    older, newer = fed(seconds=300), fed(seconds=600)
    for pair in ((older, newer), (newer, older)):
        [model] = board(*pair).overview()["models"]
        assert model["newest_ms"] == newer.overview(START_MS)["models"][0]["newest_ms"]


def test_traffic_of_partitions_is_added_up_and_the_lag_put_beside_it():
    one = fed()
    page = board(one, one)
    page._clock._epoch_ms = START_MS
    page.lag(42)
    single, double = board(one).overview()["traffic"], page.overview()["traffic"]
    assert np.allclose(double["events_per_s"], 2 * np.array(single["events_per_s"]))
    assert double["latency_p99_ms"] == single["latency_p99_ms"]
    assert set(double["lag"]) <= {None, 42}
    assert 42 in double["lag"]


def test_a_column_is_asked_of_the_monitor_that_knows_it():
    page = board(Monitor(settings(), Fixed()), fed())
    assert page.column(MODEL, VERSION, 60.0, "", "x")["name"] == "x"
    assert page.column(MODEL, VERSION, 60.0, "", "nope") is None


def test_the_whole_page_is_json():
    orjson.dumps(board(fed(shift_at_s=300)).overview(), option=orjson.OPT_SERIALIZE_NUMPY)
