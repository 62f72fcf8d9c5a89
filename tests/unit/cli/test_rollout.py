"""A command's way in memory: refused or written, overtaken, followed; and what is printed of it."""

from __future__ import annotations

import json
import threading

import pytest
import typer

from streamserve.cli.model_rollout import _arm, _lacks, _nobody, _taken_back, _who
from streamserve.cli.options import Format
from streamserve.cli.rollout_session import Followed, RolloutSession
from streamserve.cli.rollout_text import show_history, show_outcome, show_status
from streamserve.errors import BrokerUnavailable
from streamserve.kafka.members import Members
from streamserve.rollout.following import Follower, followers
from streamserve.rollout.log import Given
from streamserve.rollout.records import Acknowledgement, Canary, Promote, RecordError, new_id
from streamserve.rollout.state import Refused, RolloutState
from streamserve.testing import MemoryBroker
from streamserve.testing.rollout import MemoryRolloutReader, MemoryRolloutWriter

EVIL = "\x1b[2Jgone\nINJECTED"


class Topic:
    """A control topic with a group of workers."""

    def __init__(self):
        self.broker = MemoryBroker()
        self.broker.create_topic("control")
        self.members = Members(slots=frozenset())
        self.asked = 0

    def session(self):
        reader, writer = MemoryRolloutReader(self.broker, "control"), MemoryRolloutWriter(self.broker, "control")
        session = RolloutSession(reader, writer, self._members)
        session.read()
        return session

    def _members(self):
        self.asked += 1
        self.broker.check()
        return self.members

    def answer(self, slot, revision, **more):
        writer = MemoryRolloutWriter(self.broker, "control")
        writer.publish(Acknowledgement(**{"slot": slot, "revision": revision, "serving": revision, **more}))


@pytest.fixture
def topic():
    return Topic()


def promote(version, expects):
    return Promote(id=new_id(), version=version, expects=expects)


def test_a_command_is_written_and_read_back(topic):
    session = topic.session()
    given = session.give(promote("1", session.log.state.revision))
    assert (given.offset, given.refused) == (0, "")
    assert session.log.state.stable == topic.session().log.state.stable == "1"


def test_what_the_state_refuses_is_not_written(topic):
    session = topic.session()
    with pytest.raises(Refused, match="no version is stable yet"):
        session.give(Canary(id=new_id(), version="1", weight=0.5))
    assert topic.broker.records("control") == []


def test_what_is_no_command_is_told_from_what_the_state_refuses(topic):
    with pytest.raises(RecordError, match="weight"):
        topic.session().give(Canary(id=new_id(), version="1", weight=1.5))
    assert topic.broker.records("control") == []


def test_of_two_commands_at_once_the_second_has_no_effect_and_says_so(topic):
    one, other = topic.session(), topic.session()
    one.give(promote("1", one.log.state.revision))
    given = other.give(promote("2", other.log.state.revision))
    assert "meant for revision -1, and by then 0 was in force" in given.refused
    assert other.log.state.stable == "1"


def test_a_command_is_followed_until_every_live_slot_has_answered(topic):
    session = topic.session()
    topic.members = Members(slots=frozenset({"a", "b"}))
    revision = session.give(promote("1", -1)).offset
    seen = []
    for followed in session.follow(revision, 30, stop=lambda: False):
        seen.append([(slot.slot, slot.standing) for slot in followed.slots])
        if len(seen) == 1:
            topic.answer("a", revision)
        elif seen[-1] == [("a", "follows"), ("b", "waits")]:
            topic.answer("b", revision, serving=-1, error="no such file")
    assert seen[0] == [("a", "waits"), ("b", "waits")]
    assert seen[-1] == [("a", "follows"), ("b", "failed")]
    assert [slot.slot for slot in followed.failed] == ["b"]


def test_a_promotion_that_nobody_follows_is_taken_back_by_whoever_gave_it(topic):
    session = topic.session()
    first = session.give(promote("1", -1)).offset
    topic.answer("a", first)
    before = session.read()
    given = session.give(Promote(id=new_id(), version="2", by="ann", expects=before.revision))
    topic.answer("a", given.offset, serving=first, error="not finite")
    topic.members = Members(slots=frozenset({"a"}))
    session.read()
    followed = session.followed(given.offset)
    assert followed.by_nobody
    back = _taken_back(session, given, before)
    assert (back.command.by, back.command.why) == ("ann", "no worker could load version 2")
    assert (session.log.state.stable, session.log.state.previous) == ("1", None)
    assert _nobody(session, given, followed, back) == (
        "no worker serves it; they go on with version 1. So it was taken back (revision 4); with --keep it stands"
    )


def test_a_promotion_is_not_taken_back_when_another_command_came_or_nothing_served_before(topic):
    session = topic.session()
    before = session.log.state
    given = session.give(promote("1", -1))
    assert _taken_back(session, given, before) is None
    before = session.log.state
    given = session.give(promote("2", before.revision))
    topic.session().give(promote("3", given.offset))
    assert _taken_back(session, given, before) is None
    assert session.log.state.stable == "3"


def test_what_a_slot_lacks_beside_the_version_of_the_command_is_named_with_its_role(topic):
    session = topic.session()
    session.give(promote("3", -1))
    session.give(promote("5", 0))
    given = session.give(Canary(id=new_id(), version="7", weight=0.5))
    answer = Acknowledgement(slot="a", revision=2, serving=0, versions=("3",), error="no such file")
    assert (
        _lacks(session.log, given, Follower(slot="a", standing="failed", acknowledgement=answer))
        == "version 5 (stable)"
    )
    answer = Acknowledgement(slot="a", revision=2, serving=1, versions=("5",), error="no such file")
    assert _lacks(session.log, given, Follower(slot="a", standing="failed", acknowledgement=answer)) == ""


def test_who_could_follow_is_somebody():
    ahead, behind = (Acknowledgement(slot=slot, revision=1, serving=n) for n, slot in enumerate("ba", start=0))
    answers = {"a": behind, "b": ahead}
    assert not Followed(revision=1, slots=followers(1, answers, {"a", "b"})).by_nobody
    assert not Followed(revision=1, slots=followers(1, {"b": ahead}, {"a", "b"})).by_nobody
    assert not Followed(revision=1, slots=followers(1, answers, set())).by_nobody
    assert Followed(revision=1, slots=followers(1, answers, {"b"})).by_nobody


def test_without_workers_nobody_is_waited_for(topic):
    session = topic.session()
    revision = session.give(promote("1", -1)).offset
    (followed,) = session.follow(revision, 30, stop=lambda: False)
    assert followed.live == []


def test_a_worker_that_leaves_is_not_waited_for(topic, monkeypatch):
    monkeypatch.setattr("streamserve.cli.rollout_session.MEMBERS_EVERY_S", 0.0)
    session = topic.session()
    topic.members = Members(slots=frozenset({"a"}))
    revision = session.give(promote("1", -1)).offset
    for followed in session.follow(revision, 30, stop=lambda: False):
        if followed.waiting:
            topic.members = Members(slots=frozenset())
    assert followed.live == []


def test_waiting_ends_when_the_time_is_over_or_somebody_asks(topic):
    session = topic.session()
    topic.members = Members(slots=frozenset({"a"}))
    revision = session.give(promote("1", -1)).offset
    *_, followed = session.follow(revision, 0.2, stop=lambda: False)
    assert [slot.slot for slot in followed.waiting] == ["a"]
    (followed,) = session.follow(revision, 600, stop=lambda: True)
    assert followed.waiting


def test_brokers_that_are_away_for_a_while_are_waited_for(topic, monkeypatch):
    monkeypatch.setattr("streamserve.cli.rollout_session.MEMBERS_EVERY_S", 0.0)
    session = topic.session()
    topic.members = Members(slots=frozenset({"a"}))
    revision = session.give(promote("1", -1)).offset
    for followed in session.follow(revision, 30, stop=lambda: False):
        assert len(followed.slots) == 1
        topic.broker.down = not topic.broker.down and topic.asked < 4
        if topic.asked >= 4:
            topic.answer("a", revision)
    assert followed.waiting == []
    topic.broker.down = True
    with pytest.raises(BrokerUnavailable):
        next(session.follow(revision, 0.1, stop=lambda: False))


def test_an_answer_that_comes_while_it_waits_is_seen(topic):
    session = topic.session()
    topic.members = Members(slots=frozenset({"a"}))
    revision = session.give(promote("1", -1)).offset
    answer = threading.Timer(0.3, topic.answer, ["a", revision])
    answer.start()
    *_, followed = session.follow(revision, 30, stop=lambda: False)
    answer.join()
    assert [slot.standing for slot in followed.slots] == ["follows"]


ARMS = {"new=4:0.5": ("new", "4", 0.5), "a=stable:1": ("a", "stable", 1.0), "b=models:2:0.25": ("b", "models:2", 0.25)}


@pytest.mark.parametrize(("value", "arm"), ARMS.items())
def test_an_arm_is_name_version_and_weight(value, arm):
    assert _arm(value) == arm


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("a=1", "is not NAME"),
        ("a=1:x", "is not NAME"),
        ("a=1:1.5", "at most 1"),
        ("a=1:nan", "above 0"),
        ("A=1:1", "name"),
    ],
)
def test_what_is_no_arm_says_why(value, why):
    with pytest.raises(typer.BadParameter, match=why):
        _arm(value)


def test_who_asks_is_a_user_on_a_host(monkeypatch):
    assert "@" in _who()
    monkeypatch.setattr("getpass.getuser", lambda: (_ for _ in ()).throw(KeyError("uid not found")))
    assert _who().split("@")[0].isdigit()


EVIL_GIVEN = Given(offset=3, command=Promote(id="a", version="1", by=EVIL, why=EVIL, at_ms=10**18), refused=EVIL)
EVIL_FOLLOWED = Followed(
    revision=3,
    slots=followers(3, {EVIL: Acknowledgement(slot=EVIL, revision=3, serving=2, versions=(EVIL,), error=EVIL)}, {EVIL}),
)


def test_nothing_that_stands_on_the_topic_steers_a_terminal(capsys):
    state = RolloutState(revision=3, stable="1")
    show_history([EVIL_GIVEN], Format.TEXT)
    show_status(state, EVIL_FOLLOWED, Format.TEXT)
    show_outcome(EVIL_GIVEN, state, EVIL_FOLLOWED, Format.TEXT)
    said = capsys.readouterr().out
    assert "\x1b[2J" not in said
    assert not any(line.startswith("INJECTED") for line in said.splitlines())
    assert said.count(r"\x1b[2Jgone\nINJECTED") == 6


def test_json_loses_nothing(capsys):
    show_history([EVIL_GIVEN], Format.JSON)
    (told,) = json.loads(capsys.readouterr().out)
    assert (told["by"], told["why"], told["refused"], told["kind"]) == (EVIL, EVIL, EVIL, "promote")
    show_status(RolloutState(), EVIL_FOLLOWED, Format.JSON)
    (worker,) = json.loads(capsys.readouterr().out)["workers"]
    assert (worker["slot"], worker["standing"], worker["acknowledgement"]["error"]) == (EVIL, "failed", EVIL)


def test_a_member_that_does_not_say_which_slot_it_is_has_a_place_in_the_table(capsys):
    show_status(RolloutState(), Followed(revision=0, slots=[Follower(slot="", standing="waits")]), Format.TEXT)
    assert "?     no answer yet" in capsys.readouterr().out


def test_a_long_reason_widens_no_other_row(capsys):
    reason = "it is slower " * 40
    long = Given(offset=1, command=Promote(id="a", version="1", why=reason), refused=reason)
    show_history([long, Given(offset=2, command=Promote(id="b", version="2"))], Format.TEXT)
    slots = followers(3, {s: Acknowledgement(slot=s, revision=3, serving=2, error=reason) for s in "ab"}, {"a", "b"})
    show_status(RolloutState(revision=3, stable="1"), Followed(revision=3, slots=slots), Format.TEXT)
    lines = capsys.readouterr().out.splitlines()
    remarks = [line.strip() for line in lines if line.startswith("    ")]
    assert remarks == [f"{name}: {reason}".strip() for name in ("why", "refused", "error", "error")]
    assert max(len(line) for line in lines if not line.startswith("    ")) < 80


def test_before_any_command_and_without_workers_it_says_so(capsys):
    show_status(RolloutState(), Followed(revision=-1, slots=[]), Format.TEXT)
    assert capsys.readouterr().out.split("\n")[:3] == [
        "no command yet",
        "  no version is stable yet",
        "no worker is running",
    ]
