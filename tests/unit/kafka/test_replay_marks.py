"""Marks of replayed dead letters: a set of offsets, however it came together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamserve.errors import SourceError
from streamserve.kafka.replay_marks import MAX_TEXT_BYTES, ReplayMarks

stretches = st.lists(st.tuples(st.integers(0, 200), st.integers(1, 20)), max_size=30)


@given(position=st.integers(0, 100), stretches=stretches)
def test_marks_are_the_set_of_offsets_added(position, stretches):
    marks = ReplayMarks(position)
    expected = set(range(position))
    for start, length in stretches:
        marks = marks.add(start, start + length)
        expected |= set(range(start, start + length))

    assert {offset for offset in range(300) if offset in marks} == expected


@given(position=st.integers(0, 100), stretches=stretches)
def test_text_gives_back_the_same_marks(position, stretches):
    marks = ReplayMarks(position)
    for start, length in stretches:
        marks = marks.add(start, start + length)

    assert ReplayMarks.from_text(marks.position, marks.to_text()) == marks


@given(position=st.integers(0, 100), stretches=stretches, low=st.integers(0, 250))
def test_what_is_no_more_counts_as_replayed_and_takes_no_room(position, stretches, low):
    marks = ReplayMarks(position)
    for start, length in stretches:
        marks = marks.add(start, start + length)
    since = marks.since(low)

    assert since.position >= low
    assert all((offset in since) == (offset in marks) for offset in range(low, 300))
    assert all(start > since.position for start, _ in since.stretches)


def test_a_replay_of_everything_is_a_position_alone():
    marks = ReplayMarks(0)
    for offset in range(1000):
        marks = marks.add(offset, offset + 1)

    assert marks == ReplayMarks(1000)
    assert marks.to_text() == ""


def test_six_hundred_stretches_far_apart_fit():
    marks = ReplayMarks(10**12)
    for number in range(600):
        marks = marks.add(10**12 + 1 + number * 200, 10**12 + 2 + number * 200)

    assert len(marks.to_text()) <= MAX_TEXT_BYTES


@pytest.mark.parametrize("text", ["2;1.1", "nonsense", "1;", "1;x.y", "1;1"])
def test_marks_of_another_kind_stop_a_replay(text):
    with pytest.raises(SourceError, match="second time"):
        ReplayMarks.from_text(5, text)
