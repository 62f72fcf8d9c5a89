"""The demo's bookkeeping: what counts as lost, duplicated or out of order, and the latencies."""

from __future__ import annotations

import itertools

import pytest

from streamserve.demo.flights import Flights, bad_events
from streamserve.demo.injection import Injections
from streamserve.demo.ledger import IDENTITY, Count, Latencies, Sending, Sent
from streamserve.demo.replay import Pace, upcoming
from streamserve.demo.summary import Summary
from streamserve.demo.watcher import dead_letter


def sent_of(*identities):
    sent = Sent()
    for identity in identities:
        sent.add(identity, Sending(0.0, 0))
    return sent


def summary_of(sent, count, *, exactly_once=True):
    return Summary.of(
        sent, count, Latencies(), seconds=2.0, first_prediction_s=None, broker="b", cache="c", workers=1,
        exactly_once=exactly_once,
    )  # fmt: skip


def test_an_event_is_lost_when_it_is_in_neither_topic():
    count = Count()
    count.prediction("a", 0, 0)
    count.dead_letter("b", "schema")
    assert count.lost(sent_of("a", "b", "c")) == 1
    assert count.accounted == 2


def test_every_record_beyond_the_first_of_an_event_is_a_duplicate_in_either_topic():
    count = Count()
    assert count.prediction("a", 0, 0)
    assert not count.prediction("a", 0, 0)
    assert not count.dead_letter("a", "schema")
    assert (count.predictions, count.dead_letters, count.duplicated) == (2, 1, 2)
    assert count.lost(sent_of("a")) == 0


def test_a_first_prediction_after_one_of_a_later_event_of_its_partition_is_out_of_order():
    count = Count()
    for identity, partition, offset in [("a", 0, 5), ("b", 1, 2), ("c", 0, 4), ("d", 0, 6)]:
        count.prediction(identity, partition, offset)
    assert count.inversions == 1


def test_a_batch_that_is_repeated_is_duplicated_but_in_order():
    count = Count()
    for identity, offset in [("a", 0), ("b", 1), ("a", 0), ("b", 1), ("c", 2)]:
        count.prediction(identity, 0, offset)
    assert (count.duplicated, count.inversions) == (2, 0)


@pytest.mark.parametrize(
    ("exactly_once", "duplicated", "missing", "kept"),
    [(True, 0, 0, True), (True, 1, 0, False), (False, 1, 0, True), (False, 0, 1, False)],
)
def test_duplicates_break_the_promise_of_exactly_once_only_and_a_loss_breaks_both(
    exactly_once, duplicated, missing, kept
):
    count = Count()
    for _ in range(1 + duplicated):
        count.prediction("a", 0, 0)
    summary = summary_of(sent_of("a", *["z"] * missing), count, exactly_once=exactly_once)
    assert summary.kept is kept


def test_the_document_has_the_promised_keys():
    document = summary_of(sent_of("a"), Count()).document()
    wanted = {"events", "predictions", "dead_letters", "lost", "duplicated", "events_per_s", "latency_ms"}
    assert wanted <= document.keys()
    assert document["events_per_s"] == 0.5
    assert document["latency_ms"] is None


def test_percentiles_of_all_latencies_and_of_the_newest():
    latencies = Latencies()
    assert latencies.percentiles() is None
    for number in range(101):
        latencies.add(number / 1000)
    assert latencies.percentiles() == pytest.approx((50.0, 95.0, 99.0))
    assert latencies.percentiles(newest=1) == pytest.approx((100.0, 100.0, 100.0))


def test_a_dead_letter_is_told_by_its_header_else_by_its_value_else_by_its_place():
    place = [("__connect.errors.partition", b"3"), ("__connect.errors.offset", b"7")]
    reason = ("streamserve.reason", b"schema")
    marked = dead_letter([(IDENTITY, b"bad-2"), reason], b'{"flight_id":"a"}')
    assert (marked.identity, marked.reason) == ("bad-2", "schema")
    assert dead_letter([reason], b'{"flight_id":"a"}').identity == "a"
    assert dead_letter(place, b"\xff").identity == "unknown-3-7"


@pytest.mark.parametrize(
    ("pace", "total"),
    [
        (Pace(rate=10, events=7), 7),
        (Pace(rate=10, seconds=3), 30),
        (Pace(rate=10, seconds=3, events=40), 30),
        (Pace(rate=10, seconds=0.01), 1),
        (Pace(rate=10), 1000),
    ],
)
def test_a_replay_ends_by_events_by_seconds_or_with_the_data(pace, total):
    assert pace.total(1000) == total


@pytest.mark.parametrize("events", [100, 20_000])
def test_all_bad_events_come_once_and_the_flights_keep_their_order(events):
    flights = Flights.load()
    found = list(
        itertools.islice(upcoming(flights, Pace(rate=1000, events=events), Injections((), 1000, events)), events)
    )
    bad = [event.identity for event in found if event.row < 0]
    assert bad == [f"bad-{number}" for number in range(len(bad_events()))]
    assert [event.row for event in found if event.row >= 0] == list(range(events - len(bad)))
    assert len({event.identity for event in found}) == events


def test_a_few_events_are_not_all_bad():
    found = list(itertools.islice(upcoming(Flights.load(), Pace(rate=1000, events=4), Injections((), 1000, 4)), 4))
    assert sum(event.row < 0 for event in found) == 2
