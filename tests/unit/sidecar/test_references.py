"""References are read at most once a minute, and a broken file is told once."""

from __future__ import annotations

import io
import json

from streamserve.registry.references import FolderReferences
from streamserve.sidecar.references import CachedReferences
from streamserve.telemetry.logs import Log
from streamserve.testing import ManualClock
from tests.unit.drift.streams import MODEL, VERSION, reference


def cached(folder):
    clock, lines = ManualClock(), io.StringIO()
    return CachedReferences(FolderReferences(folder), clock, Log.open(stream=lines, format="json")), clock, lines


def test_a_reference_that_comes_or_changes_is_found_within_a_minute(tmp_path):
    references, clock, lines = cached(tmp_path)
    assert references.find(MODEL, VERSION) is None

    folder = tmp_path / MODEL / VERSION
    folder.mkdir(parents=True)
    first = reference(seconds=1200)
    (folder / "reference.json").write_bytes(first.to_json())
    assert references.find(MODEL, VERSION) is None
    clock.advance(61)
    assert references.find(MODEL, VERSION).hash == first.hash

    second = reference(seconds=1200, seed=5)
    (folder / "reference.json").write_bytes(second.to_json())
    assert references.find(MODEL, VERSION).hash == first.hash
    clock.advance(61)
    assert references.find(MODEL, VERSION).hash == second.hash
    told = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert [line["hash"] for line in told if line["event"] == "reference_read"] == [first.hash, second.hash]


def test_a_broken_file_counts_as_none_and_is_told_once(tmp_path):
    references, clock, lines = cached(tmp_path)
    folder = tmp_path / MODEL / VERSION
    folder.mkdir(parents=True)
    (folder / "reference.json").write_text("{")
    for _ in range(3):
        assert references.find(MODEL, VERSION) is None
        clock.advance(61)
    assert lines.getvalue().count("reference_unreadable") == 1


def test_names_from_the_network_lead_nowhere_and_do_not_pile_up(tmp_path):
    references, _, _ = cached(tmp_path)
    for number in range(1000):
        assert references.find(f"../{number}", "1") is None
    assert len(references._known) <= 256
