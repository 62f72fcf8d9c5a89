"""Dead letters: the original unchanged, honest headers, bounded in size."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamserve.batch import ModelIdentity, Reject
from streamserve.codecs.dead_letter import RESERVED, DeadLetterEncoder
from tests.records import batch

REJECT = Reject(row=0, stage="decode", reason="schema", detail="x: expected float", feature="x")


def letter(value=b"v", key=b"k", headers=None, reject=REJECT, max_value_bytes=1_000_000, model=True):
    identity = ModelIdentity(name="m", version="3") if model else None
    encoder = DeadLetterEncoder("events.dlq", "p", max_value_bytes, identity)
    records = batch([value], key=[key], headers=headers and [headers], timestamp_ms=[42])
    return encoder.encode(records, [reject])


def test_the_original_is_unchanged_and_described():
    headers = [("a", b"\xff\xfe"), ("a", None), ("b", b"")]
    out = letter(headers=headers)
    assert (out.topic, out.key, out.value, out.partition, out.timestamp_ms) == ("events.dlq", [b"k"], [b"v"], [2], [42])
    assert out.headers == [
        [
            *headers,
            ("__connect.errors.topic", b"events"),
            ("__connect.errors.partition", b"2"),
            ("__connect.errors.offset", b"0"),
            ("__connect.errors.stage", b"decode"),
            ("__connect.errors.exception.class.name", b"streamserve.batch.Reject"),
            ("__connect.errors.exception.message", b"x: expected float"),
            ("streamserve.reason", b"schema"),
            ("streamserve.feature", b"x"),
            ("streamserve.attempt", b"1"),
            ("streamserve.model", b"m"),
            ("streamserve.version", b"3"),
            ("streamserve.group", b"p"),
        ]
    ]


def test_null_value_and_null_key_stay_null():
    out = letter(value=None, key=None)
    assert (out.key, out.value) == ([None], [None])
    assert "streamserve.value.size" not in dict(out.headers[0])


def test_forged_headers_are_stripped():
    out = letter(headers=[(name, b"forged") for name in RESERVED] * 2)
    assert b"forged" not in dict(out.headers[0]).values()
    assert len(out.headers[0]) == 12


@pytest.mark.parametrize(
    ("incoming", "attempt"),
    [
        (b"1", b"2"),
        (b"41", b"42"),
        (b"999999", b"999999"),
        (b"-1", b"1"),
        (b"", b"1"),
        (None, b"1"),
        (b"9" * 5000, b"1"),
        (b"\xff", b"1"),
        ("٣".encode(), b"1"),
        (b"1e3", b"1"),
        (b"007", b"8"),
    ],
)
def test_attempts_are_counted_and_garbage_starts_anew(incoming, attempt):
    assert dict(letter(headers=[("streamserve.attempt", incoming)]).headers[0])["streamserve.attempt"] == attempt


@pytest.mark.parametrize("detail", ["a\r\nb\x1b[31m\x00", "é" * 2000, "\ud800", "\u202egnp.exe", ""])
def test_the_message_is_short_and_safe_on_a_terminal(detail):
    reject = Reject(row=0, stage="decode", reason="decode", detail=detail)
    message = dict(letter(reject=reject).headers[0])["__connect.errors.exception.message"]
    assert len(message) <= 1024
    assert message.decode().isprintable()


def test_a_value_too_large_for_the_topic_is_described():
    value = bytes(2000)
    out = letter(value=value, max_value_bytes=1500)
    told = dict(out.headers[0])
    assert out.value == [None]
    assert out.key == [b"k"]
    assert told["streamserve.value.size"] == b"2000"
    assert told["streamserve.value.sha256"] == hashlib.sha256(value).hexdigest().encode()


def test_a_key_too_large_for_the_topic_is_described():
    out = letter(key=bytes(1 << 20), max_value_bytes=1_000_000)
    assert (out.key, out.value) == ([None], [b"v"])
    assert dict(out.headers[0])["streamserve.key.size"] == b"1048576"


@pytest.mark.parametrize(
    ("headers", "kept", "dropped"),
    [
        ([("h", b"x")] * 10_000, 1000, b"9000"),
        ([("h", bytes(40_000)), ("h", bytes(40_000)), ("i", b"")], 1, b"2"),
    ],
)
def test_of_too_many_headers_the_first_are_kept(headers, kept, dropped):
    (made,) = letter(headers=headers).headers
    assert [header for header in made if header in headers] == headers[:kept]
    assert dict(made)["streamserve.headers.dropped"] == dropped


header_lists = st.lists(st.tuples(st.text(max_size=40), st.none() | st.binary(max_size=60)), max_size=60)
texts = st.builds(lambda piece, times: piece * times, st.text(max_size=20), st.integers(0, 400))


@st.composite
def near(draw, limit):
    """Nothing, something small, or something about as large as the topic takes."""
    size = draw(st.integers(0, 200) | st.integers(limit - 2500, limit + 10))
    return draw(st.none() | st.just(bytes(max(0, size))))


@given(st.data(), st.integers(1536, 10_000) | st.just(1_000_000), header_lists, texts, texts)
def test_no_dead_letter_is_larger_than_its_topic_takes(data, limit, headers, detail, feature):
    headers *= data.draw(st.sampled_from([1, 1, 100]))
    value, key = data.draw(near(limit)), data.draw(near(limit))
    reject = Reject(row=0, stage="decode", reason="out_of_range", detail=detail, feature=feature)
    out = letter(value, key, headers, reject, limit)
    size = sum(len(name.encode()) + len(content or b"") + 8 for name, content in out.headers[0])
    assert size + len(out.key[0] or b"") + len(out.value[0] or b"") <= limit
    told = dict(out.headers[0])
    assert ("streamserve.value.size" in told) == (out.value[0] != value)
    assert ("streamserve.key.size" in told) == (out.key[0] != key)
    assert told["__connect.errors.offset"] == b"0"


def test_a_small_topic_keeps_the_first_headers_and_tells_of_the_rest():
    headers = [("trace", bytes(100))] * 20
    (made,) = letter(headers=headers, max_value_bytes=1536).headers
    kept = [header for header in made if header in headers]
    assert 0 < len(kept) < 20
    assert dict(made)["streamserve.headers.dropped"] == b"%d" % (20 - len(kept))


def test_a_message_gives_way_before_the_place_of_the_record():
    reject = Reject(row=0, stage="decode", reason="schema", detail="d" * 1024, feature="f" * 200)
    told = dict(letter(reject=reject, max_value_bytes=1536).headers[0])
    assert 0 < len(told["__connect.errors.exception.message"]) < 1024
    assert len(told["streamserve.feature"]) == 200
    assert told["__connect.errors.topic"] == b"events"


def test_without_a_model_its_name_is_empty():
    assert dict(letter(model=False).headers[0])["streamserve.model"] == b""


def test_no_rejects_no_letters():
    encoder = DeadLetterEncoder("events.dlq", "p", 1000, None)
    assert len(encoder.encode(batch([b"v"]), [])) == 0
