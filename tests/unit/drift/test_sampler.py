"""The sampler: which rows, where they are from, and their columns as they came."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamserve.batch import EventBatch, ModelIdentity, OutboundBatch, PredictionBatch, RecordBatch, TopicPartition
from streamserve.config.settings import PipelineSettings
from streamserve.drift.levels import draws, kept, stream_seed
from streamserve.drift.sampler import Sampler, build_sampler, output_columns
from streamserve.ports import TensorSpec

MODEL = ModelIdentity(name="m", version="3")


class At:
    """A level that stays."""

    def __init__(self, level):
        self.level = level

    def next(self, rows, now_s):
        return self.level


def predictions(places, *, fields=None, outputs=None, bad=()) -> tuple[PredictionBatch, OutboundBatch]:
    """Records at `places` (topic, partition, offset), scored but for the rows `bad`, which did not decode."""
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
    events = EventBatch(
        origin=records,
        row=row,
        id=[f"e{i}" for i in row],
        entity=[b"k%d" % i for i in row],
        event_time_ms=[2_000_000 + i for i in row],
        fields={name: _rows(column, row) for name, column in fields.items()},
    )
    outputs = {"y": np.arange(n, dtype=np.float32).reshape(-1, 1)} if outputs is None else outputs
    batch = PredictionBatch(
        events=events, outputs={name: _rows(values, row) for name, values in outputs.items()}, model=MODEL
    )
    outbound = OutboundBatch(
        topic="out",
        row=row,
        partition=[records.partition[i] for i in row],
        key=[None] * len(row),
        value=[b"p"] * len(row),
    )
    return batch, outbound


def _rows(column, row):
    return [column[i] for i in row] if isinstance(column, list) else column[row]


def sampled(places, level=0, *, features=("x",), dropped=(), **how):
    sampler = Sampler(features, {"output.y": "y"}, At(level), lambda: 0.0, dropped=dropped)
    return sampler.sample(*predictions(places, **how))


def line(partition, first, count, topic="t", step=1):
    return [(topic, partition, offset) for offset in range(first, first + count * step, step)]


@st.composite
def placed(draw):
    """Records of some partitions of one topic or two, interleaved, with gaps, in order per partition."""
    topics = draw(st.sampled_from([["t"], ["t", "u"]]))
    lines = []
    for topic, partition in itertools.product(topics, range(draw(st.integers(1, 4)))):
        offsets = draw(st.lists(st.integers(0, 400), max_size=25, unique=True))
        lines.append([(topic, partition, offset) for offset in sorted(offsets)])
    order = draw(st.permutations([number for number, mine in enumerate(lines) for _ in mine]))
    left = [iter(mine) for mine in lines]
    return [next(left[number]) for number in order]


@given(placed().filter(bool), st.integers(0, 3), st.data())
def test_the_rows_of_the_level_that_became_predictions_and_no_others(places, level, data):
    bad = data.draw(st.sets(st.integers(0, len(places) - 1)))
    unwritten = data.draw(st.sets(st.integers(0, len(places) - 1)))
    batch, outbound = predictions(places, bad=bad)
    outbound = outbound.take([i for i, row in enumerate(outbound.row) if row not in unwritten])
    found = Sampler(["x"], {"output.y": "y"}, At(level), lambda: 0.0).sample(batch, outbound)

    def belongs(place):
        topic, partition, offset = place
        return len(kept(draws(np.uint64(stream_seed(topic, partition)), np.array([offset])), level)) == 1

    wanted = [i for i, place in enumerate(places) if belongs(place) and i not in bad and i not in unwritten]
    assert [(*found.spans[s].place, o) for s, o in zip(found.span, found.offset, strict=True)] == [
        places[i] for i in wanted
    ]
    assert found.id == [f"e{i}" for i in wanted]
    assert found.entity == [b"k%d" % i for i in wanted]
    assert found.event_time_ms.tolist() == [2_000_000 + i for i in wanted]
    assert found.timestamp_ms.tolist() == [1_000_000 + i for i in wanted]
    assert found.level == level
    assert found.model == MODEL
    if wanted:
        assert found.columns["x"].tolist() == wanted
        assert found.columns["output.y"].tolist() == wanted
    else:
        assert found.columns == {}


@given(placed().filter(bool), st.integers(0, 20))
def test_spans_tell_the_first_offset_the_position_after_and_the_count_of_each_partition(places, level):
    spans = sampled(places, level).spans
    assert {span.place for span in spans} == {TopicPartition(topic, partition) for topic, partition, _ in places}
    for span in spans:
        mine = [offset for topic, partition, offset in places if (topic, partition) == span.place]
        assert (span.first, span.end, span.consumed) == (min(mine), max(mine) + 1, len(mine))


@given(placed().filter(bool), st.sets(st.integers(0, 3)), st.integers(0, 1))
def test_without_stale_partitions_nothing_of_them_is_left(places, partitions, level):
    stale = {TopicPartition("t", partition) for partition in partitions}
    found = sampled(places, level).without(stale)
    left = [place for place in places if place[:2] not in stale]
    if left:
        clean = sampled(left, level)
        assert set(found.spans) == set(clean.spans)
        assert [(*found.spans[s].place, o) for s, o in zip(found.span, found.offset, strict=True)] == [
            (*clean.spans[s].place, o) for s, o in zip(clean.span, clean.offset, strict=True)
        ]
        assert all(len(column) == len(clean) for column in found.columns.values())
        assert len(found.id) == len(found.entity) == len(found.event_time_ms) == len(clean)
    else:
        assert (len(found), found.spans) == (0, ())


def test_the_same_rows_whatever_the_batches_are():
    """A replay, or another worker, cuts the partition elsewhere."""
    places = line(0, 100, 900)
    whole = sampled(places, 4).offset.tolist()
    for size in (1, 7, 512):
        parts = [sampled(places[at : at + size], 4).offset.tolist() for at in range(0, 900, size)]
        assert list(itertools.chain(*parts)) == whole


def test_what_was_missing_stays_missing():
    exact = np.empty(3, object)
    exact[:] = [2**60, None, -1]
    fields = {
        "number": np.array([1.5, np.nan, 2.0]),
        "integer": np.array([1, 2, 3]),
        "exact": exact,
        "text": ["a", None, "a"],
        "vector": np.arange(6, dtype=np.float32).reshape(3, 2),
    }
    found = sampled(line(0, 0, 3), features=list(fields), fields=fields).columns
    np.testing.assert_array_equal(found["number"], [1.5, np.nan, 2.0])
    assert found["integer"].dtype == np.int64
    assert found["exact"].dtype == np.float64
    np.testing.assert_array_equal(found["exact"], [2.0**60, np.nan, -1])
    assert found["text"] == ["a", None, "a"]
    assert found["vector"].shape == (3, 2)


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (np.float32([1, 2, 3, 4]), (np.float32, (4,))),
        (np.float32([[1], [2], [3], [4]]), (np.float32, (4,))),
        (np.ones((4, 3), np.float64), (np.float64, (4, 3))),
        (np.ones((4, 2, 5), np.float32), (np.float32, (4, 10))),
        (np.ones((4, 1, 1), np.int64), (np.int64, (4,))),
        (np.ones((4, 0), np.float32), (np.float32, (4, 0))),
        (np.ones(4, np.float16), (np.float32, (4,))),
        (np.ones(4, np.uint8), (np.int64, (4,))),
        (np.ones(4, np.int8), (np.int64, (4,))),
        (np.full(4, 2**64 - 1, np.uint64), (np.float64, (4,))),
        (np.ones(4, np.bool_), (np.bool_, (4,))),
    ],
    ids=lambda value: f"{value.dtype}{value.shape}" if isinstance(value, np.ndarray) else "",
)
def test_outputs_of_any_kind(values, wanted):
    for level in (0, 1):
        column = sampled(line(0, 0, 4), level, outputs={"y": values}).columns["output.y"]
        rows = len(column)
        assert (column.dtype, column.shape[1:]) == (wanted[0], wanted[1][1:])
        assert 0 < rows <= 4


def test_text_outputs():
    values = np.array([["yes"], ["no"]], dtype=object)
    found = sampled(line(0, 0, 2), features=(), fields={}, outputs={"y": values})
    assert found.columns["output.y"] == ["yes", "no"]


def test_dropped_ids_and_keys_are_never_taken():
    found = sampled(line(0, 0, 3), dropped=("id", "key"))
    assert found.id == [""] * 3
    assert found.entity == [None] * 3


def pipeline(**changed) -> PipelineSettings:
    return PipelineSettings.model_validate(
        {
            "pipeline": "p",
            "kafka": {},
            "input": {"topics": ["t"]},
            "features": [{"name": "x"}, {"name": "name", "dtype": "string"}],
            "model": {"name": "m"},
            "output": {"topic": "out"},
            "dead_letter": {"topic": "dead"},
            "drift": {},
        }
        | changed
    )


OUTPUTS = [
    TensorSpec(name="probability", dtype="float32", shape=(-1, 1)),
    TensorSpec(name="scores", dtype="float32", shape=(-1, 3)),
    TensorSpec(name="label", dtype="str", shape=(-1,)),
    TensorSpec(name="words", dtype="str", shape=(-1, 2)),
]


def test_all_outputs_are_sampled_under_their_own_names_but_lists_of_texts():
    found = output_columns(pipeline().output, OUTPUTS)
    assert found == {"output.probability": "probability", "output.scores": "scores", "output.label": "label"}


def test_named_outputs_are_sampled_under_the_predictions_names_and_thresholds_are_not():
    output = pipeline(output={"topic": "out", "outputs": {"p": "probability"}, "threshold": {"p": 0.5}}).output
    assert output_columns(output, OUTPUTS) == {"output.p": "probability"}


def fields(n):
    return {"x": np.arange(n, dtype=np.float64), "name": ["a"] * n}


def test_the_drift_block_says_what_is_sampled():
    settings = pipeline(drift={"samples_per_s": "all", "pii": {"name": "drop", "id": "drop"}})
    assert settings.drift is not None
    sampler = build_sampler(settings, settings.drift, OUTPUTS[:1], lambda: 1.0, lambda: 0.0)
    batch = predictions(line(0, 0, 5000), fields=fields(5000), outputs={"probability": np.zeros((5000, 1))})
    found = sampler.sample(*batch)
    assert (len(found), list(found.columns), set(found.id)) == (5000, ["x", "output.probability"], {""})


@pytest.mark.parametrize(("share", "level"), [(1.0, 4), (0.25, 6)])
def test_the_budget_is_shared_by_the_partitions(share, level):
    settings = pipeline(drift={"samples_per_s": 1000})
    assert settings.drift is not None
    now_s = itertools.count(0, 0.1)
    sampler = build_sampler(settings, settings.drift, OUTPUTS[:1], lambda: share, lambda: float(next(now_s)))
    batch = predictions(line(0, 0, 1200), fields=fields(1200), outputs={"probability": np.zeros((1200, 1))})
    for _ in range(40):  # 12,000 rows a second
        found = sampler.sample(*batch)
    assert found.level == level


def test_a_vector_field_is_one_column():
    settings = pipeline(features={"field": "v", "size": 4}, drift={"samples_per_s": "all"})
    assert settings.drift is not None
    sampler = build_sampler(settings, settings.drift, OUTPUTS[:1], lambda: 1.0, lambda: 0.0)
    vectors = np.arange(12, dtype=np.float32).reshape(3, 4)
    batch = predictions(line(0, 0, 3), fields={"v": vectors}, outputs={"probability": np.zeros((3, 1))})
    np.testing.assert_array_equal(sampler.sample(*batch).columns["v"], vectors)
