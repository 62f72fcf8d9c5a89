"""Who follows a command: live slots by name, and members of the group that have none."""

from __future__ import annotations

import pytest

from streamserve.rollout.following import followers
from streamserve.rollout.records import Acknowledgement


def answers(**slots):
    """slot=(revision, serving) or slot=revision."""
    found = {}
    for slot, stands in slots.items():
        revision, serving = stands if isinstance(stands, tuple) else (stands, stands)
        found[slot] = Acknowledgement(slot=slot, revision=revision, serving=serving, at_ms=revision)
    return found


def standings(revision, acknowledgements, live, unnamed=0):
    return [(f.slot, f.standing) for f in followers(revision, acknowledgements, live, unnamed)]


@pytest.mark.parametrize(
    ("stands", "standing"),
    [(5, "follows"), (7, "follows"), (4, "waits"), ((5, 3), "failed"), ((7, 3), "failed"), ((7, 6), "follows")],
)
def test_a_live_slot_stands_where_its_newest_answer_says(stands, standing):
    assert standings(5, answers(a=stands), {"a"}) == [("a", standing)]


def test_a_live_slot_without_an_answer_is_waited_for():
    assert standings(5, {}, {"b", "a"}) == [("a", "waits"), ("b", "waits")]


def test_a_slot_that_is_not_in_the_group_is_gone_and_nobody_waits_for_it():
    assert standings(5, answers(a=5, b=4), {"a"}) == [("a", "follows"), ("b", "gone")]


def test_without_workers_nobody_is_there():
    assert standings(5, {}, set()) == []


def test_members_without_a_slots_name_are_taken_for_those_that_answered_first():
    assert standings(5, answers(a=5, b=4, c=3), set(), 2) == [("a", "follows"), ("b", "waits"), ("c", "gone")]


def test_a_member_that_nobody_has_heard_of_is_waited_for():
    assert standings(5, answers(a=5), set(), 2) == [("a", "follows"), ("", "waits")]
    assert standings(5, answers(a=5), {"a"}, 1) == [("a", "follows"), ("", "waits")]
