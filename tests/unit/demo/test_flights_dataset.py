"""The flights extract: what is in it, in which order, and that the events keep what their schema promises."""

from __future__ import annotations

import datetime as dt
import itertools
import json
from zoneinfo import ZoneInfo

import jsonschema
import numpy as np
import pytest

from streamserve.config.topic_documents import read_topics
from streamserve.demo.flights import ROOT, TOPICS, Flights, bad_events
from streamserve.demo.flights.__main__ import main
from streamserve.demo.flights.dataset import FIELDS, WEATHER

NEW_YORK = ZoneInfo("America/New_York")


@pytest.fixture(scope="module")
def flights():
    return Flights.load()


@pytest.fixture(scope="module")
def schema():
    document = json.loads((TOPICS / "schemas" / "flights.departures-value.json").read_text())
    jsonschema.Draft202012Validator.check_schema(document)
    return jsonschema.Draft202012Validator(document)


def find(flights, flight_id):
    row = flights.flight_ids().index(flight_id)
    return next(flights.events(row, row + 1))


def stamp(*local):
    return int(dt.datetime(*local, tzinfo=NEW_YORK).timestamp() * 1000)


def test_all_departures_of_the_year_are_there(flights):
    assert len(flights) == 328_521


def test_ids_are_unique(flights):
    assert len(set(flights.flight_ids())) == len(flights)


def test_events_are_in_order_of_departure(flights):
    times = flights.event_time_ms()
    assert (np.diff(times) >= 0).all()
    assert [event["event_time"] for event in flights.events(1000, 1100)] == times[1000:1100].tolist()


def test_the_first_departure_is_that_of_the_tables(flights):
    assert next(flights.events()) == {
        "flight_id": "UA1545-2013-01-01-EWR", "event_time": 1357035420000, "carrier": "UA", "flight": "UA1545",
        "tailnum": "N14228", "origin": "EWR", "dest": "IAH", "month": 1, "day_of_week": 2, "sched_dep_minute": 315,
        "sched_duration": 244, "dep_delay": 2, "distance": 1400, "temp": 39.02, "dewp": 28.04, "humid": 64.43,
        "wind_speed": 12.65858, "precip": 0.0, "visib": 10.0, "pressure": 1011.9,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("flight_id", "departed"),
    [
        ("UA1545-2013-01-01-EWR", (2013, 1, 1, 5, 17)),  # winter time
        ("UA207-2013-07-04-EWR", (2013, 7, 4, 9, 29)),  # summer time
    ],
)
def test_the_instant_is_the_local_clock_with_its_daylight_saving(flights, flight_id, departed):
    assert find(flights, flight_id)["event_time"] == stamp(*departed)


@pytest.mark.parametrize("day", [(3, 9), (3, 10), (3, 11), (11, 2), (11, 3), (11, 4)])
def test_schedules_keep_their_local_minute_when_the_clocks_change(flights, day):
    month, day_of_month = day
    on_day = (flights.numbers("month") == month) & (flights.columns["date"] == _day_of_year(month, day_of_month))
    rows = np.flatnonzero(on_day)[::50]
    assert len(rows) > 5
    for row in rows.tolist():
        event = next(flights.events(row, row + 1))
        scheduled = event["event_time"] - event["dep_delay"] * 60_000
        local = dt.datetime.fromtimestamp(scheduled / 1000, NEW_YORK)
        assert (local.month, local.day) == day
        assert local.hour * 60 + local.minute == event["sched_dep_minute"]
        assert local.isoweekday() == event["day_of_week"]


def test_a_slice_is_that_part_of_the_whole(flights):
    whole = list(itertools.islice(flights.events(), 9000))
    assert list(flights.events(4000, 9000)) == whole[4000:]
    assert list(flights.events(len(flights) - 3)) == list(flights.events(len(flights) - 3, len(flights) + 10))
    assert list(flights.events(5, 5)) == []


def test_records_are_the_events_under_their_flight_number(flights):
    records = flights.encoded(500, 600)
    assert [json.loads(value) for _, value in records] == list(flights.events(500, 600))
    assert all(
        key.decode() == event["flight"] for (key, _), event in zip(records, flights.events(500, 600), strict=True)
    )


def test_what_was_not_measured_is_absent_and_all_else_is_there(flights):
    absent = dict.fromkeys(WEATHER, 0)
    for event in flights.events():
        if len(event) == len(FIELDS):
            continue
        missing = [name for name in FIELDS if name not in event]
        for name in missing:
            absent[name] += 1
    assert absent["pressure"] == 36_319
    assert absent["temp"] == 1_545
    assert absent["visib"] == 1_528
    assert absent["wind_speed"] == 1_606


def test_columns_say_what_the_events_say(flights):
    carriers, temps = flights.strings("carrier"), flights.numbers("temp")
    for row, event in enumerate(flights.events(0, 300)):
        assert carriers[row] == event["carrier"]
        assert temps[row] == event["temp"] if "temp" in event else np.isnan(temps[row])


def test_labels_come_in_order_of_arrival_once_for_every_flight_that_arrived(flights):
    labels = list(flights.labels())
    assert len(labels) == 327_346 == len({label.flight_id for label in labels})
    assert all(before.ts_ms <= after.ts_ms for before, after in itertools.pairwise(labels))
    assert sum(label.late for label in labels) == int((flights.late() == 1).sum())
    first = {label.flight_id: label for label in labels[:500]}["UA1545-2013-01-01-EWR"]
    # 8:30 in Houston, 11 minutes after its schedule.
    landed = dt.datetime(2013, 1, 1, 8, 30, tzinfo=ZoneInfo("America/Chicago"))
    assert (first.late, first.ts_ms) == (0, int(landed.timestamp() * 1000))


def test_no_flight_arrives_before_it_leaves(flights):
    departed = dict(zip(flights.flight_ids(), flights.event_time_ms().tolist(), strict=True))
    assert all(label.ts_ms > departed[label.flight_id] + 15 * 60_000 for label in flights.labels())


def test_events_are_valid_by_the_topic_schema(flights, schema):
    for start in range(0, len(flights), 5000):
        for event in flights.events(start, start + 5):
            schema.validate(event)
    gap = int(np.flatnonzero(np.isnan(flights.numbers("pressure")))[0])
    schema.validate(next(flights.events(gap, gap + 1)))


def test_bad_events_are_what_they_claim(schema):
    bad = bad_events()
    assert {event.reason for event in bad} == {"decode", "schema", "missing_feature", "out_of_range"}
    for event in bad:
        assert event.note
        if event.reason == "decode":
            with pytest.raises(ValueError):  # noqa: PT011 - two kinds of it
                json.loads(event.value.decode(), parse_constant=_refuse)
        elif b"1e999" in event.value:
            assert json.loads(event.value)["dep_delay"] == float("inf")
        elif b'"ZZ"' not in event.value:  # which carriers there are is the pipeline's knowledge
            assert not schema.is_valid(json.loads(event.value))


def test_bad_events_are_the_same_every_time():
    assert bad_events() == bad_events()


def test_topic_documents_are_sound():
    topics = {topic.name: topic for topic in read_topics(TOPICS)}
    scored = {"flights.departures", "flights.departures.dlq", "flights.predictions"}
    watched = {"flights.samples", "flights.drift.reports", "flights.drift.alerts", "flights.labels"}
    changing = {"flights.rollout", "flights.shadow"}
    assert set(topics) == scored | watched | changing
    assert {topics[name].partitions for name in scored} == {4}
    assert "schema" not in topics["flights.samples"].annotations  # binary: docs/topics.md
    for topic in topics.values():
        if "schema" not in topic.annotations:
            continue
        schema = json.loads((TOPICS / topic.annotations["schema"]).read_text())
        jsonschema.Draft202012Validator.check_schema(schema)
        written_as = {"flights.shadow": "flights.predictions"}.get(topic.name, topic.name)
        assert schema["$id"] == f"{written_as}-value.json"


def test_the_prediction_schema_takes_a_prediction():
    schema = json.loads((TOPICS / "schemas" / "flights.predictions-value.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    prediction = {
        "id": "AA11-2013-07-04-JFK", "model": "flight-delay", "version": "1",
        "outputs": {"probability": 0.83, "late": True}, "event_time": 1372941000000,
        "source": {"topic": "flights.departures", "partition": 2, "offset": 4711},
    }  # fmt: skip
    validator.validate(prediction)
    assert not validator.is_valid(prediction | {"outputs": {"probability": 1.5, "late": True}})


def test_the_package_data_stay_small():
    assert sum(path.stat().st_size for path in ROOT.rglob("*") if path.suffix != ".pyc") < 4_000_000


def _day_of_year(month, day):
    return dt.date(2013, month, day).timetuple().tm_yday - 1


def _refuse(literal):
    raise ValueError(literal)


def test_the_module_prints_events_as_lines(flights, capsys):
    assert main(["--start", "10", "--count", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line) for line in lines] == list(flights.events(10, 13))


def test_the_module_prints_labels_as_lines(flights, capsys):
    assert main(["--labels", "--start", "10", "--count", "3"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    wanted = itertools.islice(flights.labels(), 10, 13)
    assert [(line["id"], line["label"], line["ts"]) for line in lines] == [tuple(label) for label in wanted]
