"""Sample chunks: what is written is read, whatever else is read is an error, and parts give the whole exactly once."""

from __future__ import annotations

import itertools
import time
from dataclasses import fields, replace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamserve.drift.chunk import (
    MAX_LEVEL,
    ChunkError,
    RejectCount,
    SampleChunk,
    Span,
    TextColumn,
    decode,
    encode,
)
from streamserve.drift.marks import Marks

TEXTS = st.text(max_size=5)


def numbers(values, dtype=np.int64):
    return np.array(values, dtype=dtype)


@st.composite
def chunks(draw, max_rows=12):
    """A chunk as workers write it: spans of partitions, rows in the order of their offsets within each."""
    count = draw(st.integers(1, 3))
    spans, rows = [], []
    for number in range(count):
        first = draw(st.integers(0, 1 << 40))
        length = draw(st.integers(0, 30))
        spans.append(Span(draw(st.sampled_from(["t", "u"])), number, first, first + length, length))
        offsets = draw(st.lists(st.integers(0, length - 1), unique=True, max_size=max_rows)) if length else []
        rows.append([(number, first + offset) for offset in sorted(offsets)])
    mixed = draw(st.permutations([number for number, mine in enumerate(rows) for _ in mine]))
    left = [iter(mine) for mine in rows]
    places = [next(left[number]) for number in mixed]
    n = len(places)
    width = draw(st.integers(1, 3))
    texts = st.lists(st.one_of(st.none(), TEXTS), min_size=n, max_size=n)
    return SampleChunk(
        pipeline="p",
        model=draw(TEXTS),
        version="1",
        role="stable",
        reference=draw(TEXTS),
        spans=tuple(spans),
        span=numbers([number for number, _ in places], np.uint32),
        offset=numbers([offset for _, offset in places]),
        event_time_ms=numbers(draw(st.lists(st.integers(0, 1 << 42), min_size=n, max_size=n))),
        timestamp_ms=numbers([-1] * n),
        level=numbers(draw(st.lists(st.integers(0, MAX_LEVEL), min_size=n, max_size=n)), np.uint8),
        id=[f"{number}-{offset}" for number, offset in places],
        entity=[None if text is None else text.encode() for text in draw(texts)],
        columns={
            "f8": numbers(draw(st.lists(st.floats(), min_size=n, max_size=n)), np.float64),
            "f4": numbers(range(n), np.float32),
            "i8": numbers(range(n), np.int64),
            "i4": numbers(range(n), np.int32),
            "b1": numbers([i % 2 for i in range(n)], np.bool_),
            "vector": np.arange(n * width, dtype=np.float32).reshape(n, width),
            "text": TextColumn.of(draw(texts)),
        },
        rejects=(RejectCount("decode", "schema", "x", draw(st.integers(0, 9))),),
        written_ms=draw(st.integers(0, 1 << 42)),
    )


def same(left: SampleChunk, right: SampleChunk) -> bool:
    for field in fields(SampleChunk):
        a, b = getattr(left, field.name), getattr(right, field.name)
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
        elif field.name == "columns":
            assert list(a) == list(b)
            for name in a:
                if isinstance(a[name], TextColumn):
                    assert a[name].texts() == b[name].texts()
                else:
                    assert a[name].dtype == b[name].dtype
                    np.testing.assert_array_equal(a[name], b[name])
        else:
            assert a == b, field.name
    return True


@given(chunks())
def test_what_is_written_is_read(chunk):
    assert same(decode(encode(chunk)), chunk)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_an_error_and_nothing_else(data):
    with pytest.raises(ChunkError):
        decode(data)


@given(chunks(), st.data())
def test_a_truncated_chunk_is_an_error(chunk, data):
    whole = encode(chunk)
    with pytest.raises(ChunkError):
        decode(whole[: data.draw(st.integers(0, len(whole) - 1))])


@given(chunks(), st.data())
@settings(max_examples=200)
def test_changed_bytes_are_a_chunk_or_an_error(chunk, data):
    whole = bytearray(encode(chunk))
    for at in data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=4)):
        whole[at] = data.draw(st.integers(0, 255))
    try:
        found = decode(bytes(whole))
    except ChunkError:
        return
    assert len(found.id) == len(found.entity) == len(found.span) == len(found)
    assert all(column.codes.shape == (len(found),) if isinstance(column, TextColumn) else len(column) == len(found)
               for column in found.columns.values())  # fmt: skip
    Marks().take(found)


def wire(**changed):
    """The message of a chunk of one row, with these members changed."""
    document = {
        "format": 1, "pipeline": "p", "model": "m", "version": "1", "role": "stable", "reference": "",
        "written_ms": 0, "spans": [["t", 0, 0, 5, 5]], "n": 1, "span": bytes(4), "offset": bytes(8),
        "event_time_ms": bytes(8), "timestamp_ms": bytes(8), "level": b"\0", "id": ["a"], "entity": [None],
        "columns": [], "rejects": [],
    }  # fmt: skip
    return msgspec.msgpack.encode(document | changed)


def test_the_foreign_message_that_the_cases_change_is_a_chunk():
    assert len(decode(wire())) == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"format": 2},
        {"n": 2},
        {"n": 2**63},
        {"written_ms": 2**60},
        {"spans": []},
        {"spans": [["t", 0, 3, 2, 0]]},
        {"spans": [["t", -1, 0, 5, 5]]},
        {"spans": [["t", 0, 0, 2**63, 5]]},
        {"spans": [["t", 0, 1, 5, 5]]},
        {"span": b"\1\0\0\0"},
        {"level": bytes([MAX_LEVEL + 1])},
        {"event_time_ms": b"\xff" * 7 + b"\x7f"},
        {"timestamp_ms": b"\0" * 7 + b"\x80"},
        {"id": []},
        {"id": [None]},
        {"columns": [["a", "<f8", 0, bytes(9), []]]},
        {"columns": [["a", "<f8", 2**62, b"", []]]},
        {"columns": [["a", "<f8", -1, b"", []]]},
        {"columns": [["a", "|O", 0, bytes(8), []]]},
        {"columns": [["a", "text", 0, bytes(4), []]]},
        {"columns": [["a", "|b1", 0, b"\0", []]] * 2},
        {"rejects": [["decode", "schema", "", -1]]},
    ],
    ids=str,
)
def test_parts_that_do_not_fit_each_other_are_an_error(changed):
    with pytest.raises(ChunkError):
        decode(wire(**changed))


def test_a_bool_column_of_foreign_bytes_is_still_bool():
    assert decode(wire(columns=[["a", "|b1", 0, b"\x05", []]])).columns["a"].tolist() == [True]


@pytest.mark.parametrize("header", [b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"])
def test_lengths_that_are_not_there_cost_nothing(header):
    began_s = time.process_time()
    for data in (header, wire().replace(b"\xa5spans\x91", b"\xa5spans" + header), b"\x91" * 1_000_000):
        with pytest.raises(ChunkError):
            decode(data)
    assert time.process_time() - began_s < 5


@given(chunks(), st.data())
def test_parts_put_together_give_every_row_exactly_once(chunk, data):
    n = len(chunk)
    cuts = sorted(data.draw(st.sets(st.integers(1, n - 1), max_size=4))) if n > 1 else []
    bounds = [0, *cuts, n]
    parts = [chunk.rows(start, stop) for start, stop in itertools.pairwise(bounds)]
    marks, rows, consumed = Marks(), [], 0
    for part in [*parts, *data.draw(st.lists(st.sampled_from(parts), max_size=3))]:
        new, fresh = marks.take(decode(encode(part)))
        rows += [part.id[i] for i in np.flatnonzero(new)]
        consumed += sum(span.consumed for span, first in zip(part.spans, fresh, strict=True) if first)
    assert rows == chunk.id
    assert consumed == sum(span.consumed for span in chunk.spans)
    assert marks.to_document() == _after(chunk)
    assert [reject for part in parts for reject in part.rejects] == list(chunk.rejects)


def _after(chunk):
    marks = Marks()
    marks.take(chunk)
    return marks.to_document()


@given(chunks(), st.data())
def test_parts_keep_the_values_of_their_rows_and_no_others(chunk, data):
    start = data.draw(st.integers(0, len(chunk)))
    stop = data.draw(st.integers(start, len(chunk)))
    part = chunk.rows(start, stop)
    text = part.columns["text"]
    assert text.texts() == chunk.columns["text"].texts()[start:stop]
    assert set(text.values) == set(text.texts())
    np.testing.assert_array_equal(part.columns["vector"], chunk.columns["vector"][start:stop])


@given(chunks())
def test_a_chunk_knows_what_it_takes_at_least(chunk):
    assert chunk.least_bytes() <= len(encode(chunk))


@given(chunks())
def test_without_its_rows_a_chunk_covers_and_counts_the_same(chunk):
    bare = decode(encode(chunk.without_rows()))
    assert (len(bare), bare.spans, bare.rejects) == (0, chunk.spans, chunk.rejects)
    assert same(replace(bare, **_rows(chunk)), chunk)


def _rows(chunk):
    names = ("span", "offset", "event_time_ms", "timestamp_ms", "level", "id", "entity", "columns")
    return {name: getattr(chunk, name) for name in names}
