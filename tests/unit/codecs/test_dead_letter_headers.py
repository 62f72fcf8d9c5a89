"""Dead letters read back: what the writer wrote, and anything else without an exception."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streamserve.batch import ModelIdentity, RecordBatch, Reject
from streamserve.codecs.dead_letter import DeadLetterEncoder
from streamserve.codecs.dead_letter_headers import (
    DeadLetterInfo,
    original_headers,
    read_dead_letter,
    replay_headers,
)

ORIGINAL = [("traceparent", b"00-1"), ("n", None), ("traceparent", b"00-2")]


def dead_letter(headers, value: bytes = b"{}", limit: int = 10_000):
    records = RecordBatch(
        topic=["events"],
        partition=[2],
        offset=[7],
        timestamp_ms=[5],
        key=[b"k"],
        value=[value],
        headers=lambda: [headers],
    )
    encoder = DeadLetterEncoder("events.dlq", "flights", limit, ModelIdentity(name="m", version="3"))
    outbound = encoder.encode(records, [Reject(0, "enrich", "out_of_range", "distance = 9 is above 6", "distance")])
    return outbound.headers[0]


def test_what_was_written_is_read():
    info = read_dead_letter(dead_letter(ORIGINAL))

    assert info == DeadLetterInfo(
        topic="events", partition=2, offset=7, stage="enrich", reason="out_of_range",
        message="distance = 9 is above 6", attempt=1, model="m", version="3", group="flights", feature="distance",
    )  # fmt: skip
    assert info.origin == "events 2:7"


def test_the_originals_headers_come_back_in_order():
    assert original_headers(dead_letter(ORIGINAL)) == ORIGINAL


def test_attempts_count_up_over_a_replay():
    letter = dead_letter(ORIGINAL)
    for attempt in (1, 2, 3):
        assert read_dead_letter(letter).attempt == attempt
        letter = dead_letter(replay_headers(letter, attempt))


def test_a_value_that_was_too_large_is_described():
    info = read_dead_letter(dead_letter([], value=b"x" * 500, limit=400))

    assert info.left_out.startswith("value of 500 bytes, sha256 ")


@given(
    st.lists(
        st.tuples(st.sampled_from(["__connect.errors.offset", "streamserve.attempt", "x"]), st.none() | st.binary())
    )
)
def test_headers_of_anybody_are_read_without_an_exception(headers):
    info = read_dead_letter(headers)

    assert info.attempt >= 0
    assert info.origin == "?"
