"""The schema of the flights' rollout topic and the decoder of its records are of one mind."""

from __future__ import annotations

import json

import jsonschema
import orjson
import pytest

from streamserve.demo.flights import TOPICS
from streamserve.rollout.records import (
    Acknowledgement,
    Arm,
    Canary,
    Experiment,
    Promote,
    RecordError,
    Retire,
    Rollback,
    Shadow,
    Stop,
    SwitchPoint,
    decode,
    encode,
    new_id,
)

SCHEMA = jsonschema.Draft202012Validator(json.loads((TOPICS / "schemas" / "flights.rollout-value.json").read_text()))
ASKED = {"by": "ann@host", "why": "a better one", "at_ms": 5, "expects": 3}
ARMS = (Arm(name="control", version="1", weight=0.5), Arm(name="new", version="2", weight=0.5))
RECORDS = [
    Promote(id=new_id(), version="1", **ASKED),
    Canary(id=new_id(), version="2", weight=0.1, **ASKED),
    Shadow(id=new_id(), version="2"),
    Experiment(id=new_id(), name="x", arms=ARMS),
    Rollback(id=new_id(), drop=True),
    Stop(id=new_id(), what="canary"),
    Retire(id=new_id()),
    Acknowledgement(slot="host-0", revision=4, serving=3, versions=("1",), error="no such file", took_ms=4.5, at_ms=6),
    SwitchPoint(topic="flights.departures", partition=0, offset=7, revision=4, slot="host-0"),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_every_record_fits(record):
    SCHEMA.validate(orjson.loads(encode(record)[1]))


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_the_decoder_and_the_schema_miss_the_same_fields(record):
    document = orjson.loads(encode(record)[1])
    for key in document:
        less = {name: value for name, value in document.items() if name != key}
        assert SCHEMA.is_valid(less) == _decodes(less), key


@pytest.mark.parametrize(
    "change",
    [
        {"version": "0"},
        {"version": 2},
        {"version": "../2"},
        {"weight": 0},
        {"weight": 1.5},
        {"weight": "0.1"},
        {"id": "A b"},
        {"expects": -2},
        {"expects": "3"},
        {"by": None},
        {"kind": "nothing"},
    ],
    ids=str,
)
def test_they_refuse_the_same_values(change):
    canary = orjson.loads(encode(RECORDS[1])[1]) | change
    assert not SCHEMA.is_valid(canary)
    assert not _decodes(canary)


def _decodes(document):
    try:
        decode(orjson.dumps(document))
    except RecordError:
        return False
    return True
