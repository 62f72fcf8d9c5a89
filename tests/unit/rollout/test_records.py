"""Records of the rollout topic: bytes that come back as they went, and bytes that are refused."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamserve.rollout.records import (
    NONE,
    Acknowledgement,
    Arm,
    Canary,
    Experiment,
    Promote,
    RecordError,
    Retire,
    Rollback,
    Shadow,
    Stop,
    SwitchPoint,
    acknowledged_slot,
    acknowledgement_key,
    decode,
    encode,
    new_id,
    text,
)

ARMS = (Arm(name="control", version="1", weight=0.5), Arm(name="new", version="2", weight=0.5))
RECORDS = [
    Promote(id="a", version="1", by="ann@host", why="a better one", at_ms=5, expects=NONE),
    Canary(id="a", version="2", weight=0.1),
    Shadow(id="a", version="2"),
    Experiment(id="a", name="x", arms=ARMS),
    Rollback(id="a"),
    Stop(id="a", what="canary"),
    Retire(id="a"),
    Acknowledgement(slot="host-0", revision=4, serving=3, versions=("1",), error="no such file", took_ms=4.5, at_ms=6),
    SwitchPoint(topic="events", partition=0, offset=7, revision=4, slot="host-0"),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_comes_back_as_it_went(record):
    _, value = encode(record)
    assert decode(value) == record


def test_a_command_has_a_key_of_its_own_and_an_answer_its_slots():
    keys = [encode(Promote(id=new_id(), version="1"))[0] for _ in range(100)]
    assert len(set(keys)) == 100
    one, other = (Acknowledgement(slot="host-0", revision=n, serving=n) for n in (1, 2))
    assert encode(one)[0] == encode(other)[0] == acknowledgement_key("host-0")
    assert encode(RECORDS[-1])[0] == b"at/events/0/7"


def test_a_slot_is_found_in_its_key_alone():
    assert acknowledged_slot(acknowledgement_key("höst-0")) == "höst-0"
    assert [acknowledged_slot(key) for key in (None, b"", b"command/ack/x", b"at/t/0/1")] == [None] * 4


def test_fields_of_a_newer_release_are_left_alone():
    assert decode(b'{"kind":"rollback","id":"a","colour":"red"}') == Rollback(id="a")


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"null",
        b"[]",
        b"\xff",
        b"{" * 100_000,
        b'{"kind":"rollback"}',
        b'{"id":"a"}',
        b'{"kind":"demote","id":"a"}',
        b'{"kind":"promote","id":"a","version":"0"}',
        b'{"kind":"promote","id":"a","version":"latest"}',
        b'{"kind":"promote","id":"a","version":"1/../2"}',
        b'{"kind":"promote","id":"a b","version":"1"}',
        b'{"kind":"canary","id":"a","version":"1","weight":0}',
        b'{"kind":"canary","id":"a","version":"1","weight":NaN}',
        b'{"kind":"canary","id":"a","version":"1","weight":1e400}',
        b'{"kind":"experiment","id":"a","name":"x","arms":[]}',
        b'{"kind":"stop","id":"a","what":"stable"}',
        b'{"kind":"rollback","id":"a","expects":-2}',
        b'{"kind":"switch","topic":"t","partition":-1,"offset":0,"revision":0}',
        b'{"kind":"acknowledgement","slot":"s","revision":-5,"serving":0}',
    ],
)
def test_anything_else_is_refused_with_a_reason(value):
    with pytest.raises(RecordError, match="not a rollout record"):
        decode(value)


@given(st.binary(max_size=200))
def test_no_bytes_break_the_decoder(value):
    with contextlib.suppress(RecordError):
        decode(value)


@pytest.mark.parametrize(
    "record",
    [
        Canary(id="a", version="2", weight=1.5),
        Promote(id="a", version="newest"),
        Promote(id="", version="1"),
        Promote(id="a", version="1", why="x" * 2001),
        Promote(id="a", version="1", by="\ud800"),
        Experiment(id="a", name="x", arms=ARMS[:1]),
    ],
    ids=str,
)
def test_what_no_reader_would_take_is_not_written(record):
    with pytest.raises(RecordError):
        encode(record)


@given(st.one_of(st.text(st.characters(), max_size=50), st.just("é" * 3000), st.just("\ud800 and \udcff")))
def test_any_text_can_be_made_to_fit(words):
    fitting = text(words)
    assert decode(encode(Promote(id="a", version="1", why=fitting))[1]).why == fitting
    if len(words) <= 2000 and words.isascii():
        assert fitting == words
