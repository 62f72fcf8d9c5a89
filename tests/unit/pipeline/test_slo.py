"""How much a batch may hold when its records have a latency goal, and when throughput counts alone."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from streamserve.batch import EventBatch
from streamserve.pipeline.batcher import Batcher
from streamserve.pipeline.latency_model import LatencyModel
from streamserve.pipeline.lateness import OUTCOMES, Lateness
from streamserve.pipeline.slo import SloPlanner
from streamserve.telemetry.logs import Log
from streamserve.telemetry.versions import VersionMetrics
from streamserve.testing import ManualClock
from tests.chunks import chunk

NOW_MS = 1_700_000_000_000
MS = 0.001


class Scene:
    """A planner with a goal of 100 ms on a model of 1 ms a row and 1 ms a batch, commits of 20 ms."""

    def __init__(self, *, slo_s=0.1, catch_up_lag_s=5.0, max_rows=512, warmed=((1, 2 * MS), (64, 65 * MS))):
        self.clock = ManualClock(now_s=50, epoch_ms=NOW_MS)
        self.registry = CollectorRegistry()
        self.log = io.StringIO()
        self.planner = SloPlanner(
            slo_s=slo_s,
            catch_up_lag_s=catch_up_lag_s,
            max_rows=max_rows,
            clock=self.clock,
            metrics=VersionMetrics(self.registry, pipeline="p", model="m", version="1"),
            log=Log.open(stream=self.log, format="json"),
        )
        self.deployment = SimpleNamespace(routes=[SimpleNamespace(model=SimpleNamespace(warmed=warmed))])
        if warmed:
            self.planner.scored(self.deployment, 0, 0.0)

    def rows(self, age_s):
        """Bound of a batch whose oldest record is so old."""
        now_s = self.clock.monotonic_s()
        due_s = self.planner.due_s(aged(int(NOW_MS + 1000 * (now_s - 50) - 1000 * age_s)))
        return self.planner.rows(due_s, now_s)

    def told(self):
        return [json.loads(line)["event"] for line in self.log.getvalue().splitlines()]

    def gauge(self):
        labels = {"pipeline": "p", "model": "m", "version": "1"}
        return self.registry.get_sample_value("streamserve_catching_up", labels)


def aged(*timestamps_ms):
    return replace(chunk(len(timestamps_ms), polled_s=50), timestamp_ms=list(timestamps_ms))


def test_what_the_oldest_record_has_left_after_the_commit_bounds_the_batch():
    scene = Scene()
    assert scene.rows(0.0) == 79  # 100 - 20 = 80 ms: 79 rows of 1 ms and 1 ms
    assert scene.rows(0.020) in {58, 59}
    assert scene.rows(0.039) in {39, 40}


def test_past_half_of_the_goal_throughput_counts_because_it_gets_records_out_of_a_queue():
    scene = Scene()
    best = scene.rows(0.041)
    assert best > 79
    assert scene.rows(0.5) == scene.rows(4.0) == best


def test_no_deadline_takes_a_batch_below_four_fifths_of_the_throughput():
    scene = Scene(warmed=((1, 21 * MS), (64, 84 * MS)))  # 1 ms a row, 20 ms a batch
    line = LatencyModel(((1, 21 * MS), (64, 84 * MS))).line
    assert line.rows_within(0.080) == 60
    rows = scene.rows(0.0)
    assert rows > 60
    assert rows / line.typical_s(rows) == pytest.approx(0.8 * 512 / line.typical_s(512), rel=0.02)


def test_beyond_the_lag_it_is_said_once_that_it_catches_up():
    scene = Scene()
    scene.rows(4.9)
    assert (scene.told(), scene.gauge()) == ([], 0)
    scene.rows(5.1)
    assert scene.rows(7.0) == scene.rows(0.0) == scene.rows(0.041)  # fresh records of other partitions too
    assert (scene.told(), scene.gauge()) == (["catching_up"], 1)


def test_catching_up_ends_when_nothing_was_late_for_a_second_not_at_the_first_fresh_record():
    scene = Scene()
    scene.rows(6.0)
    scene.clock.advance(0.9)
    assert scene.rows(0.01) > 79  # a fresh record of another partition
    scene.rows(0.2)
    scene.clock.advance(0.9)
    assert scene.rows(0.01) > 79
    scene.clock.advance(0.2)
    assert scene.rows(0.01) == 69
    assert (scene.told(), scene.gauge()) == (["catching_up", "caught_up"], 0)


def test_at_the_end_of_the_topic_nothing_is_behind():
    scene = Scene()
    scene.rows(6.0)
    scene.planner.at_end()
    scene.planner.at_end()
    assert (scene.planner.catching_up, scene.told(), scene.gauge()) == (False, ["catching_up", "caught_up"], 0)


def test_a_goal_longer_than_the_lag_moves_the_lag():
    scene = Scene(slo_s=10, catch_up_lag_s=5)
    scene.rows(15)
    assert not scene.planner.catching_up
    scene.rows(21)
    assert scene.planner.catching_up


@pytest.mark.parametrize("stamp", [-1, 0, NOW_MS // 1000, NOW_MS + 60_000])
def test_an_implausible_timestamp_counts_from_the_poll(stamp):
    scene = Scene()
    due_s = scene.planner.due_s(aged(stamp))
    assert due_s == pytest.approx(50.1)


def test_implausible_timestamps_do_not_hide_the_old_ones_beside_them():
    due_s = Scene().planner.due_s(aged(-1, NOW_MS - 50, NOW_MS + 9_000, NOW_MS - 20))
    assert due_s == pytest.approx(50.05)


def test_the_window_starts_at_the_records_time_not_when_the_engine_is_free():
    """TorchServe #2478: there the window starts when a worker looks, however long the first request has waited."""
    scene = Scene()
    batcher = Batcher(max_size=512, max_bytes=1 << 20, max_delay_s=0.02, capacity=2048, planner=scene.planner)
    batcher.add(aged(NOW_MS - 10))
    scene.clock.advance(0.015)
    assert batcher.ready_in_s(scene.clock.monotonic_s()) == pytest.approx(0.005)
    scene.clock.advance(0.010)
    assert batcher.ready_in_s(scene.clock.monotonic_s()) == 0


def test_nobody_waits_for_company_beyond_the_deadline():
    scene = Scene()
    batcher = Batcher(max_size=512, max_bytes=1 << 20, max_delay_s=60, capacity=2048, planner=scene.planner)
    batcher.add(aged(NOW_MS - 10))
    # 90 ms left, 20 for the commit, 40 for the second half
    assert batcher.ready_in_s(50.0) == pytest.approx(0.030)
    assert batcher.ready_in_s(50.031) == 0


def test_a_batch_closes_at_its_deadline_with_that_reason_and_the_rest_is_next():
    scene = Scene()
    batcher = Batcher(max_size=512, max_bytes=1 << 20, max_delay_s=0, capacity=2048, planner=scene.planner)
    batcher.add(aged(*[NOW_MS] * 200))
    taken = [batcher.take(50.0) for _ in range(3)]
    assert [(len(records), reason) for records, reason in taken] == [(79, "deadline"), (79, "deadline"), (42, "idle")]


def test_an_older_chunk_behind_tightens_the_bound_before_it_joins():
    scene = Scene()
    batcher = Batcher(max_size=512, max_bytes=1 << 20, max_delay_s=0, capacity=2048, planner=scene.planner)
    batcher.add(aged(*[NOW_MS] * 10))
    batcher.add(aged(*[NOW_MS - 30] * 100))  # their bound is 49
    assert [len(batcher.take(50.0)[0]) for _ in range(3)] == [49, 49, 12]


def test_a_preferred_size_is_never_exceeded_by_one_or_undercut_when_more_is_there():
    """Triton #8141 (preferred size + 1) and #3624 (smaller batches than what waits)."""
    batcher = Batcher(max_size=8, max_bytes=1 << 20, max_delay_s=0, capacity=32)
    for at in range(0, 33, 3):
        batcher.add(chunk(3, start=at))
    assert [len(batcher.take(0)[0]) for _ in range(5)] == [8, 8, 8, 8, 1]


@given(st.integers(1, 64))
def test_the_queue_in_front_always_holds_a_full_batch(size):
    """Ray Serve #43288: by default no more requests get in than half a batch needs."""
    batcher = Batcher(max_size=size, max_bytes=1 << 20, max_delay_s=3600, capacity=4 * size)
    while not batcher.full:
        batcher.add(chunk(1))
    assert batcher.ready_in_s(0) == 0
    assert len(batcher.take(0)[0]) == size


def test_without_any_timing_the_largest_batch_bounds():
    assert Scene(warmed=()).rows(0.0) == 512


def test_the_commits_allowance_is_what_commits_take_but_leaves_the_batch_half():
    scene = Scene()
    for _ in range(64):
        scene.planner.committed(0.040)
    assert scene.rows(0.0) == 59
    for _ in range(64):
        scene.planner.committed(3.0)
    assert scene.rows(0.0) == 49
    assert scene.planner.least_s == pytest.approx(3.002)


@pytest.mark.parametrize("policy", ["process", "dead_letter", "fallback"])
def test_a_goal_shorter_than_a_commit_drains_no_topic(policy):
    scene = Scene(slo_s=0.05)
    lateness = Lateness(policy, scene.planner, scene.clock)
    batch = decoded(aged(NOW_MS, NOW_MS - 1000, NOW_MS + 5))
    for _ in range(64):
        scene.planner.committed(0.060)
    for _ in range(3):
        admission = lateness.admit(batch)
        assert (admission.events, list(admission.rejects), admission.fallback) == (batch, [], None)
        assert admission.late == ("processed", [0, 1, 2])
    assert scene.told() == ["slo_out_of_reach"]
    for _ in range(64):
        scene.planner.committed(0.010)
    assert lateness.admit(batch).late == (OUTCOMES[policy], [1])


def decoded(records):
    n = len(records)
    return EventBatch(
        origin=records,
        row=list(range(n)),
        id=[""] * n,
        entity=[None] * n,
        event_time_ms=records.timestamp_ms,
        fields={},
    )


def test_commits_of_the_large_transactions_of_catching_up_are_not_counted():
    scene = Scene()
    scene.rows(6.0)
    scene.planner.committed(3.0)
    assert scene.planner.least_s == pytest.approx(0.022)


def test_another_version_is_learnt_anew_from_its_own_warm_up():
    scene = Scene()
    scene.planner.scored(replace_model(scene, ((1, 5 * MS), (64, 320 * MS))), 0, 0.0)
    assert scene.rows(0.0) == 16


def replace_model(scene, warmed):
    return SimpleNamespace(routes=[SimpleNamespace(model=SimpleNamespace(warmed=warmed))])


@settings(deadline=None, max_examples=50)
@given(
    st.floats(-10, 100),
    st.lists(st.tuples(st.integers(1, 600), st.floats(1e-5, 10)), max_size=30),
    st.lists(st.floats(0, 10), max_size=10),
)
def test_a_plan_is_always_a_batch(age_s, batches, commits):
    scene = Scene()
    for rows, seconds in batches:
        scene.planner.scored(scene.deployment, rows, seconds)
    for seconds in commits:
        scene.planner.committed(seconds)
    assert 1 <= scene.rows(age_s) <= 512
