"""Bins, cells, profiles and windows: counts that add up, whatever the order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamserve.config.drift_settings import LabelSettings, SegmentSettings
from streamserve.drift.bins import all_known, categories_of, centers_of, count_cells, edges_of
from streamserve.drift.cells import CLASS, CONFIDENCE, Cells, derived, watched
from streamserve.drift.chunk import Span, TextColumn
from streamserve.drift.gathered import Gathered, Rows
from streamserve.drift.profile import Moments, Profile
from streamserve.drift.reference import ColumnReference
from streamserve.drift.schema import BINS, CELLS, MISSING, OTHER, UNSEEN
from streamserve.drift.segments import ALL, Segments
from streamserve.drift.timeline import FUTURE_SLACK_MS, RESET_ROWS, Timeline
from streamserve.drift.windows import Ring, stride_panes


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=400))
@example([1e6, 999_999.9999999999])  # neighbours: their middle rounds to the upper one
def test_edges_ascend_and_every_bin_holds_a_value(values):
    edges = edges_of(np.array(values))
    assert len(edges) < BINS
    assert (np.diff(edges) > 0).all()
    counts = np.bincount(np.searchsorted(edges, values), minlength=len(edges) + 1)
    assert (counts > 0).all()


def test_bins_of_a_continuous_number_hold_equal_shares():
    values = np.random.default_rng(1).normal(size=64_000)
    counts = np.bincount(np.searchsorted(edges_of(values), values))
    assert len(counts) == BINS
    assert counts.min() >= 1990
    assert counts.max() <= 2010


def test_a_heavy_value_has_a_bin_of_its_own_and_the_rest_is_divided_evenly():
    rng = np.random.default_rng(2)
    values = np.where(rng.random(50_000) < 0.9, 0.0, rng.exponential(size=50_000))
    place = np.searchsorted(edges_of(values), values)
    assert len(np.unique(place[values == 0])) == 1
    assert set(place[values == 0]).isdisjoint(place[values > 0])
    rest = np.bincount(place[values > 0])[1:]
    assert len(rest) == BINS - 1
    assert rest.max() <= rest.min() * 1.2


def test_few_distinct_values_get_a_bin_each():
    values = np.repeat([1.0, 2.0, 5.0], [10, 1, 300])
    assert edges_of(values).tolist() == [1.5, 3.5]
    assert centers_of(values, edges_of(values))[:3].tolist() == [1, 2, 5]


def test_the_most_frequent_categories_have_cells_and_the_others_are_known():
    counts = {f"c{i}": 100 - i for i in range(40)}
    top, known = categories_of(counts)
    assert top == tuple(f"c{i}" for i in range(32))
    assert known == tuple(f"c{i}" for i in range(32, 40))


def test_names_beyond_them_that_occur_once_count_as_unseen():
    counts = {**{f"c{i}": 9 for i in range(33)}, **{f"once{i}": 1 for i in range(5)}}
    top, known = categories_of(counts)
    assert len(top) == 32
    assert known == ("c9",)
    assert all_known(counts)
    column = ColumnReference(
        name="x", kind="categorical", origin="feature", counts=[0] * CELLS, categories=list(top), known=list(known)
    )
    texts = TextColumn.of(["c0", "c9", "once1", "new"])
    assert Cells((column,)).of({"x": texts}, 4)[0][:, 0].tolist() == [0, OTHER, UNSEEN, UNSEEN]


NUMBER = ColumnReference(name="x", kind="numeric", origin="feature", counts=[0] * CELLS, edges=[0.0, 1.0])
COLOUR = ColumnReference(
    name="colour", kind="categorical", origin="feature", counts=[0] * CELLS, categories=["red", "blue"], known=["pink"]
)


def test_every_value_falls_into_one_cell():
    cells = Cells((NUMBER, COLOUR))
    columns = {
        "x": np.array([-5.0, 0.0, 0.5, 9.0, np.nan, np.inf]),
        "colour": TextColumn.of(["red", "blue", "pink", "green", None, "red"]),
    }
    codes, values = cells.of(columns, 6)
    assert codes[:, 0].tolist() == [0, 0, 1, 2, MISSING, UNSEEN]
    assert codes[:, 1].tolist() == [0, 1, OTHER, UNSEEN, MISSING, 0]
    assert np.isnan(values[4:, 0]).all()


def test_a_column_that_is_gone_is_missing_and_one_of_another_type_is_unseen():
    cells = Cells((NUMBER, COLOUR))
    assert cells.of({}, 2)[0].tolist() == [[MISSING, MISSING]] * 2
    columns = {"x": TextColumn.of(["a", None]), "colour": np.array([1.0, np.nan])}
    assert cells.of(columns, 2)[0].tolist() == [[UNSEEN, UNSEEN], [MISSING, MISSING]]


def test_elements_of_a_vector_are_columns_of_their_own():
    vector = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert [column.name for column in watched({"v": vector})] == ["v[0]", "v[1]", "v[2]"]
    columns = tuple(
        ColumnReference(name=f"v[{i}]", kind="numeric", origin="feature", counts=[0] * CELLS, edges=[2.5])
        for i in range(3)
    )
    assert Cells(columns).of({"v": vector}, 2)[0].tolist() == [[0, 0, 0], [1, 1, 1]]


def test_class_and_confidence_follow_from_the_outputs():
    found = derived({"output.p": np.array([[0.1, 0.9], [0.7, 0.3]], np.float32)}, None)
    assert found[CLASS].texts() == ["1", "0"]
    assert found[CONFIDENCE].tolist() == pytest.approx([0.9, 0.7])
    labels = LabelSettings(output="p", threshold=0.5)
    found = derived({"output.p": np.array([0.2, 0.5])}, labels)
    assert found[CLASS].texts() == ["0", "1"]
    assert found[CONFIDENCE].tolist() == pytest.approx([0.8, 0.5])


@given(st.integers(0, 2**32), st.integers(1, 60), st.integers(1, 6))
def test_profiles_of_parts_add_up_to_that_of_the_whole(seed, rows, parts):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, CELLS, (rows, 3))
    level = rng.integers(0, 4, rows)
    whole = Profile.of(codes, level)
    split = Profile.empty(3)
    where = rng.integers(0, parts, rows)
    for part in rng.permutation(parts):
        split.add(Profile.of(codes[where == part], level[where == part]))
    assert (split.counts == whole.counts).all()
    assert (split.rows, split.weight, split.level) == (whole.rows, whole.weight, whole.level)
    assert (whole.counts.sum(axis=1) == whole.weight).all()


def test_moments_of_parts_merge_to_those_of_the_whole():
    rng = np.random.default_rng(3)
    values = rng.normal(1e6, 2.0, (1000, 2))
    values[::7, 1] = np.nan
    merged = Moments.empty(2)
    for part in np.array_split(values, 7):
        merged.merge(Moments.of(part, np.ones(len(part))))
    assert merged.mean == pytest.approx(np.nanmean(values, axis=0), rel=1e-12)
    assert merged.std == pytest.approx(np.nanstd(values, axis=0), rel=1e-9)


def test_an_hour_is_looked_at_as_often_as_a_minute_in_its_length():
    assert [stride_panes(w, 10) for w in (10, 60, 600, 3600, 70)] == [1, 1, 6, 36, 1]


class Total:
    def __init__(self, n: int) -> None:
        self.n = n

    def add(self, other: Total) -> None:
        self.n += other.n


def test_a_window_holds_its_slots_and_late_rows_until_they_leave():
    ring: Ring[Total] = Ring(60, 10)
    for slot in range(20):
        assert ring.add(slot, Total(1), slot)
    assert [part.n for part in ring.window(19)] == [1] * 6
    assert ring.add(15, Total(5), 19)
    assert sum(part.n for part in ring.window(19)) == 11
    assert not ring.add(10, Total(1), 19)
    assert not ring.add(29, Total(1), 19)
    assert ring.filled(17, 30) == [18, 19]


def rows(times, columns, offsets=None, level=0):
    n = len(times)
    return Rows(
        columns=columns,
        event_time_ms=np.array(times, dtype=np.int64),
        level=np.full(n, level, dtype=np.int64),
        span=np.zeros(n, dtype=np.int64),
        offset=np.arange(n) if offsets is None else np.array(offsets),
        spans=(Span("t", 3, 0, 1000, n),),
        id=[str(i) for i in range(n)],
    )


class Columns:
    columns = (NUMBER, COLOUR)


def test_rows_are_gathered_by_time_and_segment():
    segments = Segments([SegmentSettings(feature="colour", values=["red"])], (NUMBER, COLOUR))
    assert segments.names == [ALL, "colour=red"]
    gathered = Gathered(Columns, segments, 10, [20, 40])
    times = [0, 5_000, 15_000, 25_000]
    columns = {"x": np.array([1.0, 2, 3, 4]), "colour": TextColumn.of(["red", "blue", "red", "red"])}
    gathered.add(rows(times, columns, [7, 8, 9, 12]), 25_000)
    whole = gathered.window(20, ALL, 1)
    assert whole.profile.rows == 3
    assert whole.span_document() == {"t": {"3": [7, 10]}}
    assert whole.moments.mean[0] == pytest.approx(2.0)
    assert gathered.window(20, "colour=red", 1).profile.rows == 2
    assert gathered.window(40, "colour=red", 2).profile.rows == 3


def test_numbers_with_few_values_make_segments_too():
    column = ColumnReference(
        name="x", kind="numeric", origin="feature", counts=[5, 9, *[0] * (CELLS - 2)], edges=[0.5], centers=[0.0, 1.0]
    )
    segments = Segments([SegmentSettings(feature="x", top=2, protected=True)], (column,))
    assert segments.names == [ALL, "x=1", "x=0"]
    assert segments.protected == [["x=1", "x=0"]]
    found = dict(segments.of({"x": np.array([0.0, 1.0, 1.0, np.nan])}, 4))
    assert found["x=1"].tolist() == [1, 2]


HOUR = 3_600_000


def test_one_wrong_clock_does_not_move_the_watermark():
    timeline = Timeline(horizon_ms=HOUR)
    times = np.full(100, 10 * HOUR)
    times[3] = 10**15
    keep, back = timeline.accept(times, wall_ms=10 * HOUR)
    assert keep.sum() == 99
    assert (timeline.watermark_ms, timeline.future, back) == (10 * HOUR, 1, False)


def test_rows_older_than_the_horizon_are_late_and_a_gap_is_none():
    timeline = Timeline(horizon_ms=HOUR)
    timeline.accept(np.array([0]), 0)
    assert timeline.accept(np.full(30, 50 * HOUR), 50 * HOUR)[0].all()
    keep, _ = timeline.accept(np.array([50 * HOUR, 48 * HOUR]), 50 * HOUR)
    assert keep.tolist() == [True, False]
    assert timeline.late == 1


def test_a_watermark_that_ran_ahead_starts_again_where_the_stream_is():
    timeline = Timeline(horizon_ms=HOUR)
    timeline.accept(np.array([1000 * HOUR]), 1000 * HOUR)
    went_back = [timeline.accept(np.full(100, 10 * HOUR), 1000 * HOUR)[1] for _ in range(RESET_ROWS // 100)]
    assert went_back == [False] * 9 + [True]
    assert timeline.watermark_ms == 10 * HOUR
    assert timeline.accept(np.array([10 * HOUR]), 1000 * HOUR)[0].all()


def test_a_small_chunk_ahead_of_time_does_not_move_the_watermark():
    timeline = Timeline(horizon_ms=HOUR)
    for i in range(40):
        timeline.accept(np.array([10 * HOUR + i * 1000]), 10 * HOUR)
    timeline.accept(np.full(4, 10 * HOUR + 3_000_000), 10 * HOUR)
    assert timeline.watermark_ms - 10 * HOUR <= 40_000


def test_a_time_beyond_the_clock_is_refused():
    timeline = Timeline(horizon_ms=HOUR)
    keep, _ = timeline.accept(np.array([FUTURE_SLACK_MS + 1]), 0)
    assert not keep.any()
    assert timeline.watermark_ms is None


def test_counts_are_those_of_a_loop():
    rng = np.random.default_rng(4)
    codes = rng.integers(0, 5, (50, 2))
    weights = 2 ** rng.integers(0, 3, 50)
    counts = count_cells(codes, 2, 5, weights)
    for f in range(2):
        for c in range(5):
            assert counts[f, c] == weights[codes[:, f] == c].sum()
