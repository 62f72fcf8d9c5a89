"""Batching under a latency goal, simulated: one engine, arrivals by chance, a clock that is moved by hand.

What is compared is the share of records within the goal of 50 ms, with the planner and without (batches of whatever has
gathered). Nothing here depends on the machine.
"""

from __future__ import annotations

import io
from types import SimpleNamespace

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from streamserve.batch import RecordBatch
from streamserve.pipeline.batcher import Batcher
from streamserve.pipeline.slo import SloPlanner
from streamserve.telemetry.logs import Log
from streamserve.telemetry.versions import VersionMetrics
from streamserve.testing import ManualClock

GOAL_S = 0.05
COMMIT_S = 0.018
MOST = 512
EPOCH_MS = 1_700_000_000_000
SIZES = [1, 4, 16, 64, 256, 512]


class Simulation:
    """A model that takes `row_s * n + batch_s`, a tenth of noise on it."""

    def __init__(self, row_s, batch_s, *, planned=True, seed=1):
        self.row_s, self.batch_s = row_s, batch_s
        self.random = np.random.default_rng(seed)
        self.clock = ManualClock(epoch_ms=EPOCH_MS)
        self.log = io.StringIO()
        self.planner = self.planning() if planned else None
        self.batcher = Batcher(max_size=MOST, max_bytes=1 << 30, max_delay_s=0, capacity=4 * MOST, planner=self.planner)
        self.capacity = MOST / (row_s * MOST + batch_s)
        self.done_s, self.latency_s = [], []

    def planning(self):
        planner = SloPlanner(
            slo_s=GOAL_S,
            catch_up_lag_s=5,
            max_rows=MOST,
            clock=self.clock,
            metrics=VersionMetrics(CollectorRegistry(), pipeline="p", model="m", version="1"),
            log=Log.open(stream=self.log, format="json"),
        )
        warmed = [(n, self.row_s * n + self.batch_s) for n in SIZES]
        self.deployment = SimpleNamespace(routes=[SimpleNamespace(model=SimpleNamespace(warmed=warmed))])
        planner.scored(self.deployment, 0, 0.0)
        return planner

    def run(self, load, *, seconds=3, burst=1, stall=(0.0, 0.0)):
        """Work off arrivals at a share of the capacity, `burst` at a time; stand still once."""
        bursts = int(load * self.capacity * seconds / burst)
        arrivals = np.cumsum(self.random.exponential(seconds / bursts, bursts)).repeat(burst).tolist()
        at, stall_at_s, now_s = 0, stall[0] or np.inf, self.clock.monotonic_s
        while at < len(arrivals) or len(self.batcher):
            if now_s() >= stall_at_s:
                self.clock.advance(stall[1])
                stall_at_s = np.inf
            polled = int(np.searchsorted(arrivals, now_s(), side="right"))
            while at < polled and not self.batcher.full:
                stop = min(polled, at + MOST)
                self.batcher.add(self.records(arrivals, at, stop))
                at = stop
            if len(self.batcher):
                self.infer(arrivals)
            else:
                self.clock.advance(arrivals[at] - now_s() + 1e-6)
        return self

    def records(self, arrivals, start, stop):
        n = stop - start
        return RecordBatch(
            topic=["t"] * n,
            partition=[0] * n,
            offset=list(range(start, stop)),
            timestamp_ms=[int(EPOCH_MS + 1000 * at_s) for at_s in arrivals[start:stop]],
            key=[None] * n,
            value=[b""] * n,
            polled_s=self.clock.monotonic_s(),
        )

    def infer(self, arrivals):
        records, _ = self.batcher.take(self.clock.monotonic_s())
        took_s = (self.row_s * len(records) + self.batch_s) * max(0.3, 1 + 0.1 * self.random.standard_normal())
        self.clock.advance(float(took_s))
        if self.planner is not None:
            self.planner.scored(self.deployment, len(records), float(took_s))
            self.planner.committed(COMMIT_S)
        done_s = self.clock.monotonic_s() + COMMIT_S
        self.done_s += [done_s] * len(records)
        self.latency_s += [done_s - arrivals[row] for row in records.offset]

    @property
    def within(self):
        return float(np.mean(np.array(self.latency_s) <= GOAL_S))


def both(row_s, batch_s, load, **more):
    return [Simulation(row_s, batch_s, planned=planned).run(load, **more).within for planned in (True, False)]


@pytest.mark.parametrize(("row_s", "batch_s"), [(2e-3, 1e-3), (0.25e-3, 1e-3), (0.25e-3, 5e-3)])
def test_at_half_of_the_capacity_all_but_everything_is_within_the_goal(row_s, batch_s):
    assert Simulation(row_s, batch_s).run(0.5).within > 0.99


def test_so_it_is_at_four_fifths_when_batches_are_cheap():
    assert Simulation(0.25e-3, 1e-3).run(0.8).within > 0.99


@pytest.mark.parametrize("load", [0.5, 0.8])
@pytest.mark.parametrize(("row_s", "batch_s"), [(2e-3, 1e-3), (0.25e-3, 1e-3), (0.25e-3, 5e-3), (1e-3, 8e-3)])
def test_planning_never_costs_what_growing_freely_would_have_kept(row_s, batch_s, load):
    planned, free = both(row_s, batch_s, load)
    assert planned > free - 0.02


@pytest.mark.parametrize(("row_s", "batch_s", "burst"), [(0.25e-3, 1e-3, 200), (0.25e-3, 3e-3, 180)])
def test_bursts_that_no_batch_can_swallow_in_time_are_served_as_far_as_time_allows(row_s, batch_s, burst):
    planned, free = both(row_s, batch_s, 0.3, burst=burst)
    assert planned > 1.5 * free


def test_after_a_stall_it_catches_up_and_keeps_the_goal_again():
    simulation = Simulation(2e-3, 1e-3).run(0.5, seconds=40, stall=(5.0, 10.0))
    done_s, latency_s = np.array(simulation.done_s), np.array(simulation.latency_s)
    assert (latency_s > GOAL_S).any()
    assert (latency_s[done_s > 30] <= GOAL_S).mean() > 0.99
    assert simulation.log.getvalue().count('"catching_up"') == 1
    assert simulation.log.getvalue().count('"caught_up"') == 1
