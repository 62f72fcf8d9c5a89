"""Whatever is told: incidents open and clear in turn, and a restart at any pane pages nobody twice."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from streamserve.drift.incidents import IncidentBook, Signal

SIGNAL = st.builds(
    Signal,
    source=st.sampled_from(["labels", "quality", "stale"]),
    subject=st.sampled_from(["a", "b"]),
    severity=st.floats(1, 10),
    hold_s=st.sampled_from([0.0, 10.0, 40.0]),
    loud=st.booleans(),
    opens=st.booleans(),
)
HISTORY = st.lists(st.lists(SIGNAL, max_size=3), max_size=40)
PANE_MS = 10_000


def book():
    return IncidentBook("p", "m", "1", worsen_every_s=30.0)


def told(history, restarts=()):
    current, events = book(), []
    for pane, signals in enumerate(history, start=1):
        if pane in restarts:
            state = json.loads(json.dumps(current.to_document()))
            current = book()
            current.restore(state)
            assert current.update(pane * PANE_MS - PANE_MS, [], (), history[pane - 2] if pane > 1 else []) == []
        events += current.update(pane * PANE_MS, [], (), signals)
    return events


@settings(max_examples=150, deadline=None)
@given(HISTORY)
def test_incidents_open_and_clear_in_turn(history):
    open_id = None
    for event in told(history):
        if event.kind == "opened":
            assert open_id is None
            open_id = event.incident
        assert event.incident == open_id
        assert event.reasons
        if event.kind == "worsened":
            assert event.news
        if event.kind == "cleared":
            open_id = None


@settings(max_examples=150, deadline=None)
@given(HISTORY, st.sets(st.integers(2, 40)))
def test_restarts_change_nothing(history, restarts):
    assert told(history, restarts) == told(history)
