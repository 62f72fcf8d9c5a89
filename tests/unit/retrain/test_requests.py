"""Records of the alerts topic as requests."""

from __future__ import annotations

import json

from streamserve.drift.events import RetrainRequest
from streamserve.retrain.requests import request_of


def event(**changed):
    fields = {"pipeline": "p", "model": "m", "version": "3", "reason": "the schedule", "at_ms": 5, "evidence": {}}
    return RetrainRequest(**{**fields, **changed}).json()


def test_a_request_is_read():
    value = event()
    found = request_of(value, "p")
    assert (found.reason, found.at_ms, found.version, found.document) == ("the schedule", 5, "3", value)


def test_other_records_are_passed_over():
    others = [event(pipeline="q"), json.dumps({"kind": "alert", "pipeline": "p"}).encode()]
    broken = [None, b"", b"{", b"[" * 100_000, b'{"kind":"retrain"}', b"\xff\xfe", b'"retrain"']
    assert [request_of(value, "p") for value in [*others, *broken]] == [None] * 9
