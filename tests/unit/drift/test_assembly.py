"""Assembly: one chunk a transaction and model version, cut to what the topic takes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamserve.batch import ModelIdentity, Reject, SampleBatch, SampleSpan, TopicPartition
from streamserve.drift.assembly import Assembly, cut
from streamserve.drift.chunk import MAX_TIME_MS, RejectCount, Span, TextColumn, decode, encode
from streamserve.drift.java_partition import java_partition
from streamserve.drift.marks import Marks
from streamserve.drift.personal import NOTHING_PERSONAL, Personal

MODEL = ModelIdentity(name="delay", version="3")


def samples(*spans, keep=1, model=MODEL, level=0, columns=None, **changed) -> SampleBatch:
    """Samples of spans (partition, first, end): every `keep`-th offset, or none with 0."""
    places = [(number, offset) for number, (_, first, end) in enumerate(spans) for offset in range(first, end) if keep][
        :: keep or 1
    ]
    n = len(places)
    numbers = np.arange(n, dtype=np.float64)
    parts: dict[str, object] = {
        "model": model,
        "level": level,
        "spans": tuple(SampleSpan(TopicPartition("t", p), first, end, end - first) for p, first, end in spans),
        "span": np.array([number for number, _ in places], dtype=np.int64),
        "offset": np.array([offset for _, offset in places], dtype=np.int64),
        "event_time_ms": np.arange(n),
        "timestamp_ms": np.arange(n),
        "id": [f"{spans[number][0]}-{offset}" for number, offset in places],
        "entity": [None] * n,
        "columns": {"x": numbers, "name": ["a", None] * (n // 2) + ["b"] * (n % 2)} if columns is None else columns(n),
    }
    if not n:
        parts["columns"] = {}
    return SampleBatch(**(parts | changed))  # type: ignore[arg-type]


def assembly(max_bytes=1 << 20, *, personal=NOTHING_PERSONAL, partitions=4) -> Assembly:
    return Assembly(
        topic="p.samples",
        partitions=partitions,
        max_bytes=max_bytes,
        pipeline="p",
        reference="abc",
        personal=personal,
    )


def made(*batches, rejects=(), **how):
    """The chunks of these batches; the rejects are the first one's."""
    parts = [(batch, rejects if i == 0 else ()) for i, batch in enumerate(batches)]
    found = assembly(**how).make(parts, 1_700_000_000_000)
    return [] if found is None else [decode(value) for value in found.outbound.value]


def test_a_chunk_says_who_predicted_and_is_keyed_by_the_model():
    found = assembly().make([(samples((0, 0, 3)), ())], 1_700_000_000_000)
    (chunk,) = map(decode, found.outbound.value)
    assert (chunk.pipeline, chunk.model, chunk.version, chunk.role) == ("p", "delay", "3", "stable")
    assert (chunk.reference, chunk.written_ms) == ("abc", 1_700_000_000_000)
    assert found.outbound.topic == "p.samples"
    assert found.outbound.key == [b"delay"]
    assert found.outbound.partition == [java_partition(b"delay", 4)]
    assert (found.rows, found.left_out) == (3, 0)


def test_nothing_sampled_and_nothing_rejected_is_no_chunk():
    assert assembly().make([(samples((0, 0, 9), keep=0), ())], 0) is None
    assert assembly().make([], 0) is None


def test_rejects_alone_are_a_chunk():
    rejects = [
        Reject(0, "decode", "schema", "so", feature="x"),
        Reject(1, "decode", "schema", "and so", feature="x"),
        Reject(2, "infer", "non_finite", ""),
    ]
    (chunk,) = made(samples((0, 0, 9), keep=0), rejects=rejects)
    assert len(chunk) == 0
    assert chunk.rejects == (RejectCount("decode", "schema", "x", 2), RejectCount("infer", "non_finite", "", 1))
    assert chunk.spans == (Span("t", 0, 0, 9, 9),)


def test_batches_of_a_transaction_become_one_chunk_with_a_span_a_partition():
    (chunk,) = made(
        samples((0, 0, 2), (1, 5, 6), level=1),
        samples((1, 6, 8), keep=0),
        samples((2, 9, 10), (0, 4, 6), level=0),
    )
    assert chunk.spans == (Span("t", 0, 0, 6, 4), Span("t", 1, 5, 8, 3), Span("t", 2, 9, 10, 1))
    assert chunk.id == ["0-0", "0-1", "1-5", "2-9", "0-4", "0-5"]
    assert [chunk.spans[s].partition for s in chunk.span] == [0, 0, 1, 2, 0, 0]
    assert chunk.level.tolist() == [1, 1, 1, 0, 0, 0]
    assert chunk.columns["name"].texts() == ["a", None, "b", "a", None, "b"]


def test_model_versions_have_chunks_of_their_own():
    newer = ModelIdentity(name="delay", version="4", role="canary")
    found = made(samples((0, 0, 2)), samples((0, 2, 3), keep=0), samples((0, 3, 5), model=newer))
    assert [(chunk.version, chunk.role, chunk.id) for chunk in found] == [
        ("3", "stable", ["0-0", "0-1"]),
        ("4", "canary", ["0-3", "0-4"]),
    ]


def test_outputs_that_change_their_width_begin_another_chunk():
    def wide(width):
        return lambda n: {"output.y": np.zeros((n, width), np.float32)}

    found = made(
        samples((0, 0, 2), columns=wide(2)), samples((0, 2, 4), columns=wide(3)), samples((0, 4, 5), columns=wide(3))
    )
    assert [(chunk.columns["output.y"].shape, chunk.spans[0].first) for chunk in found] == [((2, 2), 0), ((3, 3), 2)]


def test_whole_numbers_with_and_without_gaps_are_one_column():
    found = made(
        samples((0, 0, 2), columns=lambda _: {"x": np.array([1, 2])}),
        samples((0, 2, 4), columns=lambda _: {"x": np.array([np.nan, 4.0])}),
    )
    np.testing.assert_array_equal(found[0].columns["x"], [1, 2, np.nan, 4])


def test_times_that_are_none_are_kept_within_bounds():
    times = np.array([np.iinfo(np.int64).min, np.iinfo(np.int64).max])
    (chunk,) = made(samples((0, 0, 2), event_time_ms=times, timestamp_ms=times))
    assert chunk.event_time_ms.tolist() == [-MAX_TIME_MS, MAX_TIME_MS]
    assert chunk.timestamp_ms.tolist() == [-1, MAX_TIME_MS]


def test_texts_that_utf8_cannot_hold_are_written_all_the_same():
    (chunk,) = made(samples((0, 0, 2), columns=lambda _: {"name": ["\ud800", "ü"]}))
    assert chunk.columns["name"].texts() == ["?", "ü"]


def test_personal_values_are_hashed():
    personal = Personal(b"secret", ["id", "name"])
    (chunk,) = made(samples((0, 0, 2)), personal=personal)
    assert chunk.id == [personal.text("0-0"), personal.text("0-1")]
    assert chunk.columns["name"].texts() == [personal.text("a"), None]
    assert chunk.columns["x"].tolist() == [0, 1]


@given(st.lists(st.integers(0, 40), min_size=1, max_size=4), st.integers(800, 4000), st.integers(1, 40))
def test_a_chunk_that_is_too_large_is_cut_and_its_parts_give_every_row_once(lengths, max_bytes, width):
    position, batches = 0, []
    for length in lengths:
        spans = ((0, position, position + length), (1, position, position + length))
        batches.append(samples(*spans, columns=lambda n: {"v": np.ones((n, width), np.float32), "t": ["x" * 9] * n}))
        position += length
    found = assembly(max_bytes).make([(batch, ()) for batch in batches], 0)
    ids = list(itertools.chain.from_iterable(batch.id for batch in batches))
    if found is None:
        assert not ids
        return
    marks, rows, consumed = Marks(), [], 0
    for key, value in zip(found.outbound.key, found.outbound.value, strict=True):
        assert len(key) + len(value) <= max_bytes
        chunk = decode(value)
        new, fresh = marks.take(chunk)
        assert new.all()
        rows += chunk.id
        consumed += sum(span.consumed for span, first in zip(chunk.spans, fresh, strict=True) if first)
    assert rows == ids
    assert (found.rows, found.left_out) == (len(ids), 0)
    assert consumed == 2 * position
    assert marks.to_document()["3"]["t"] == {"0": position, "1": position}


@pytest.mark.parametrize("at", [0, 3, 7])
def test_a_row_too_large_by_itself_is_left_out_and_counted(at):
    texts = ["x"] * 8
    texts[at] = "x" * 5000
    found = assembly(2000).make([(samples((0, 0, 8), columns=lambda _: {"name": texts}), ())], 0)
    chunks = list(map(decode, found.outbound.value))
    assert [ident for chunk in chunks for ident in chunk.id] == [f"0-{i}" for i in range(8) if i != at]
    assert (found.rows, found.left_out) == (7, 1)
    assert sum(span.consumed for chunk in chunks for span in chunk.spans) == 8
    assert chunks[-1].spans[0].end == 8


def test_what_fits_in_no_way_is_left_out_altogether():
    found = assembly(50).make([(samples((0, 0, 8)), ())], 0)
    assert found is None or (found.rows, len(found.outbound)) == (0, 0)


def test_many_distinct_texts_do_not_follow_every_part():
    """A part holds the values of its own rows, or cutting would never end."""
    texts = [f"{i:0200d}" for i in range(1000)]
    batch = samples((0, 0, 1000), columns=lambda _: {"name": texts})
    found = assembly(20_000).make([(batch, ())], 0)
    assert 10 < len(found.outbound) < 40
    assert found.left_out == 0
    whole = [text for value in found.outbound.value for text in decode(value).columns["name"].texts()]
    assert whole == texts


def test_cut_of_a_chunk_that_fits_is_the_chunk():
    (chunk,) = made(samples((0, 0, 4)))
    assert list(cut(chunk, 1 << 20)) == [(encode(chunk), 4)]
    assert isinstance(chunk.columns["name"], TextColumn)
