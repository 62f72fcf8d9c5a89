"""The confidence sequence of an experiment: it holds at every look, also when rows of a key hang together."""

from __future__ import annotations

import numpy as np
import pytest

from streamserve.rollout.experiment import LEAST_ROWS, ArmTally, boundary, compare

ALPHA = 0.05


def tally(outcomes, keys=None):
    made = ArmTally()
    made.add(keys or [b"%d" % i for i in range(len(outcomes))], np.asarray(outcomes, dtype=np.float64))
    return made


def missed(rng, *, rows, share, looks, rates, runs):
    """Share of runs in which the interval misses the true difference at any look, and the same of a fixed 95 %."""
    arm = rng.random((runs, rows)) < share
    outcome = (rng.random((runs, rows)) < np.where(arm, rates[1], rates[0])).astype(float)
    n1, s1 = np.cumsum(arm, axis=1)[:, looks], np.cumsum(arm * outcome, axis=1)[:, looks]
    n0, s0 = np.cumsum(~arm, axis=1)[:, looks], np.cumsum(~arm * outcome, axis=1)[:, looks]
    p1, p0 = s1 / np.maximum(n1, 1), s0 / np.maximum(n0, 1)
    error = np.sqrt(p1 * (1 - p1) / np.maximum(n1 - 1, 1) + p0 * (1 - p0) / np.maximum(n0 - 1, 1))
    off = np.abs(p1 - p0 - (rates[1] - rates[0]))
    spoken = (n1 >= LEAST_ROWS) & (n0 >= LEAST_ROWS)
    reach = boundary((n1 + n0).astype(float), alpha=ALPHA, expected_rows=5000)
    return (spoken & (off > reach * error)).any(axis=1).mean(), (spoken & (off > 1.96 * error)).any(axis=1).mean()


@pytest.mark.parametrize(
    ("share", "rates"), [(0.5, (0.2, 0.2)), (0.5, (0.1, 0.13)), (0.1, (0.2, 0.2)), (0.5, (0.02, 0.02))]
)
def test_it_holds_at_every_look_where_a_fixed_interval_does_not(share, rates):
    looks = np.arange(200, 20_000, 50)
    rng = np.random.default_rng(17)
    ours, fixed = missed(rng, rows=20_000, share=share, looks=looks, rates=rates, runs=500)
    assert ours <= ALPHA
    assert fixed > 3 * ALPHA  # what looking often does to an ordinary 95 % interval


def test_the_tally_is_what_the_simulation_computes():
    rng = np.random.default_rng(3)
    a, b = (rng.random(3000) < 0.2).astype(float), (rng.random(2000) < 0.25).astype(float)
    found = compare(tally(a), tally(b, [b"b%d" % i for i in range(2000)]))
    error = np.sqrt(a.var(ddof=1) / 3000 + b.var(ddof=1) / 2000)
    reach = boundary(5000.0, alpha=ALPHA, expected_rows=5000) * error
    assert found.estimate == pytest.approx(b.mean() - a.mean())
    assert found.high - found.estimate == pytest.approx(reach, rel=0.05)  # keys that share a place


def test_it_holds_when_the_rows_of_a_key_hang_together():
    rng = np.random.default_rng(11)
    misses = naive = 0
    for _ in range(200):
        arms = []
        for name in (b"a", b"b"):
            rates = rng.beta(2, 8, size=150)  # every key has a rate of its own, 20 rows of each
            outcomes = (rng.random((150, 20)) < rates[:, None]).astype(float)
            arms.append((tally(outcomes.ravel(), [name + b"%d" % k for k in range(150) for _ in range(20)]), outcomes))
        found = compare(arms[0][0], arms[1][0])
        misses += not found.low <= 0 <= found.high
        a, b = arms[0][1].ravel(), arms[1][1].ravel()
        naive += abs(b.mean() - a.mean()) > 1.96 * np.sqrt(a.var() / a.size + b.var() / b.size)
    assert misses <= 0.05 * 200
    assert naive > 0.08 * 200


def test_verdicts():
    rng = np.random.default_rng(5)
    low, high = (rng.random(20_000) < 0.1).astype(float), (rng.random(20_000) < 0.2).astype(float)
    assert compare(tally(low), tally(high)).verdict == "better"
    assert compare(tally(low), tally(high), more_is_better=False).verdict == "worse"
    assert compare(tally(high), tally(low)).verdict == "worse"
    assert compare(tally(low), tally(low[::-1])).verdict == "go on"
    assert compare(tally(low), tally(low[::-1]), indifference=0.05).verdict == "no difference"
    few = compare(tally(low[:99]), tally(high))
    assert (few.verdict, few.low, few.high) == ("too few", -np.inf, np.inf)


def test_a_single_key_says_nothing_however_many_rows_it_has():
    found = compare(tally(np.ones(1000), [b"one"] * 1000), tally(np.zeros(1000), [b"two"] * 1000))
    assert found.verdict == "go on"
