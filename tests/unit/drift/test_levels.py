"""Levels: nested, unbiased whatever levels the load calls for, and quick to follow the load without flapping."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamserve.drift.chunk import MAX_LEVEL
from streamserve.drift.levels import EveryRow, LoadLevels, draws, kept, stream_seed

BUDGET = 2000.0


def drawn(count: int, *, topic: str = "events", partition: int = 0, start: int = 0):
    return draws(np.uint64(stream_seed(topic, partition)), np.arange(start, start + count))


def test_the_function_is_fixed():
    """Who changes it parts with every sample that was taken before."""
    assert [hex(stream_seed("events", partition)) for partition in (0, 1)] == SEEDS
    assert [hex(value) for value in drawn(3, partition=1)] == DRAWS
    assert kept(drawn(1000, partition=1), 7).tolist() == KEPT


SEEDS = ["0x82a4b1fa96562d8e", "0x9cec3b4d2d9946be"]
DRAWS = ["0xb97c33c091fa0a17", "0x54ef67a270748861", "0xa74cbdaa014aae78"]
KEPT = [236, 286, 312, 696, 759, 866, 882, 936, 997]


def test_it_is_splitmix64():
    """The generator's published first outputs for the seed 1234567, whose first state is seed + gamma."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert draws(np.uint64(1234567), np.arange(1, 5)).tolist() == published


@given(st.integers(0, MAX_LEVEL - 1), st.integers(0, 1 << 50), st.integers(0, 1000))
def test_every_row_of_a_level_is_one_of_the_level_below(level, start, partition):
    values = drawn(2000, start=start, partition=partition)
    assert set(kept(values, level + 1)) <= set(kept(values, level))


def test_level_zero_has_every_row():
    assert kept(drawn(5), 0).tolist() == [0, 1, 2, 3, 4]
    assert EveryRow().next(10**9, 0.0) == 0


@pytest.mark.parametrize("level", [1, 3, 6, 9])
def test_a_level_keeps_its_share(level):
    n, share = 1 << 20, 2.0**-level
    bound = 5 * (n * share * (1 - share)) ** 0.5
    assert abs(len(kept(drawn(n), level)) - n * share) < bound


def test_partitions_and_topics_keep_different_rows():
    """Of two independent streams as many rows agree as chance has it."""
    n, level = 1 << 18, 4
    mine = np.zeros(n, dtype=bool)
    mine[kept(drawn(n), level)] = True
    for other in (drawn(n, partition=1), drawn(n, topic="events2")):
        both = mine[kept(other, level)].sum()
        expected = n * 4.0**-level
        assert abs(both - expected) < 5 * expected**0.5


def test_neighbours_are_independent():
    """Rows of a partition in a row: the share kept after one that was kept is the level's."""
    n, level = 1 << 20, 3
    mask = np.zeros(n, dtype=bool)
    mask[kept(drawn(n), level)] = True
    for lag in (1, 2, 64):
        pairs = int((mask[lag:] & mask[:-lag]).sum())
        expected = (n - lag) * 4.0**-level
        assert abs(pairs - expected) < 5 * expected**0.5


@pytest.mark.parametrize("seed", range(4))
def test_weighted_counts_are_unbiased_for_any_sequence_of_levels(seed):
    """Each row of level k counts 2^k. Over many topics (the hash's only randomness) the mean is the truth."""
    random = np.random.default_rng(seed)
    n, rounds = 2000, 400
    levels = np.repeat(random.integers(0, 7, n // 50), 50)  # the load changes every 50 rows
    marked = random.random(n) < 0.2  # the rows whose number is wanted
    estimates = []
    for number in range(rounds):
        values = drawn(n, topic=f"{seed}.{number}", start=int(random.integers(0, 1 << 40)))
        keep = values < np.left_shift(np.uint64(1), (np.uint64(63) - levels.astype(np.uint64))) * np.uint64(2)
        keep |= levels == 0
        estimates.append(float((np.ldexp(1.0, levels) * keep * marked).sum()))
    variance = float(((np.ldexp(1.0, levels) - 1) * marked).sum()) / rounds
    assert abs(np.mean(estimates) - marked.sum()) < 4 * variance**0.5


# -- following the load --------------------------------------------------------------------------------------------


class Load:
    """Batches of a load, and the levels they got."""

    def __init__(self, budget=BUDGET, seed=1):
        self.levels = LoadLevels(lambda: budget)
        self.now_s = 0.0
        self.seen: list[tuple[float, int, int]] = []
        self._random = np.random.default_rng(seed)

    def run(self, rate, seconds, *, every_s=0.005):
        """Poisson arrivals at `rate`, taken about every `every_s`."""
        until = self.now_s + seconds
        while self.now_s < until:
            step = every_s * self._random.uniform(0.5, 1.5)
            self.now_s += step
            rows = int(self._random.poisson(rate * step))
            if rows:
                self.seen.append((self.now_s, rows, self.levels.next(rows, self.now_s)))
        return self

    def since(self, began_s):
        return [(rows, level) for at_s, rows, level in self.seen if at_s >= began_s]

    def yielded(self, began_s):
        """Sampled rows a second since then."""
        return sum(rows / 2**level for rows, level in self.since(began_s)) / (self.now_s - began_s)

    def changes(self, began_s):
        levels = [level for _, level in self.since(began_s)]
        return sum(a != b for a, b in itertools.pairwise(levels))


@pytest.mark.parametrize("rate", [1, 50, 1000, 1900, 2000])
def test_within_the_budget_every_row_is_sampled(rate):
    load = Load().run(rate, 30)
    assert {level for _, level in load.since(0)} == {0}


@pytest.mark.parametrize("rate", [2600, 5000, 9000, 60_000, 190_000, 1_000_000])
def test_the_yield_is_about_the_budget_at_any_load(rate):
    load = Load().run(rate, 12)
    assert 0.5 * BUDGET * 0.95 < load.yielded(2) < 1.25 * BUDGET * 1.05


@pytest.mark.parametrize("every_s", [0.001, 0.02, 0.25])
@pytest.mark.parametrize("factor", [1.0, 1.1, 1.24, 1.5, 2.0, 2.2, 3.9, 4.0, 47.0, 64.0])
def test_a_steady_load_has_a_steady_level(factor, every_s):
    load = Load().run(BUDGET * factor, 40, every_s=every_s)
    assert load.changes(3) <= 2


@pytest.mark.parametrize(("before", "after"), [(1500, 15_000), (15_000, 150_000), (15_000, 1500), (150_000, 15_000)])
def test_a_tenfold_change_is_followed_within_about_two_seconds(before, after):
    load = Load().run(before, 10).run(after, 10)
    settled = load.seen[-1][2]
    assert {level for _, level in load.since(12.2)} == {settled}
    steady = Load(seed=2).run(after, 10)
    assert abs(settled - steady.seen[-1][2]) <= 1
    if after <= BUDGET:
        assert settled == 0


def test_a_flood_after_quiet_yields_a_few_seconds_worth_at_most():
    load = Load().run(1, 30)
    began_s = load.now_s
    load.run(500_000, 1)
    assert load.yielded(began_s) < 10 * BUDGET


def test_a_backlog_in_large_slow_batches_keeps_to_the_budget():
    load = Load()
    for _ in range(20):
        load.now_s += 0.7
        load.seen.append((load.now_s, 65_536, load.levels.next(65_536, load.now_s)))
    assert load.yielded(2) < 1.5 * BUDGET


def test_half_the_partitions_have_half_the_budget():
    whole, half = Load(BUDGET).run(100_000, 10), Load(BUDGET / 2).run(50_000, 10)
    assert whole.seen[-1][2] == half.seen[-1][2]


def test_levels_have_an_end():
    assert LoadLevels(lambda: 1e-9).next(1 << 16, 0.0) == MAX_LEVEL
