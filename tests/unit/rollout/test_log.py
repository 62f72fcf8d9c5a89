"""The fold of the rollout topic: state, history, answers and what was when."""

from __future__ import annotations

import pytest

from streamserve.rollout.log import RolloutLog
from streamserve.rollout.records import (
    NONE,
    Acknowledgement,
    Arm,
    Canary,
    Experiment,
    Promote,
    Rollback,
    SwitchPoint,
    acknowledgement_key,
    encode,
    new_id,
)


class Topic:
    """Records with their offsets; `log` is the fold of all of them."""

    def __init__(self):
        self.log = RolloutLog()
        self.end = 0

    def add(self, record, *, gap=0):
        return self.raw(*encode(record), gap=gap)

    def raw(self, key, value, *, gap=0):
        offset = self.end + gap
        self.end = offset + 1
        self.log.add(offset, key, value)
        return offset

    def promote(self, version, **more):
        return self.add(Promote(id=new_id(), version=version, **more))

    def canary(self, version, weight=0.5):
        return self.add(Canary(id=new_id(), version=version, weight=weight))

    def switch(self, offset, revision, partition=0, topic="events"):
        return self.add(SwitchPoint(topic=topic, partition=partition, offset=offset, revision=revision))

    def acknowledge(self, slot, revision, **more):
        return self.add(Acknowledgement(slot=slot, revision=revision, serving=revision, **more))


@pytest.fixture
def topic():
    return Topic()


def test_the_offset_of_a_command_is_the_revision(topic):
    topic.raw(b"foreign", b"what?")
    assert topic.promote("1") == topic.log.state.revision == 1


def test_the_history_says_who_when_and_why_and_what_came_of_it(topic):
    first = topic.promote("1", by="ann@host", why="the first", at_ms=7)
    second = topic.promote("1", by="bob@host")
    applied, refused = topic.log.history
    assert (applied.offset, applied.refused) == (first, "")
    assert (applied.command.by, applied.command.why, applied.command.at_ms) == ("ann@host", "the first", 7)
    assert (refused.offset, refused.refused) == (second, "version 1 is stable already")
    assert topic.log.given(first) is applied
    assert topic.log.given(second) is refused
    assert topic.log.given(99) is None
    assert topic.log.state.revision == first


def test_of_a_slots_answers_the_newest_counts_until_it_leaves(topic):
    topic.acknowledge("host-0", 1)
    topic.acknowledge("host-1", 1)
    topic.acknowledge("host-0", 2)
    assert {slot: ack.revision for slot, ack in topic.log.acknowledgements.items()} == {"host-0": 2, "host-1": 1}
    topic.raw(acknowledgement_key("host-0"), None)
    assert list(topic.log.acknowledgements) == ["host-1"]
    topic.raw(acknowledgement_key("host-0"), None)  # once more, as compaction may leave it
    assert topic.log.skipped == 0


def test_what_is_not_ours_is_counted_and_nothing_else(topic):
    topic.promote("1")
    for key, value in [
        (None, b"{}"),
        (b"x", b"\xff\xfe"),
        (b"command/x", b'{"kind":"upgrade","id":"x"}'),
        (b"x", None),
        (None, None),
    ]:
        topic.raw(key, value)
    assert topic.log.skipped == 5
    topic.promote("2")
    assert topic.log.state.stable == "2"


def test_a_record_that_was_added_before_has_no_effect(topic):
    topic.promote("1")
    topic.promote("2")
    topic.log.add(0, *encode(Promote(id=new_id(), version="9")))
    assert topic.log.state.stable == "2"
    assert topic.log.skipped == 1


def test_offsets_may_have_gaps(topic):
    """Markers of transactions and compaction take some away."""
    topic.promote("1")
    revision = topic.add(Promote(id=new_id(), version="2"), gap=40)
    assert topic.log.state.revision == revision == 41


def test_the_state_of_every_revision_is_known(topic):
    first, second = topic.promote("1"), topic.promote("2")
    refused = topic.promote("2")
    third = topic.canary("3")
    stables = [topic.log.state_at(revision).stable for revision in (NONE, first, second, refused, third, 99)]
    assert stables == [None, "1", "2", "2", "2", "2"]
    assert topic.log.state_at(refused).revision == second
    assert topic.log.state_at(refused).canary is None
    assert topic.log.state_at(third).canary == "3"


def test_a_revision_holds_from_its_switch_point_to_the_next(topic):
    first, second = topic.promote("1"), topic.promote("2")
    topic.switch(100, first)
    topic.switch(200, second)
    revisions = [topic.log.revision_at("events", 0, offset) for offset in (0, 99, 100, 199, 200, 10**12)]
    assert revisions == [None, None, first, first, second, second]
    assert topic.log.revision_at("events", 1, 100) is None
    assert topic.log.revision_at("others", 0, 100) is None


def test_a_later_pass_over_a_partition_overrules_an_earlier_one_from_where_it_began(topic):
    first, second = topic.promote("1"), topic.promote("2")
    topic.switch(100, first)
    topic.switch(200, second)
    topic.switch(150, second)  # the group went back, as after a crash at least once
    assert [topic.log.revision_at("events", 0, offset) for offset in (149, 150, 200)] == [first, second, second]
    topic.switch(300, first)  # a worker that could not load version 2 took the partition over
    assert [topic.log.revision_at("events", 0, offset) for offset in (299, 300)] == [second, first]


def test_points_that_repeat_the_revision_in_force_are_not_kept(topic):
    """Every abort, rebalance and restart writes one."""
    first, second = topic.promote("1"), topic.promote("2")
    for offset in range(100, 1100, 10):
        topic.switch(offset, first)
    topic.switch(1100, second)
    topic.switch(1200, first)  # a worker that could not load version 2
    (points,) = topic.log.switches.values()
    assert [(point.offset, point.revision) for point in points] == [(100, first), (1100, second), (1200, first)]
    topic.switch(500, second)
    assert [topic.log.revision_at("events", 0, offset) for offset in (99, 100, 499, 500)] == [
        None,
        first,
        first,
        second,
    ]
    topic.switch(100, second)  # the whole partition once more
    topic.switch(500, second)
    assert [topic.log.revision_at("events", 0, offset) for offset in (99, 100, 500)] == [None, second, second]


def test_which_version_scored_a_key_at_an_offset(topic):
    first = topic.promote("1")
    topic.switch(0, first)
    canary = topic.canary("2")
    topic.switch(50, canary)
    rollback = topic.add(Rollback(id=new_id()))
    topic.switch(100, rollback)
    keys = [f"key-{n}".encode() for n in range(64)]
    for offset, expected in ((0, {"1"}), (49, {"1"}), (50, {"1", "2"}), (99, {"1", "2"}), (100, {"1"})):
        assert {topic.log.version_at("events", 0, offset, key) for key in keys} == expected
    by_key = {key: topic.log.version_at("events", 0, 50, key) for key in keys}
    assert all(topic.log.version_at("events", 0, 99, key) == version for key, version in by_key.items())


def test_an_arm_is_found_by_its_key(topic):
    topic.promote("9")
    arms = (Arm(name="a", version="1", weight=0.5), Arm(name="b", version="2", weight=0.5))
    topic.switch(0, topic.add(Experiment(id=new_id(), name="x", arms=arms)))
    assert {topic.log.version_at("events", 0, 5, f"{n}".encode()) for n in range(64)} == {"1", "2"}


def test_before_the_first_switch_point_nobody_knows(topic):
    topic.promote("1")
    assert topic.log.version_at("events", 0, 5, b"key") is None
