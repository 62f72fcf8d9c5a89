"""The sampler: one chunk a transaction and model version, as records that the topic takes."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamserve.batch import ModelIdentity, PredictionBatch, Reject, SampleBatch, TopicPartition
from streamserve.drift.chunk import MAX_TIME_MS, RejectCount, Span, decode
from streamserve.drift.java_partition import java_partition
from streamserve.drift.levels import draws, kept, stream_seed
from streamserve.drift.marks import Marks
from streamserve.drift.personal import Personal
from streamserve.drift.sampler import SampledVersion, Sampler
from streamserve.ports import TensorSpec
from streamserve.testing import memory_settings
from tests.memory import DOUBLE
from tests.unit.drift.scored import MODEL, batch, line, placed

NOW_MS = 1_700_000_000_000
REFERENCES = {"3": "abc", "4": "def", "5": ""}


class Fixed:
    """Always the same level."""

    def __init__(self, level) -> None:
        self.level = level

    def next(self, rows, now_s):
        return self.level


def sampler(*, max_bytes=1 << 20, x="float32", more=(), share=1.0, secret=b"secret", **drift) -> Sampler:
    """A sampler of the feature `x` of that dtype, and of float features."""
    features = [{"name": "x", "dtype": x}, *({"name": name} for name in more)]
    settings = memory_settings(features, drift={"samples_per_s": "all", **drift})
    assert settings.drift is not None
    return Sampler.of(
        settings,
        settings.drift,
        lambda version: SampledVersion(outputs=DOUBLE.outputs, reference=REFERENCES[version]),
        secret=secret,
        partitions=4,
        max_bytes=max_bytes,
        owned_share=lambda: share,
    )


def sampled(*batches, rejects=(), **how):
    """The records of these batches; the rejects are the first one's."""
    parts = [(each, rejects if i == 0 else ()) for i, each in enumerate(batches)]
    return sampler(**how).sample(parts, 0.0, NOW_MS)


def chunks(*batches, **how):
    found = sampled(*batches, **how)
    return [] if found is None else [decode(value) for value in found.outbound.value]


def belongs(place, level):
    """By the definition, one row at a time."""
    topic, partition, offset = place
    return len(kept(draws(np.uint64(stream_seed(topic, partition)), np.array([offset])), level)) == 1


def places(chunk):
    spans = [chunk.spans[number] for number in chunk.span]
    return [(span.topic, span.partition, int(o)) for span, o in zip(spans, chunk.offset, strict=True)]


def test_a_chunk_says_who_predicted_and_is_keyed_by_the_model():
    found = sampled(batch(line(0, 0, 3)))
    (chunk,) = map(decode, found.outbound.value)
    assert (chunk.pipeline, chunk.model, chunk.version, chunk.role) == ("memory", "delay", "3", "stable")
    assert (chunk.reference, chunk.written_ms) == ("abc", NOW_MS)
    assert found.outbound.topic == "memory.samples"
    assert found.outbound.key == [b"delay"]
    assert found.outbound.partition == [java_partition(b"delay", 4)]
    assert (found.rows, found.left_out, found.level) == (3, 0, 0)


@given(placed(), st.data())
def test_every_row_stands_with_all_that_belongs_to_it(transaction, data):
    cuts = sorted(data.draw(st.sets(st.integers(1, len(transaction)), max_size=3)) | {0, len(transaction)})
    batches, wanted = [], []
    for start, stop in itertools.pairwise(cuts):
        rows = transaction[start:stop]
        bad = data.draw(st.sets(st.integers(0, len(rows) - 1)))
        batches.append(batch(rows, bad=bad))
        wanted += [(i, place) for i, place in enumerate(rows) if i not in bad]
    numbers = [i for i, _ in wanted]
    for chunk in chunks(*batches):
        assert places(chunk) == [place for _, place in wanted]
        assert chunk.id == [f"e{i}" for i in numbers]
        assert chunk.entity == [b"k%d" % i for i in numbers]
        assert chunk.event_time_ms.tolist() == [2_000_000 + i for i in numbers]
        assert chunk.timestamp_ms.tolist() == [1_000_000 + i for i in numbers]
        assert [column.tolist() for column in chunk.columns.values()] == ([numbers, numbers] if numbers else [])
        assert sum(span.consumed for span in chunk.spans) == len(transaction)
        assert not chunk.level.any()


def test_nothing_consumed_is_no_record():
    assert sampled(replace(batch(line(0, 0, 3), bad={0, 1, 2}), routed=[])) is None
    assert sampled() is None


def test_records_of_which_nothing_is_sampled_or_rejected_are_told_of_as_consumed():
    """Late ones that got a fallback."""
    (chunk,) = chunks(batch(line(0, 0, 3), unwritten={0, 1, 2}))
    assert (len(chunk), chunk.spans) == (0, (Span("t", 0, 0, 3, 3),))


def test_rejects_alone_are_a_chunk():
    rejects = [
        Reject(0, "decode", "schema", "so", feature="x"),
        Reject(1, "decode", "schema", "and so", feature="x"),
        Reject(2, "infer", "non_finite", ""),
    ]
    (chunk,) = chunks(batch(line(0, 4, 3), bad={0, 1, 2}), rejects=rejects)
    assert len(chunk) == 0
    assert chunk.rejects == (RejectCount("decode", "schema", "x", 2), RejectCount("infer", "non_finite", "", 1))
    assert chunk.spans == (Span("t", 0, 4, 7, 3),)


def test_batches_of_a_transaction_become_one_chunk_with_a_span_a_partition():
    (chunk,) = chunks(
        batch(line(0, 0, 2) + line(1, 5, 1)),
        batch(line(1, 6, 2), bad={0, 1}),
        batch(line(2, 9, 1) + line(0, 4, 2)),
    )
    assert chunk.spans == (Span("t", 0, 0, 6, 4), Span("t", 1, 5, 8, 3), Span("t", 2, 9, 10, 1))
    assert places(chunk) == [*line(0, 0, 2), *line(1, 5, 1), *line(2, 9, 1), *line(0, 4, 2)]


def test_partitions_that_left_are_in_no_chunk():
    (chunk,) = chunks(batch(line(0, 0, 2) + line(1, 5, 3)).without({TopicPartition("t", 0)}))
    assert places(chunk) == line(1, 5, 3)
    assert chunk.spans == (Span("t", 1, 5, 8, 3),)


def test_model_versions_have_chunks_of_their_own():
    newer = ModelIdentity(name="delay", version="4", role="canary")
    found = chunks(batch(line(0, 0, 2)), batch(line(0, 2, 1), bad={0}), batch(line(0, 3, 2), model=newer))
    assert [(chunk.version, chunk.role, places(chunk)) for chunk in found] == [
        ("3", "stable", line(0, 0, 2)),
        ("4", "canary", line(0, 3, 2)),
    ]
    assert found[0].spans == (Span("t", 0, 0, 3, 3),)
    assert [chunk.reference for chunk in found] == ["abc", "def"]


def split(whole, sides):
    """The legs of a batch of which every event that decoded is routed by `sides`; the first has what did not decode."""
    events, outputs = whole.predictions.events, whole.predictions.outputs
    decoded = set(events.row)
    undecoded = [row for row in range(len(events.origin)) if row not in decoded]
    for side, version in enumerate(sorted(REFERENCES)):
        at = [i for i, row in enumerate(events.row) if sides[row] == side]
        mine = [events.row[i] for i in at]
        if not at and side:
            continue
        yield SampleBatch(
            predictions=PredictionBatch(
                events=events.take(at),
                outputs={name: values[at] for name, values in outputs.items()},
                model=ModelIdentity(name="delay", version=version, role="canary" if side else "stable"),
            ),
            row=[row for row in mine if row in whole.row],
            routed=sorted(mine + (undecoded if not side else [])),
        )


@given(st.data(), st.integers(0, 3))
def test_whatever_the_split_every_row_is_in_the_chunk_of_the_version_that_scored_it_and_told_once(data, level):
    thinned = sampler()
    thinned._levels = Fixed(level)
    marks, position, wanted, found, consumed = Marks(), dict.fromkeys(range(2), 0), {}, {}, Counter()
    for _ in range(data.draw(st.integers(1, 3))):
        legs = []
        for _ in range(data.draw(st.integers(1, 4))):
            rows = []
            for partition in data.draw(st.lists(st.integers(0, 1), min_size=1, max_size=12)):
                rows.append(("t", partition, position[partition]))
                position[partition] += 1
            rejected = data.draw(st.sets(st.integers(0, len(rows) - 1)))
            bad = data.draw(st.sets(st.sampled_from(sorted(rejected)))) if rejected else set()
            sides = data.draw(st.lists(st.integers(0, 2), min_size=len(rows), max_size=len(rows)))
            legs += split(batch(rows, bad=bad, unwritten=rejected - bad), sides)
            for row, place in enumerate(rows):
                if row not in rejected and belongs(place, level):
                    wanted[place] = str(3 + sides[row])
        records = thinned.sample([(leg, ()) for leg in legs], 0.0, NOW_MS)
        told = [decode(value) for value in records.outbound.value] if records is not None else []
        assert len({chunk.version for chunk in told}) == len(told), "one chunk a version"
        for chunk in told:
            assert chunk.reference == REFERENCES[chunk.version]
            assert chunk.role == ("stable" if chunk.version == "3" else "canary")
            fresh, spans = marks.take(chunk)
            assert fresh.all()
            assert all(spans), "marks of a version take every chunk of it"
            for place in places(chunk):
                assert place not in found
                found[place] = chunk.version
            for span in chunk.spans:
                consumed[span.partition] += span.consumed
    assert found == wanted
    assert consumed == Counter({partition: count for partition, count in position.items() if count})


def test_the_load_counts_a_record_once_however_many_versions_answer():
    class Noting(Fixed):
        def next(self, rows, now_s):
            self.rows = rows
            return 0

    noting = sampler()
    noting._levels = Noting(0)
    whole = batch(line(0, 0, 9))
    noting.sample([(leg, ()) for leg in split(whole, [0, 1, 2] * 3)], 0.0, NOW_MS)
    assert noting._levels.rows == 9


def test_a_role_that_changes_within_a_transaction_begins_another_chunk_of_the_version():
    def scored(first, role):
        return batch(line(0, first, 2), model=ModelIdentity(name="delay", version="4", role=role))

    found = chunks(scored(0, "canary"), batch(line(0, 2, 2)), scored(4, "canary"), scored(6, "stable"))
    assert [(chunk.version, chunk.role, [(s.first, s.end, s.consumed) for s in chunk.spans]) for chunk in found] == [
        ("4", "canary", [(0, 6, 4)]),
        ("4", "stable", [(6, 8, 2)]),
        ("3", "stable", [(2, 4, 2)]),
    ]


def test_versions_with_other_outputs_have_columns_of_their_own():
    outputs = {"3": DOUBLE.outputs, "4": (TensorSpec(name="z", dtype="float32", shape=(-1, 1)),)}
    settings = memory_settings([{"name": "x"}], drift={"samples_per_s": "all"})
    both = Sampler.of(
        settings,
        settings.drift,
        lambda version: SampledVersion(outputs=outputs[version]),
        secret=b"",
        partitions=1,
        max_bytes=1 << 20,
        owned_share=lambda: 1.0,
    )
    newer = ModelIdentity(name="delay", version="4", role="canary")
    other = batch(line(0, 2, 2), outputs={"z": np.zeros((2, 1), np.float32)}, model=newer)
    records = both.sample([(batch(line(0, 0, 2)), ()), (other, ())], 0.0, NOW_MS)
    columns = [list(decode(value).columns) for value in records.outbound.value]
    assert columns == [["x", "output.y"], ["x", "output.z"]]


def test_outputs_that_change_their_width_begin_another_chunk():
    def wide(first, count, width):
        return batch(line(0, first, count), outputs={"y": np.zeros((count, width), np.float32)})

    nothing = batch(line(0, 2, 1), outputs={"y": np.zeros((1, 9), np.float32)}, bad={0})
    found = chunks(wide(0, 2, 2), nothing, wide(3, 2, 3), wide(5, 1, 3))
    assert [(chunk.columns["output.y"].shape, chunk.spans[0].first) for chunk in found] == [((2, 2), 0), ((3, 3), 3)]


def test_whole_numbers_with_and_without_gaps_are_one_column():
    (chunk,) = chunks(
        batch(line(0, 0, 2), fields={"x": np.array([1, 2])}),
        batch(line(0, 2, 2), fields={"x": np.array([np.nan, 4.0])}),
        x="int64",
    )
    np.testing.assert_array_equal(chunk.columns["x"], [1, 2, np.nan, 4])


def test_float_features_of_many_batches_are_each_their_own_column():
    names = [f"f{i}" for i in range(5)]

    def wide(first, count, *, bad=()):
        fields = {name: np.arange(count) + first + 100.0 * i for i, name in enumerate(names)}
        return batch(line(0, first, count), fields=fields | {"x": np.ones(count, np.int64)}, bad=bad)

    (chunk,) = chunks(wide(0, 3), wide(3, 4, bad={1, 2}), wide(7, 1), x="int64", more=names)
    assert list(chunk.columns) == ["x", *names, "output.y"]
    for i, name in enumerate(names):
        assert chunk.columns[name].tolist() == [100 * i + offset for offset in chunk.offset]


def test_times_that_are_none_are_kept_within_bounds():
    strange = batch(line(0, 0, 2))
    times = [-(2**63), 2**63 - 1]
    strange.predictions.events.event_time_ms[:] = times
    strange.predictions.events.origin.timestamp_ms[:] = times
    (chunk,) = chunks(strange)
    assert chunk.event_time_ms.tolist() == [-MAX_TIME_MS, MAX_TIME_MS]
    assert chunk.timestamp_ms.tolist() == [-1, MAX_TIME_MS]


def test_texts_that_utf8_cannot_hold_are_written_all_the_same():
    (chunk,) = chunks(
        batch(line(0, 0, 1), fields={"x": ["\ud800"]}), batch(line(0, 1, 2), fields={"x": ["ü", None]}), x="string"
    )
    assert chunk.columns["x"].texts() == ["?", "ü", None]


def test_personal_values_are_hashed_or_not_taken():
    personal = Personal(b"secret", ["id", "x"])
    fields = {"x": ["anna", "anna"], "z": np.zeros(2)}
    pii = {"id": "hash", "key": "drop", "x": "hash", "z": "drop"}
    (chunk,) = chunks(batch(line(0, 0, 2), fields=fields), x="string", more=("z",), pii=pii)
    assert chunk.id == [personal.text("e0"), personal.text("e1")]
    assert chunk.entity == [None, None]
    assert chunk.columns["x"].texts() == [personal.text("anna")] * 2
    assert list(chunk.columns) == ["x", "output.y"]
    (chunk,) = chunks(batch(line(0, 0, 2), fields=fields), x="string", more=("z",), pii={"id": "drop", "key": "hash"})
    assert chunk.id == ["", ""]
    assert chunk.entity == [personal.digest(b"k0").encode(), personal.digest(b"k1").encode()]


@pytest.mark.parametrize(("share", "level"), [(1.0, 4), (0.25, 6)])
def test_the_budget_is_shared_by_the_partitions(share, level):
    budgeted = sampler(samples_per_s=1000, share=share)
    flood = [(batch(line(0, 0, 1200)), ())]
    for number in range(40):
        found = budgeted.sample(flood, number / 10, NOW_MS)  # 12,000 rows a second
    (chunk,) = map(decode, found.outbound.value)
    assert found.level == level
    assert set(chunk.level.tolist()) == {level}
    assert len(chunk) == found.rows
    assert 0 < len(chunk) < 1200 / 2**level * 3


@given(st.lists(st.integers(1, 60), min_size=1, max_size=30), st.integers(0, 12))
def test_consumed_adds_up_exactly_at_every_level(counts, level):
    """Also when no row of a transaction is drawn."""
    thinned = sampler(samples_per_s=1000)
    thinned._levels = Fixed(level)
    position, marks, consumed, rows = 0, Marks(), 0, 0
    for count in counts:
        found = thinned.sample([(batch(line(0, position, count)), ())], 0.0, NOW_MS)
        (chunk,) = map(decode, found.outbound.value)
        new, fresh = marks.take(chunk)
        assert new.all()
        rows += len(chunk)
        consumed += sum(span.consumed for span, first in zip(chunk.spans, fresh, strict=True) if first)
        position += count
    assert consumed == position
    assert rows == len(kept(draws(np.uint64(stream_seed("t", 0)), np.arange(position)), level))


def test_partitions_that_left_are_not_told_of_at_any_level():
    thinned = sampler(samples_per_s=1000)
    thinned._levels = Fixed(12)
    assert thinned.sample([(batch(line(0, 0, 2)).without({TopicPartition("t", 0)}), ())], 0.0, NOW_MS) is None


# -- larger than the topic takes ------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 40), min_size=1, max_size=4), st.integers(800, 4000), st.integers(2, 40))
def test_a_chunk_that_is_too_large_is_cut_and_its_parts_give_every_row_once(lengths, max_bytes, width):
    position, batches, wanted = 0, [], []
    for length in filter(None, lengths):
        rows = line(0, position, length) + line(1, position, length)
        n = len(rows)
        batches.append(batch(rows, fields={"x": ["x" * 9] * n}, outputs={"y": np.ones((n, width), np.float32)}))
        wanted += rows
        position += length
    found = sampled(*batches, max_bytes=max_bytes, x="string")
    if found is None:
        assert not wanted
        return
    marks, taken, consumed = Marks(), [], 0
    for key, value in zip(found.outbound.key, found.outbound.value, strict=True):
        assert len(key) + len(value) <= max_bytes
        chunk = decode(value)
        new, fresh = marks.take(chunk)
        assert new.all()
        taken += places(chunk)
        consumed += sum(span.consumed for span, first in zip(chunk.spans, fresh, strict=True) if first)
    assert taken == wanted
    assert (found.rows, found.left_out) == (len(wanted), 0)
    assert consumed == len(wanted)
    assert marks.to_document()[MODEL.version]["t"] == {"0": position, "1": position}


@pytest.mark.parametrize("at", [0, 3, 7])
def test_a_row_too_large_by_itself_is_left_out_and_counted(at):
    texts = ["x"] * 8
    texts[at] = "x" * 5000
    found = sampled(batch(line(0, 0, 8), fields={"x": texts}), max_bytes=2000, x="string")
    parts = list(map(decode, found.outbound.value))
    assert [place for chunk in parts for place in places(chunk)] == [p for p in line(0, 0, 8) if p[2] != at]
    assert (found.rows, found.left_out) == (7, 1)
    assert sum(span.consumed for chunk in parts for span in chunk.spans) == 8
    assert parts[-1].spans[0].end == 8


def test_what_fits_in_no_way_is_counted_and_nothing_is_written():
    found = sampled(batch(line(0, 0, 8)), max_bytes=50)
    assert (found.rows, found.left_out, len(found.outbound)) == (0, 8, 0)


def test_many_distinct_texts_do_not_follow_every_part():
    """A part holds the values of its own rows, or cutting would never end."""
    texts = [f"{i:0200d}" for i in range(1000)]
    found = sampled(batch(line(0, 0, 1000), fields={"x": texts}), max_bytes=20_000, x="string")
    assert 10 < len(found.outbound) < 40
    assert found.left_out == 0
    parts = map(decode, found.outbound.value)
    assert list(itertools.chain.from_iterable(chunk.columns["x"].texts() for chunk in parts)) == texts
