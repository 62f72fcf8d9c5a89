"""One incident per event: opened, worsened, cleared, and the same after a restart."""

from __future__ import annotations

import json

import numpy as np
import pytest

from streamserve.drift.decision import Verdict
from streamserve.drift.incidents import IncidentBook, Signal
from streamserve.drift.significance import Significance

NAMES = ("temp", "city", "output.probability")
MINUTE, HOUR = 60.0, 3600.0
PANE_MS = 10_000


def verdict(drifted=(), near=(), *, window_s=MINUTE, segment="", severity=2.0, decided=True):
    """A look at which the named columns drifted, or are near it."""
    columns = len(NAMES)
    flags = np.array([name in drifted for name in NAMES])
    close = np.array([name in near for name in NAMES])
    zero = np.zeros(columns)
    effect = np.where(flags, severity, 0.5)
    p = np.where(flags, 1e-12, 0.5)
    return Verdict(
        window_s=window_s,
        segment=segment,
        rows=1000.0,
        decided=decided,
        alpha=1e-6,
        p=p,
        significance=Significance(p=p, contrasts=p, chi_square=p, rare=p),
        chi_square=zero,
        ks=zero,
        psi=zero,
        js=zero,
        hellinger=zero,
        total_variation=zero,
        l_infinity=zero,
        wasserstein=zero,
        share_change=zero,
        severity=effect,
        floor=flags.astype(np.int64),
        effective_rows=zero + 1000,
        drifted=flags & decided,
        quiet=~flags & ~close & decided,
    )


@pytest.fixture
def book():
    return IncidentBook("flights", "delay", "3", worsen_every_s=60.0)


def run(book, looks, start=1):
    """One look a pane. Returns: (pane, kind) of every event."""
    events = []
    for pane, look in enumerate(looks, start=start):
        events += [(pane, event.kind) for event in book.update(pane * PANE_MS, [look], NAMES)]
    return events


def test_one_page_for_many_columns_windows_and_looks(book):
    looks = [verdict(NAMES), verdict(NAMES, window_s=HOUR), verdict(NAMES)]
    assert run(book, looks) == [(1, "opened")]
    assert [reason.subject for reason in book.reasons] == sorted(NAMES)


def test_windows_of_one_pane_join_too(book):
    events = book.update(PANE_MS, [verdict(("temp",)), verdict(("city",), window_s=HOUR, segment="DE")], NAMES)
    assert [event.kind for event in events] == ["opened"]
    assert {(reason.subject, reason.segment) for reason in events[0].reasons} == {("temp", ""), ("city", "DE")}
    assert set(events[0].news) == {"temp", "city"}


def test_it_clears_when_all_was_quiet_for_the_window_that_raised_it(book):
    assert run(book, [verdict(("temp",))] + [verdict()] * 10) == [(1, "opened"), (7, "cleared")]
    assert book.incident is None


def test_the_longest_window_that_raised_it_counts(book):
    run(book, [verdict(("temp",)), verdict(("city",), window_s=HOUR)])
    assert run(book, [verdict()] * 400, start=3) == [(362, "cleared")]


def test_what_is_near_drift_keeps_it_open(book):
    run(book, [verdict(("temp",))])
    assert run(book, [verdict(near=("temp",))] * 50, start=2) == []
    assert run(book, [verdict()] * 6, start=52) == [(57, "cleared")]


def test_another_column_that_is_near_does_not(book):
    assert run(book, [verdict(("temp",))] + [verdict(near=("city",))] * 10) == [(1, "opened"), (7, "cleared")]


def test_without_decisions_nothing_clears(book):
    run(book, [verdict(("temp",))])
    assert run(book, [verdict(decided=False)] * 100, start=2) == []
    assert run(book, [verdict()], start=102) == [(102, "cleared")]


def test_near_drift_alone_opens_nothing(book):
    assert run(book, [verdict(near=NAMES)] * 20) == []


def test_new_columns_and_much_worse_ones_are_news_at_most_once_a_minute(book):
    looks = [verdict(("temp",))] * 2 + [verdict(("temp", "city"))] * 10 + [verdict(("temp", "city"), severity=5.0)] * 10
    assert run(book, looks) == [(1, "opened"), (7, "worsened"), (13, "worsened")]


def test_a_worse_look_that_was_not_told_yet_is_told_later(book):
    looks = [verdict(("temp",)), verdict(("temp",), severity=5.0)] + [verdict(("temp",))] * 10
    assert run(book, looks) == [(1, "opened"), (7, "worsened")]
    assert book.reasons[0].severity == 5.0


def test_a_pane_that_was_seen_says_nothing_new(book):
    run(book, [verdict(("temp",))] + [verdict()] * 6)
    assert run(book, [verdict(NAMES)] * 7) == []
    assert book.incident is None


def test_identifiers_follow_from_what_is_told(book):
    other = IncidentBook("flights", "delay", "4")
    again = IncidentBook("flights", "delay", "3")
    first, second, third = (each.update(PANE_MS, [verdict(NAMES)], NAMES)[0].incident for each in (book, other, again))
    assert first == third != second


def test_signals_of_other_sources_share_the_incident(book):
    stale = Signal(source="stale", subject="samples", hold_s=30.0)
    opened = book.update(PANE_MS, [], NAMES, [stale])
    assert [event.kind for event in opened] == ["opened"]
    assert run(book, [verdict(("temp",))], start=2) == []
    assert {reason.source for reason in book.reasons} == {"stale", "drift"}


def test_a_signal_clears_after_its_hold_without_any_look(book):
    book.update(PANE_MS, [], NAMES, [Signal(source="labels", subject="accuracy", hold_s=20.0)])
    assert book.update(2 * PANE_MS, [], NAMES) == []
    assert [event.kind for event in book.update(3 * PANE_MS, [], NAMES)] == ["cleared"]


def test_a_signal_that_opens_nothing(book):
    assert book.update(PANE_MS, [], NAMES, [Signal(source="canary", subject="temp", opens=False)]) == []
    assert book.update(2 * PANE_MS, [], NAMES, [Signal(source="canary", subject="temp", loud=False)]) == []


@pytest.mark.parametrize("restart", range(0, 60, 7))
def test_a_restart_changes_nothing(restart):
    looks = [verdict()] * 5 + [verdict(("temp",))] * 9 + [verdict(("city",), severity=4.0)] * 9 + [verdict()] * 40
    looks += [verdict(("temp",))] * 3
    whole = IncidentBook("flights", "delay", "3", worsen_every_s=60.0)
    expected = [event for pane, look in enumerate(looks, 1) for event in whole.update(pane * PANE_MS, [look], NAMES)]
    book, events = IncidentBook("flights", "delay", "3", worsen_every_s=60.0), []
    for pane, look in enumerate(looks, 1):
        if pane == restart:
            state = json.loads(json.dumps(book.to_document()))
            book = IncidentBook("flights", "delay", "3", worsen_every_s=60.0)
            book.restore(state)
        events += book.update(pane * PANE_MS, [look], NAMES)
    assert events == expected
    assert [event.kind for event in events] == ["opened", "worsened", "cleared", "opened"]
