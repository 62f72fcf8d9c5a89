"""Marks: merging anything again changes nothing, whoever wrote it and however it is cut."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamserve.drift.chunk import SampleChunk, Span
from streamserve.drift.marks import Marks


def chunk(*spans: tuple[int, int, int], rows: int = 1) -> SampleChunk:
    """A chunk of spans (partition, first, end) with every `rows`-th offset sampled."""
    places = [(i, offset) for i, (_, first, end) in enumerate(spans) for offset in range(first, end, rows)]
    n = len(places)
    return SampleChunk(
        pipeline="p", model="m", version="1", role="stable", reference="",
        spans=tuple(Span("t", partition, first, end, end - first) for partition, first, end in spans),
        span=np.array([i for i, _ in places], dtype=np.uint32),
        offset=np.array([offset for _, offset in places], dtype=np.int64),
        event_time_ms=np.zeros(n, dtype=np.int64), timestamp_ms=np.zeros(n, dtype=np.int64),
        level=np.zeros(n, dtype=np.uint8), id=[""] * n, entity=[None] * n, columns={}, rejects=(), written_ms=0,
    )  # fmt: skip


def test_rows_from_the_mark_on_are_new():
    marks = Marks()
    assert marks.take(chunk((0, 0, 4)))[0].all()
    rows, spans = marks.take(chunk((0, 2, 6), (1, 0, 1)))
    assert rows.tolist() == [False, False, True, True, True]
    assert spans == [False, True]


def test_a_gap_is_no_reason_to_refuse():
    marks = Marks()
    marks.take(chunk((0, 0, 4)))
    rows, spans = marks.take(chunk((0, 9, 11)))
    assert rows.all()
    assert spans == [True]


def test_marks_go_on_from_their_document():
    marks = Marks()
    marks.take(chunk((0, 0, 4), (3, 5, 9)))
    assert marks.to_document() == {"1": {"t": {"0": 4, "3": 9}}}
    again = Marks(marks.to_document())
    assert not again.take(chunk((0, 0, 4), (3, 5, 9)))[0].any()
    assert again.to_document() == marks.to_document()


def test_a_chunk_without_rows_moves_the_mark():
    marks = Marks()
    assert marks.take(chunk((0, 0, 0)))[1] == [True]
    bare = chunk((0, 0, 4)).without_rows()
    assert marks.take(bare)[1] == [True]
    assert marks.to_document() == {"1": {"t": {"0": 4}}}


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.data())
def test_a_worker_that_starts_over_anywhere_gives_every_offset_once(lengths, data):
    """At least once: after a crash the same offsets come again, cut differently."""
    end = sum(lengths)
    marks, taken, position = Marks(), [], 0
    for length in lengths:
        crash = chunk((0, position, min(end, position + data.draw(st.integers(0, 5)))))
        done = chunk((0, position, position + length))
        for each in (crash, done):
            new, _ = marks.take(each)
            taken += each.offset[new].tolist()
        position += length
    assert taken == list(range(end))
