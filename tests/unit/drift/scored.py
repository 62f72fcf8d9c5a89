"""Scored batches in memory, as the sampler gets them."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import strategies as st

from streamserve.batch import EventBatch, ModelIdentity, PredictionBatch, RecordBatch, SampleBatch

MODEL = ModelIdentity(name="delay", version="3")
Place = tuple[str, int, int]


def line(partition: int, first: int, count: int, topic: str = "t", step: int = 1) -> list[Place]:
    """Places of one partition in a row, with gaps of `step`."""
    return [(topic, partition, offset) for offset in range(first, first + count * step, step)]


@st.composite
def placed(draw, partitions=4):
    """Places of some partitions of one topic or two, interleaved, with gaps, in order per partition; at least one."""
    topics = draw(st.sampled_from([["t"], ["t", "u"]]))
    lines = []
    for topic, partition in itertools.product(topics, range(draw(st.integers(1, partitions)))):
        offsets = draw(st.lists(st.integers(0, 400), max_size=25, unique=True))
        lines.append([(topic, partition, offset) for offset in sorted(offsets)])
    order = draw(st.permutations([number for number, mine in enumerate(lines) for _ in mine]))
    left = [iter(mine) for mine in lines]
    return [next(left[number]) for number in order] or [("t", 0, draw(st.integers(0, 9)))]


def batch(places, *, fields=None, outputs=None, bad=(), unwritten=(), model=MODEL) -> SampleBatch:
    """Records at `places`, scored but for the rows `bad`, which did not decode, and `unwritten`, which did not encode.

    Event `i` has the id `e<i>` and the number `i` as the field `x` and the output `y`.
    """
    n = len(places)
    records = RecordBatch(
        topic=[topic for topic, _, _ in places],
        partition=[partition for _, partition, _ in places],
        offset=[offset for _, _, offset in places],
        timestamp_ms=[1_000_000 + i for i in range(n)],
        key=[b"k%d" % i for i in range(n)],
        value=[b"v"] * n,
    )
    row = [i for i in range(n) if i not in bad]
    fields = {"x": np.arange(n, dtype=np.float64)} if fields is None else fields
    outputs = {"y": np.arange(n, dtype=np.float32).reshape(-1, 1)} if outputs is None else outputs
    events = EventBatch(
        origin=records,
        row=row,
        id=[f"e{i}" for i in row],
        entity=[b"k%d" % i for i in row],
        event_time_ms=[2_000_000 + i for i in row],
        fields={name: _rows(column, row) for name, column in fields.items()},
    )
    return SampleBatch(
        predictions=PredictionBatch(
            events=events, outputs={name: _rows(values, row) for name, values in outputs.items()}, model=model
        ),
        row=[i for i in row if i not in unwritten],
    )


def _rows(column, row):
    return [column[i] for i in row] if isinstance(column, list) else column[row]
