"""Faults in the data: every changed event is one that the pipeline accepts, and only what was asked for changes."""

from __future__ import annotations

import json

import numpy as np
import pytest

from streamserve.batch import RecordBatch
from streamserve.codecs import build_decoder
from streamserve.config.loading import load
from streamserve.demo.flights import CONFIG, ROOT, Flights
from streamserve.demo.flights.dataset import Label
from streamserve.demo.injection import (
    FIELD,
    FLIP_SHARE,
    MISSING_SHARE,
    NEW_CARRIER,
    NEW_SHARE,
    SHIFT_MIN,
    WORDS,
    Fault,
    Injection,
    Injections,
)
from streamserve.demo.replay import Pace, upcoming
from streamserve.enrich import FeatureEnricher
from streamserve.registry.repository import FolderRepository

ROWS = 3000
ON_EVENTS = [fault for fault in Fault if fault is not Fault.LABEL_FLIP]


@pytest.fixture(scope="module")
def flights():
    return Flights.load()


@pytest.fixture(scope="module")
def accepts():
    """The rows that the demo's decoder and feature spec refuse."""
    settings = load(CONFIG, environ={}).settings
    version = FolderRepository(ROOT / "models").resolve(settings.model.name, "latest")
    decoder, enricher = build_decoder(settings), FeatureEnricher(settings.features, version.signature)

    def rejects(values):
        n = len(values)
        batch = RecordBatch(
            topic=["flights.departures"] * n, partition=[0] * n, offset=list(range(n)), timestamp_ms=[0] * n,
            key=[b""] * n, value=values,
        )  # fmt: skip
        events, undecoded = decoder.decode(batch)
        _, unfit = enricher.enrich(events)
        return [*undecoded, *unfit]

    return rejects


def sent(flights, *injections, rows=ROWS, rate=1000.0):
    """The good events of a replay."""
    pace = Pace(rate=rate, events=rows)
    found = []
    for event in upcoming(flights, pace, Injections(injections, rate, rows)):
        if event.row >= 0:
            found.append(event)
        if event.row == rows - 1:
            return found
    raise AssertionError


def documents(events):
    return [json.loads(event.value) for event in events]


@pytest.mark.parametrize("fault", ON_EVENTS)
def test_changed_events_are_accepted_all_year(flights, accepts, fault):
    changed = Injections([Injection(fault=fault, at_s=0.0)], 1000.0, len(flights))
    for start in range(0, len(flights), 20_000):
        events = enumerate(flights.events(start, start + 400), start=start)
        values = [json.dumps(changed.event(row, event)).encode() for row, event in events]
        assert accepts(values) == []


def test_the_latest_departure_of_the_year_is_accepted_when_it_is_shifted(flights, accepts):
    row = int(np.argmax(flights.numbers("dep_delay")))
    changed = Injections([Injection(fault=Fault.SHIFT, at_s=0.0)], 1000.0, len(flights))
    assert accepts([json.dumps(changed.event(row, next(flights.events(row, row + 1)))).encode()]) == []


@pytest.mark.parametrize("fault", ON_EVENTS)
def test_only_its_field_changes_and_only_from_its_moment_on(flights, fault):
    plain = documents(sent(flights))
    changed = documents(sent(flights, Injection(fault=fault, at_s=1.5)))
    assert changed[:1500] == plain[:1500]
    assert changed[1500:] != plain[1500:]
    for before, after in zip(plain, changed, strict=True):
        for event in (before, after):
            event.pop(FIELD[fault], None)
        assert after == before


def test_shift_adds_minutes_to_the_departure_delay(flights):
    plain, changed = documents(sent(flights)), documents(sent(flights, Injection(fault=Fault.SHIFT, at_s=0)))
    assert all(b["dep_delay"] - a["dep_delay"] == SHIFT_MIN for a, b in zip(plain, changed, strict=True))


def test_missing_and_new_category_hit_their_share(flights):
    hit = documents(sent(flights, *(Injection(fault=each, at_s=0) for each in (Fault.MISSING, Fault.NEW_CATEGORY))))
    absent = np.mean(["temp" not in event for event in hit]) - np.mean(np.isnan(flights.numbers("temp")[:ROWS]))
    assert absent == pytest.approx(MISSING_SHARE, abs=0.01)
    assert np.mean([event["carrier"] == NEW_CARRIER for event in hit]) == pytest.approx(NEW_SHARE, abs=0.01)


def test_the_new_carrier_is_listed_and_all_but_absent_from_the_months_of_the_reference(flights):
    settings = load(CONFIG, environ={}).settings
    (carrier,) = [feature for feature in settings.features if feature.name == "carrier"]
    assert NEW_CARRIER in carrier.categories
    training = flights.numbers("month") <= 4
    assert np.mean(flights.strings("carrier")[training] == NEW_CARRIER) < 1e-4


def test_a_stuck_sensor_repeats_the_last_value_it_had(flights):
    events = documents(sent(flights, Injection(fault=Fault.STUCK_SENSOR, at_s=1)))
    stuck = {event["wind_speed"] for event in events[1000:]}
    assert len(stuck) == 1
    assert len({event.get("wind_speed") for event in events[:1000]}) > 5


def test_labels_flip_at_their_share_from_its_moment_on():
    injections = Injections([Injection(fault=Fault.LABEL_FLIP, at_s=1)], 1000.0, ROWS)
    label = Label("AA1-2013-01-01-JFK", 1, 5)
    assert [injections.label(999, number, label) for number in range(100)] == [label] * 100
    flipped = [injections.label(1000, number, label).late == 0 for number in range(2000)]
    assert np.mean(flipped) == pytest.approx(FLIP_SHARE, abs=0.01)
    assert not injections.touches(ROWS), "events stay as they are"


def test_two_faults_at_a_time_do_not_disturb_each_other(flights):
    both = [Injection(fault=Fault.SHIFT, at_s=0), Injection(fault=Fault.STUCK_SENSOR, at_s=0)]
    one = documents(sent(flights, both[0]))
    for event, expected in zip(documents(sent(flights, *both)), one, strict=True):
        assert event["dep_delay"] == expected["dep_delay"]


@pytest.mark.parametrize(
    ("text", "fault", "at_s"),
    [("shift", Fault.SHIFT, None), ("label-flip@0", Fault.LABEL_FLIP, 0.0), ("missing@2.5", Fault.MISSING, 2.5)],
)
def test_a_fault_is_told_by_its_name_and_its_second(text, fault, at_s):
    assert Injection.parse(text) == Injection(fault=fault, at_s=at_s)


@pytest.mark.parametrize("text", ["shifty", "", "shift@", "shift@soon", "shift@-1", "shift@inf", "shift@nan"])
def test_anything_else_is_refused_with_a_reason(text):
    with pytest.raises(ValueError, match=r"stuck-sensor|a number of seconds"):
        Injection.parse(text)


@pytest.mark.parametrize(("events", "begins"), [(328_530, 30_000), (40_000, 20_000), (10, 5)])
def test_without_a_time_it_begins_after_15_s_or_half_way(events, begins):
    assert Injection(fault=Fault.SHIFT).begins(2000.0, events) == begins


def test_every_fault_says_in_words_what_it_does():
    assert all(FIELD[fault] in WORDS[fault] for fault in Fault)
