"""Which key gets which version: shares within binomial bounds, sticky across processes, growing with the weight."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pytest

from streamserve.rollout.records import Arm, Canary, Experiment, Promote, new_id
from streamserve.rollout.split import Split, split_of
from streamserve.rollout.state import RolloutState, apply

KEYS = [f"key-{n}".encode() for n in range(100_000)]
PINNED_CANARY = [0, 16, 35]
PINNED_ARMS = [1, 0, 1, 1, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 1, 0]


def on_canary(version="2", weight=0.1):
    state = apply(RolloutState(), Promote(id=new_id(), version="1"), 0)
    return apply(state, Canary(id=new_id(), version=version, weight=weight), 1)


def in_experiment(weights, name="x"):
    arms = tuple(Arm(name=f"a{n}", version=str(n + 1), weight=weight) for n, weight in enumerate(weights))
    state = apply(RolloutState(), Promote(id=new_id(), version="1"), 0)
    return apply(state, Experiment(id=new_id(), name=name, arms=arms), 1)


def sides(state, keys=KEYS):
    return split_of(state).sides(keys)


def within_binomial_bounds(count, share):
    """Five standard deviations: false once in two million."""
    n = len(KEYS)
    return abs(count - n * share) <= 5 * math.sqrt(n * share * (1 - share))


def test_one_version_needs_no_split():
    assert split_of(RolloutState()) is None
    assert split_of(apply(RolloutState(), Promote(id=new_id(), version="1"), 0)) is None


@pytest.mark.parametrize("weight", [0.001, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("version", ["2", "3", "17"])
def test_the_share_of_a_canary_is_within_its_binomial_bounds(version, weight):
    assert within_binomial_bounds(int(sides(on_canary(version, weight)).sum()), weight)


@pytest.mark.parametrize("weights", [[0.5, 0.5], [0.8, 0.1, 0.1], [1 / 3, 1 / 3, 1 / 3], [0.97, 0.01, 0.01, 0.01]])
def test_the_share_of_every_arm_is_within_its_binomial_bounds(weights):
    counts = np.bincount(sides(in_experiment(weights)), minlength=len(weights))
    assert all(within_binomial_bounds(count, weight) for count, weight in zip(counts, weights, strict=True))


def test_keys_that_count_up_are_shared_like_any_others():
    for form in ("{:d}", "{:08d}", "user:{:d}", "{:d}0000"):
        keys = [form.format(n).encode() for n in range(100_000)]
        assert within_binomial_bounds(int(sides(on_canary(), keys).sum()), 0.1)


def test_a_weight_of_one_is_everybody():
    assert sides(on_canary(weight=1.0)).all()


def test_no_keys_have_no_sides():
    assert sides(on_canary(), []).tolist() == []


def test_raising_the_weight_only_adds_keys():
    before = sides(on_canary(weight=0.01))
    for weight in (0.02, 0.1, 0.1000001, 0.5, 0.99, 1.0):
        now = sides(on_canary(weight=weight))
        assert (now >= before).all()
        before = now


def test_the_keys_of_one_rollout_say_nothing_about_those_of_the_next():
    """Who was on the canary before is on the next one as often as anybody else."""
    one, other = sides(on_canary("2", 0.1)), sides(on_canary("3", 0.1))
    assert within_binomial_bounds(int((one & other).sum()), 0.01)
    first, second = sides(in_experiment([0.5, 0.5], "a")), sides(in_experiment([0.5, 0.5], "b"))
    assert within_binomial_bounds(int((first & second).sum()), 0.25)


def test_a_key_has_its_side_whatever_comes_with_it():
    split = split_of(on_canary())
    together = split.sides(KEYS[:1000])
    assert [int(split.sides([key])[0]) for key in KEYS[:1000]] == together.tolist()
    assert split.sides(KEYS[:1000][::-1]).tolist() == together.tolist()[::-1]


IN_A_PROCESS = """
import json, sys
from streamserve.rollout.split import split_of
from streamserve.rollout.state import RolloutState
state = RolloutState(revision=1, stable="1", canary="2", weight=0.1)
print(json.dumps(split_of(state).sides([f"key-{n}".encode() for n in range(5000)]).tolist()))
"""


@pytest.mark.parametrize("seed", ["0", "1", "random"])
def test_a_key_never_changes_sides_in_another_process(seed):
    """Python's own hash differs from process to process; this one must not."""
    done = subprocess.run(
        [sys.executable, "-c", IN_A_PROCESS],
        env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert json.loads(done.stdout) == sides(on_canary(), KEYS[:5000]).tolist()


def test_the_sides_are_part_of_the_contract():
    """A release that moved keys would change sides under a running experiment: these must stay for ever."""
    assert sides(on_canary(), KEYS[:40]).nonzero()[0].tolist() == PINNED_CANARY
    assert sides(in_experiment([0.5, 0.5]), KEYS[:16]).tolist() == PINNED_ARMS


def test_every_side_is_one_of_the_splits():
    split = Split(b"salt", (0.25, 0.5, 0.75))
    assert set(split.sides(KEYS[:1000]).tolist()) == {0, 1, 2, 3}
