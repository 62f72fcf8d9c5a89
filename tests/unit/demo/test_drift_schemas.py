"""The schemas of the flights' drift topics take what the monitor tells and what the label decoder reads."""

from __future__ import annotations

import json

import jsonschema
import orjson
import pytest

from streamserve.demo.flights import TOPICS
from streamserve.drift.events import Alert, PerformanceReport, Report, RetrainRequest
from streamserve.drift.labels import LabelDecoder, MalformedLabel
from streamserve.drift.task import Task

WHO = {"pipeline": "flights", "model": "flight-delay", "version": "1"}
SPAN = {"flights.departures": {"0": [3, 90]}}


def schema(topic: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json.loads((TOPICS / "schemas" / f"{topic}-value.json").read_text()))


ALERT = Alert(
    **WHO, incident="i", sequence=0, alert="opened", at_ms=5, opened_ms=5, severity="warning", title="temp moved",
    reasons=[{"column": "temp"}], span=SPAN,
)  # fmt: skip
RETRAIN = RetrainRequest(**WHO, reason="schedule", at_ms=5, evidence={"incident": "i"})
REPORT = Report(
    **WHO, segment="", window_s=60.0, start_ms=0, end_ms=60_000, rows=10, sampled_share=0.5, n_effective=9.5,
    reference="abc", provisional=False, decided=True, drifted=["temp"], columns={"name": ["temp"], "p": [1e-9]},
    span=SPAN,
)  # fmt: skip
PERFORMANCE = PerformanceReport(
    **WHO, segment="", window_s=60.0, end_ms=60_000, labels=3, realised={}, estimated={}, gap=None, fairness=[]
)


@pytest.mark.parametrize(
    ("topic", "event"),
    [
        ("flights.drift.alerts", ALERT),
        ("flights.drift.alerts", RETRAIN),
        ("flights.drift.reports", REPORT),
        ("flights.drift.reports", PERFORMANCE),
    ],
    ids=lambda value: value if isinstance(value, str) else value.kind,
)
def test_what_the_monitor_tells_fits(topic, event):
    document = orjson.loads(event.json())
    schema(topic).validate(document)
    for key in ("pipeline", "model", "version", "kind"):
        assert not schema(topic).is_valid({name: value for name, value in document.items() if name != key})


@pytest.mark.parametrize("missing", ["incident", "sequence", "alert", "title", "span"])
def test_an_alert_that_lacks_something_does_not(missing):
    document = orjson.loads(ALERT.json())
    del document[missing]
    assert not schema("flights.drift.alerts").is_valid(document)


@pytest.mark.parametrize("missing", ["rows", "columns", "decided"])
def test_a_report_that_lacks_something_does_not(missing):
    document = orjson.loads(REPORT.json())
    del document[missing]
    assert not schema("flights.drift.reports").is_valid(document)


@pytest.mark.parametrize(
    ("label", "fits"),
    [
        ({"id": "AA11", "label": 1, "ts": 1372941000000}, True),
        ({"id": "AA11", "label": True, "ts": 1372941000000, "value": 3.5, "clicked": False}, True),
        ({"label": 1, "ts": 1372941000000}, False),
        ({"id": "", "label": 1, "ts": 1372941000000}, False),
        ({"id": "AA11", "label": None, "ts": 1372941000000}, False),
        ({"id": "AA11", "label": 1, "ts": -1}, False),
        ({"id": "AA11", "label": 1}, False),
    ],
)
def test_the_label_schema_and_the_decoder_are_of_one_mind(label, fits):
    assert schema("flights.labels").is_valid(label) == fits
    decoded = LabelDecoder(Task(kind="binary")).decode(json.dumps(label).encode())
    assert isinstance(decoded, MalformedLabel) != fits
