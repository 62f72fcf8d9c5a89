"""What a batch may hold, and why it is no larger."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streamserve.batch import TopicPartition
from streamserve.pipeline.batcher import Batcher
from tests.chunks import chunk


def batcher(*, max_size=4, max_bytes=1000, max_delay_s=0.0, capacity=16):
    return Batcher(max_size=max_size, max_bytes=max_bytes, max_delay_s=max_delay_s, capacity=capacity)


def test_an_empty_one_is_never_ready():
    assert batcher().ready_in_s(0) is None


def test_without_a_delay_a_single_record_goes_at_once():
    b = batcher()
    b.add(chunk(1))
    assert b.ready_in_s(0) == 0
    records, reason = b.take(0)
    assert (len(records), reason, len(b)) == (1, "idle", 0)


def test_chunks_become_one_batch():
    b = batcher(max_size=10)
    b.add(chunk(2))
    b.add(chunk(3, start=2, polled_s=5))
    records, _ = b.take(0)
    assert records.offset == [0, 1, 2, 3, 4]
    assert records.polled_s == 0
    assert records.next_positions() == {TopicPartition("t", 0): 5}


def test_a_chunk_is_cut_at_the_size_and_its_rest_is_next():
    b = batcher(max_size=4)
    b.add(chunk(6))
    records, reason = b.take(0)
    assert (records.offset, reason) == ([0, 1, 2, 3], "size")
    assert records.next_positions() == {TopicPartition("t", 0): 4}
    records, reason = b.take(0)
    assert (records.offset, reason) == ([4, 5], "idle")


def test_the_oldest_record_waits_for_company_as_long_as_the_delay():
    b = batcher(max_delay_s=2)
    b.add(chunk(1, polled_s=10))
    b.add(chunk(1, start=1, polled_s=11))
    assert b.ready_in_s(10.5) == 1.5
    assert b.ready_in_s(12) == 0
    assert b.ready_in_s(99) == 0
    assert b.take(0)[1] == "delay"


def test_a_full_batch_does_not_wait():
    b = batcher(max_size=4, max_delay_s=2)
    b.add(chunk(4))
    assert b.ready_in_s(0) == 0


def test_bytes_bound_a_batch():
    b = batcher(max_size=10, max_bytes=25)
    b.add(chunk(6, size=10))
    sizes = [b.take(0) for _ in range(3)]
    assert [(len(records), reason) for records, reason in sizes] == [(2, "bytes"), (2, "bytes"), (2, "idle")]


def test_bytes_are_counted_over_chunks():
    b = batcher(max_size=10, max_bytes=25)
    for n in range(3):
        b.add(chunk(1, start=n, size=10))
    assert b.take(0)[0].offset == [0, 1]
    assert b.take(0)[0].offset == [2]


def test_a_record_larger_than_the_bound_goes_alone():
    b = batcher(max_size=10, max_bytes=25)
    b.add(chunk(1, size=10))
    b.add(chunk(2, start=1, size=100))
    b.add(chunk(1, start=3, size=10))
    assert [b.take(0)[0].offset for _ in range(4)] == [[0], [1], [2], [3]]
    assert b.ready_in_s(0) is None


def test_batches_do_not_mix_epochs():
    b = batcher(max_size=10)
    b.add(chunk(1))
    b.add(chunk(1, start=1, epochs={TopicPartition("t", 0): 2}))
    assert [(len(records), reason) for records, reason in (b.take(0), b.take(0))] == [(1, "epoch"), (1, "idle")]


def test_it_is_full_at_its_capacity():
    b = batcher(capacity=5)
    b.add(chunk(4))
    assert not b.full
    b.add(chunk(1, start=4))
    assert b.full
    b.take(0)
    assert not b.full


def test_clearing_leaves_nothing():
    b = batcher()
    b.add(chunk(3))
    b.clear()
    assert (len(b), b.ready_in_s(0)) == (0, None)


chunks = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 40), st.booleans()), max_size=12)


@given(chunks, st.integers(1, 12), st.integers(1, 100))
def test_every_record_comes_out_once_in_order_within_the_bounds(plan, max_size, max_bytes):
    b = batcher(max_size=max_size, max_bytes=max_bytes, capacity=10_000)
    at, epochs = 0, {TopicPartition("t", 0): 1}
    for count, size, rebalance in plan:
        epochs = dict(epochs) if rebalance else epochs
        b.add(chunk(count, start=at, epochs=epochs, size=size))
        at += count
    taken: list[int] = []
    while b.ready_in_s(0) == 0:
        records, _ = b.take(0)
        assert 1 <= len(records) <= max_size
        assert len(records) == 1 or sum(map(len, records.value)) <= max_bytes
        assert records.next_positions() == {TopicPartition("t", 0): records.offset[-1] + 1}
        taken += records.offset
    assert taken == list(range(at))
    assert len(b) == 0


def test_it_is_full_at_the_volume_of_its_batches_and_a_batch_full_of_bytes_does_not_wait():
    b = batcher(max_size=4, max_bytes=100, max_delay_s=60, capacity=8)
    b.add(chunk(1, size=99))
    assert not b.full
    assert b.ready_in_s(0.0) > 0
    b.add(chunk(1, size=101))
    assert b.full
    assert b.ready_in_s(0.0) == 0
    b.take(0)
    assert not b.full
