"""A worker in memory with a samples topic: what is committed is sampled exactly once, whatever fails on the way."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import orjson
import pytest

from streamserve.batch import TopicPartition
from streamserve.drift.chunk import decode
from streamserve.drift.marks import Marks
from streamserve.errors import SinkError
from streamserve.testing import MemoryBroker
from tests.memory import fill, topics, until, worker

EVERY = {"samples_per_s": "all"}


@pytest.fixture
def broker() -> MemoryBroker:
    made = topics(MemoryBroker(), 3)
    made.create_topic("memory.samples", 2)
    return made


def chunks(broker: MemoryBroker):
    return [decode(record.value) for record in broker.records("memory.samples")]


def sampled(broker: MemoryBroker) -> Counter[tuple[str, int, int]]:
    """How often each source position was sampled."""
    found: Counter[tuple[str, int, int]] = Counter()
    for chunk in chunks(broker):
        spans = [chunk.spans[number] for number in chunk.span]
        found.update((s.topic, s.partition, int(o)) for s, o in zip(spans, chunk.offset, strict=True))
    return found


def predicted(broker: MemoryBroker) -> Counter[tuple[str, int, int]]:
    sources = [orjson.loads(record.value)["source"] for record in broker.records("predictions")]
    return Counter((s["topic"], s["partition"], s["offset"]) for s in sources)


def consumed(broker: MemoryBroker) -> int:
    return sum(span.consumed for chunk in chunks(broker) for span in chunk.spans)


def worked_off(broker: MemoryBroker, count: int) -> bool:
    return sum(broker.offsets.values()) >= count


def test_every_prediction_is_sampled_once_with_its_features_and_outputs(broker):
    fill(broker, 1000, partitions=3)
    with worker(broker, drift=EVERY):
        until(lambda: worked_off(broker, 1000))
    assert sampled(broker) == predicted(broker)
    assert set(sampled(broker).values()) == {1}
    assert consumed(broker) == 1000
    for chunk in chunks(broker):
        np.testing.assert_array_equal(chunk.columns["output.y"], chunk.columns["x"] * 2)
        place = [f"events-{chunk.spans[s].partition}-{o}" for s, o in zip(chunk.span, chunk.offset, strict=True)]
        assert chunk.id == place
        assert chunk.written_ms > 0
    assert {(record.partition, record.key) for record in broker.records("memory.samples")} == {(1, b"model")}


def test_a_chunk_stands_in_the_transaction_of_its_offsets(broker):
    fill(broker, 600, partitions=3)
    with worker(broker, drift=EVERY, delivery={"commit_interval_ms": 1}):
        until(lambda: worked_off(broker, 600))
    position = dict.fromkeys(range(3), 0)
    assert len(chunks(broker)) == len(broker.commits)
    for chunk, committed in zip(chunks(broker), broker.commits, strict=True):
        for span in chunk.spans:
            assert position[span.partition] == span.first
            assert committed[TopicPartition("events", span.partition)] == span.end
            position[span.partition] = span.end


def test_rejects_are_counted_and_their_rows_are_not_sampled(broker):
    fill(broker, 90, partitions=3)
    for partition in range(3):
        broker.produce("events", b"{}", partition=partition)
        broker.produce("events", b"no json", partition=partition)
    with worker(broker, drift=EVERY):
        until(lambda: worked_off(broker, 96))
    counts: Counter[tuple[str, str, str]] = Counter()
    for chunk in chunks(broker):
        counts.update({(r.stage, r.reason, r.feature): r.count for r in chunk.rejects})
    assert counts == {("decode", "decode", ""): 3, ("enrich", "missing_feature", "x"): 3}
    assert sampled(broker) == predicted(broker)
    assert consumed(broker) == 96


def test_without_a_drift_block_nothing_is_sampled():
    broker = topics(MemoryBroker())
    fill(broker, 50)
    with worker(broker) as slot:
        until(lambda: worked_off(broker, 50))
    assert slot.metrics.samples._value.get() == 0


def test_metrics_tell_what_was_committed(broker):
    fill(broker, 300, partitions=3)
    with worker(broker, drift=EVERY) as slot:
        until(lambda: worked_off(broker, 300))
    records = broker.records("memory.samples")
    metrics = slot.metrics
    assert metrics.samples._value.get() == 300
    assert metrics.samples_left_out._value.get() == 0
    assert metrics.sample_chunks._value.get() == len(records)
    assert metrics.sample_chunk_bytes._value.get() == sum(len(record.value) for record in records)
    assert metrics.sample_level._value.get() == 0


def test_a_budget_is_kept(broker):
    fill(broker, 30_000, partitions=3)
    with worker(broker, drift={"samples_per_s": 100}, engine={"max_batch_size": 200}):
        until(lambda: worked_off(broker, 30_000))
    found = sampled(broker)
    assert set(found.values()) == {1}
    assert 100 <= len(found) < 3000
    weight = sum(np.ldexp(1.0, chunk.level).sum() for chunk in chunks(broker))
    assert 15_000 < weight < 60_000
    assert all(found[place] <= 1 for place in predicted(broker))


@pytest.mark.parametrize("place", ["add", "flush", "commit", "begin"])
@pytest.mark.parametrize("seed", range(3))
def test_transactions_that_are_aborted_leave_no_sample(broker, place, seed):
    fill(broker, 900, partitions=3)
    draw = random.Random(seed)
    slot = worker(broker, drift=EVERY, engine={"max_batch_size": 32}, delivery={"commit_interval_ms": 2})
    for _ in range(3):
        slot.sink.faults.fail(place, SinkError("injected", retryable=True), at=draw.randrange(1, 8))
    with slot:
        until(lambda: worked_off(broker, 900))
    assert sampled(broker) == predicted(broker)
    assert set(sampled(broker).values()) == {1}
    assert consumed(broker) == 900


def test_partitions_that_leave_take_their_samples_with_them(broker):
    """Two workers hand partitions to each other while they work; every row is sampled by whoever committed it."""
    fill(broker, 3000, partitions=3)
    draw = random.Random(5)
    places = [TopicPartition("events", number) for number in range(3)]
    blocks = {"drift": EVERY, "engine": {"max_batch_size": 16}, "delivery": {"commit_interval_ms": 1}}
    with (
        worker(broker, slot="memory-0", everything=False, **blocks) as one,
        worker(broker, slot="memory-1", everything=False, **blocks) as two,
    ):
        one.source.assign(*places)
        for _ in range(12):
            moved = draw.choice(places)
            for giver, taker in ((one, two), (two, one)):
                if moved in giver.assignment.epochs:
                    giver.source.revoke(moved)
                    until(lambda giver=giver, moved=moved: moved not in giver.assignment.epochs)
                    taker.source.assign(moved)
                    break
        until(lambda: worked_off(broker, 3000))
    assert one.failure is two.failure is None
    assert sampled(broker) == predicted(broker)
    assert set(sampled(broker).values()) == {1}
    assert consumed(broker) == 3000


def test_at_least_once_duplicates_fall_to_the_marks(broker):
    """The same partitions worked off twice, as after a lost commit: marks take every row once."""
    fill(broker, 600, partitions=3)
    for slot in ("memory-0", "memory-1"):
        with worker(broker, slot=slot, drift=EVERY):
            until(lambda: worked_off(broker, 600))
        if slot == "memory-0":
            broker.commit_offsets({TopicPartition("events", p): 50 for p in range(3)}, broker.generation)
    assert max(sampled(broker).values()) == 2
    marks, taken = Marks(), 0
    for chunk in chunks(broker):
        taken += int(marks.take(chunk)[0].sum())
    assert taken == 600
