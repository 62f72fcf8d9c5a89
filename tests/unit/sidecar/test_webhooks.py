"""What is posted for which alert."""

from __future__ import annotations

from datetime import UTC, datetime

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamserve.drift.events import Alert, RetrainRequest
from streamserve.sidecar.webhooks import read_alert, request_for

PAGE = "http://here:8090/"


def alert(what="opened", **fields):
    base = {
        "pipeline": "flights",
        "model": "delay",
        "version": "3",
        "incident": "i1",
        "sequence": 0,
        "alert": what,
        "at_ms": 1_700_000_100_000,
        "opened_ms": 1_700_000_000_000,
        "severity": "warning",
        "title": "x drifts",
        "reasons": [],
        "span": {},
    }
    return Alert(**{**base, **fields}).json()


def posted(value, style="alertmanager"):
    request = request_for(value, "alerts-0-7", style, PAGE)
    return orjson.loads(request.body)


def seconds(text):
    return datetime.fromisoformat(text).timestamp()


def test_an_open_incident_ends_far_ahead_so_that_alertmanager_keeps_it():
    [only] = posted(alert())
    assert only["labels"] == {
        "alertname": "StreamserveDrift",
        "pipeline": "flights",
        "model": "delay",
        "version": "3",
        "incident": "i1",
        "severity": "warning",
    }
    assert only["startsAt"] == "2023-11-14T22:13:20.000+00:00"
    assert seconds(only["endsAt"]) > datetime.now(UTC).timestamp() - 1e9
    assert seconds(only["endsAt"]) - seconds(only["startsAt"]) > 7 * 86_400
    assert only["generatorURL"] == PAGE
    assert only["annotations"]["summary"] == "x drifts"


def test_an_incident_that_worsens_ends_the_alert_of_the_other_severity():
    now, other = posted(alert("worsened", severity="critical", sequence=1))
    assert (now["labels"]["severity"], other["labels"]["severity"]) == ("critical", "warning")
    assert seconds(other["endsAt"]) == 1_700_000_100
    assert seconds(now["endsAt"]) > 1_700_000_100
    assert now["startsAt"] == other["startsAt"]


def test_a_cleared_incident_ends_all_its_alerts_under_the_labels_that_they_had():
    ended = posted(alert("cleared", sequence=2))
    assert {each["endsAt"] for each in ended} == {"2023-11-14T22:15:00.000+00:00"}
    assert {each["labels"]["severity"] for each in ended} == {"warning", "critical"}
    opened = posted(alert())[0]["labels"]
    assert opened in [each["labels"] for each in ended]


def test_the_key_is_the_same_for_the_same_alert_only():
    keys = [request_for(alert(sequence=n), "p", style, PAGE).idempotency_key for n in (0, 1) for style in ("json",)]
    assert keys == ["i1.0", "i1.1"]
    assert request_for(alert(), "another-place", "alertmanager", PAGE).idempotency_key == "i1.0"


def test_json_is_the_record_as_it_stands_requests_for_training_too():
    value = alert()
    assert request_for(value, "p", "json", PAGE).body == value
    retrain = RetrainRequest(pipeline="p", model="m", version="1", reason="the schedule", at_ms=1, evidence={}).json()
    request = request_for(retrain, "alerts-0-7", "json", PAGE)
    assert (request.body, request.idempotency_key) == (retrain, "alerts-0-7")
    assert request_for(retrain, "alerts-0-7", "alertmanager", PAGE) is None


@pytest.mark.parametrize(
    "value", [b"", b"[]", b"no json", b'"text"', b'{"kind":"alert"}', b'{"kind":"alert","alert":1}']
)
def test_what_is_no_alert_is_none(value):
    assert read_alert(value) is None
    assert request_for(value, "p", "alertmanager", PAGE) is None


@given(st.binary(max_size=200))
def test_no_bytes_break_it(value):
    assert read_alert(value) is None


NAMES = ("pipeline", "model", "version", "severity", "title", "incident", "sequence", "at_ms", "opened_ms")
VALUES = st.one_of(st.none(), st.text(max_size=5), st.floats(), st.integers(-(1 << 62), 1 << 62), st.just([]))


@given(st.fixed_dictionaries(dict.fromkeys(NAMES, VALUES)), st.sampled_from(["alertmanager", "json"]))
def test_no_document_breaks_it(fields, style):
    value = orjson.dumps({"kind": "alert", "alert": "opened", **fields})
    request_for(value, "p", style, PAGE)
