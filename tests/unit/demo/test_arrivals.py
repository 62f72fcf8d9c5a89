"""Labels by the clock of the replay: published when their flight has landed, in order, once."""

from __future__ import annotations

import itertools
import json

import jsonschema
import pytest

from streamserve.demo.arrivals import Arrivals
from streamserve.demo.flights import TOPICS, Flights
from streamserve.demo.injection import Fault, Injection, Injections
from streamserve.drift.labels import Label, LabelDecoder
from streamserve.drift.task import Task


@pytest.fixture(scope="module")
def flights():
    return Flights.load()


def arrivals(flights, *injections):
    return Arrivals(flights, Injections(injections, 1000.0, len(flights)))


def test_nothing_has_landed_before_the_first_departure(flights):
    landing = arrivals(flights)
    assert list(landing.due()) == []
    landing.sent(-1)  # an event that is bad on purpose
    assert list(landing.due()) == []


def test_a_label_is_due_when_a_departure_is_not_earlier_than_its_arrival(flights):
    landing, times = arrivals(flights), flights.event_time_ms()
    known = {label.flight_id: label for label in itertools.islice(flights.labels(), 20_000)}
    published = []
    for row in range(0, 4000, 7):
        landing.sent(row)
        for record in landing.due():
            published.append(json.loads(record.value))
            assert int(times[row]) >= published[-1]["ts"] > int(times[row - 7 if row else 0])
    assert len(published) == landing.published > 3000
    assert [label["ts"] for label in published] == sorted(label["ts"] for label in published)
    due = [label for label in known.values() if label.ts_ms <= int(times[row])]
    assert [(label["id"], label["label"], label["ts"]) for label in published] == [tuple(label) for label in due]


def test_every_label_of_the_year_comes_out_once_and_the_last_ones_land_after_it(flights):
    landing = arrivals(flights)
    landing.sent(len(flights) - 1)
    before = [json.loads(record.value)["id"] for record in landing.due()]
    after = [json.loads(record.value)["id"] for record in landing.rest()]
    assert len(after) == 49
    assert len(before) + len(after) == len({*before, *after}) == 327_346
    assert list(landing.rest()) == []


def test_the_key_is_that_of_the_event(flights):
    keys = dict(zip(flights.flight_ids(0, 3000), (key for key, _ in flights.encoded(0, 3000)), strict=True))
    landing = arrivals(flights)
    landing.sent(2000)
    assert all(keys[json.loads(record.value)["id"]] == record.key for record in landing.due())


def test_they_are_labels_as_the_sidecar_reads_them(flights):
    landing = arrivals(flights)
    landing.sent(500)
    decoder = LabelDecoder(Task())
    assert all(isinstance(decoder.decode(record.value), Label) for record in landing.due())


def test_they_are_valid_by_the_schema_of_their_topic(flights):
    landing = arrivals(flights)
    landing.sent(500)
    schema = json.loads((TOPICS / "schemas" / "flights.labels-value.json").read_text())
    for record in landing.due():
        jsonschema.validate(json.loads(record.value), schema)


def test_flipped_labels_are_published_flipped(flights):
    plain, wrong = arrivals(flights), arrivals(flights, Injection(fault=Fault.LABEL_FLIP, at_s=0))
    for landing in (plain, wrong):
        landing.sent(2000)
    pairs = [(json.loads(a.value), json.loads(b.value)) for a, b in zip(plain.due(), wrong.due(), strict=True)]
    assert {a["id"] == b["id"] for a, b in pairs} == {True}
    assert 0.3 < sum(a["label"] != b["label"] for a, b in pairs) / len(pairs) < 0.4
