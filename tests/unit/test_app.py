"""Parts of the composition root that can be wrong by themselves."""

import pytest

from streamserve.app import Slot, _orphans
from streamserve.batch import RecordBatch
from streamserve.errors import EngineError
from streamserve.telemetry.logs import Log
from streamserve.testing import MemoryFiles, memory_settings


def ids(slot, count):
    return [f"p.{slot}.{n}" for n in range(count)]


def test_ids_that_are_no_longer_in_rotation_are_orphans_once(tmp_path):
    note = tmp_path / "producers-w-0"
    assert _orphans(note, ids("w-0", 3)) == []
    assert _orphans(note, ids("w-0", 2)) == ["p.w-0.2"]
    assert _orphans(note, ids("w-0", 2)) == []


def test_slots_with_dots_in_their_names_do_not_share_a_note(tmp_path):
    first, second = tmp_path / "producers-web.example-0", tmp_path / "producers-web.example-1"
    _orphans(first, ids("web.example-0", 3))
    _orphans(second, ids("web.example-1", 3))
    assert first.read_text().split() == ids("web.example-0", 3)
    assert _orphans(first, ids("web.example-0", 1)) == ["p.web.example-0.1", "p.web.example-0.2"]


def test_a_note_with_ids_of_another_slot_makes_no_orphans(tmp_path):
    note = tmp_path / "producers-w-0"
    note.write_text("\n".join(ids("w-1", 3)))
    assert _orphans(note, ids("w-0", 3)) == []


def test_the_headers_of_a_batch_split_a_thousand_times_are_still_found():
    n = 3000
    headers = [[("n", b"%d" % i)] for i in range(n)]
    batch = RecordBatch(
        topic=["t"] * n,
        partition=[0] * n,
        offset=list(range(n)),
        timestamp_ms=[0] * n,
        key=[None] * n,
        value=[b""] * n,
        headers=lambda: headers,
    )
    for _ in range(n - 1):
        batch = batch.rows(1, len(batch))
    assert batch.headers() == [[("n", b"2999")]]


def test_a_stop_strikes_out_the_note_of_a_load(tmp_path, monkeypatch):
    monkeypatch.setattr("streamserve.app.topic_facts", lambda _: None)
    noted = []

    def loading(_settings, _builder, note, *_):
        for stop in (False, True):
            if stop:
                slot.stop()
            with note.of(MemoryFiles(name="m", version="1", sha256="aa")):
                noted.append((tmp_path / "loading-w-0").exists())
        raise EngineError("enough")

    monkeypatch.setattr("streamserve.app.build_residency", loading)
    settings = memory_settings([{"name": "x"}], rollout={}, state_dir=str(tmp_path), http={"port": 0})
    slot = Slot(settings, "w-0", 0, Log.open())
    with pytest.raises(EngineError, match="enough"):
        slot.run()
    assert noted == [True, False]
