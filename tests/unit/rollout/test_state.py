"""What commands make of each other: who serves, who is kept warm, what is refused and why."""

from __future__ import annotations

import pytest

from streamserve.rollout.records import (
    NONE,
    Arm,
    Canary,
    Experiment,
    Promote,
    Retire,
    Rollback,
    Shadow,
    Stop,
    new_id,
)
from streamserve.rollout.state import Refused, RolloutState, apply


def promote(version, **more):
    return Promote(id=new_id(), version=version, **more)


def canary(version, weight=0.1):
    return Canary(id=new_id(), version=version, weight=weight)


def shadow(version):
    return Shadow(id=new_id(), version=version)


def stop(what):
    return Stop(id=new_id(), what=what)


def experiment(*versions, name="x", weights=None):
    shares = weights or [1 / len(versions)] * len(versions)
    arms = [Arm(name=f"arm-{n}", version=v, weight=w) for n, (v, w) in enumerate(zip(versions, shares, strict=True))]
    return Experiment(id=new_id(), name=name, arms=tuple(arms))


ROLLBACK, RETIRE = Rollback(id="rollback"), Retire(id="retire")


def after(*commands, state=None):
    state = state or RolloutState()
    for command in commands:
        state = apply(state, command, state.revision + 1)
    return state


def refused(state, command):
    with pytest.raises(Refused) as found:
        apply(state, command, state.revision + 1)
    return str(found.value)


def test_before_anything_nothing_serves():
    state = RolloutState()
    assert (state.revision, state.stable, state.serving, state.needed, state.sides) == (NONE, None, (), (), ())


def test_a_promoted_version_is_stable_and_the_one_before_stays_warm():
    state = after(promote("1"), promote("2"))
    assert (state.stable, state.previous) == ("2", "1")
    assert state.serving == ("2",)
    assert state.needed == ("2", "1")


def test_only_the_version_before_stays_warm():
    assert after(promote("1"), promote("2"), promote("3")).needed == ("3", "2")


def test_the_revision_is_that_of_the_command():
    assert apply(RolloutState(), promote("1"), 17).revision == 17


def test_a_canary_has_a_share_and_promoting_it_ends_it():
    state = after(promote("1"), canary("2", 0.25))
    assert (state.stable, state.canary, state.weight) == ("1", "2", 0.25)
    assert state.sides == ("1", "2")
    state = after(promote("2"), state=state)
    assert (state.stable, state.previous, state.canary, state.weight) == ("2", "1", None, 0.0)


def test_a_canary_may_be_given_another_weight_or_another_version():
    state = after(promote("1"), canary("2", 0.1), canary("2", 0.5))
    assert (state.canary, state.weight) == ("2", 0.5)
    assert after(canary("3", 0.2), state=state).canary == "3"


def test_promoting_the_stable_version_again_ends_the_canary_alone():
    state = after(promote("1"), promote("2"), canary("3"), promote("2"))
    assert (state.stable, state.previous, state.canary) == ("2", "1", None)


def test_a_rollback_ends_what_is_going_on_before_it_goes_back():
    state = after(promote("1"), promote("2"), canary("3"), ROLLBACK)
    assert (state.stable, state.canary, state.previous) == ("2", None, "1")
    state = after(ROLLBACK, state=state)
    assert (state.stable, state.previous) == ("1", "2")


def test_a_rollback_needs_no_load():
    before = after(promote("1"), promote("2"))
    assert set(after(ROLLBACK, state=before).serving) <= set(before.needed)
    for beside in (canary("3"), experiment("2", "3")):
        before = after(promote("1"), promote("2"), beside)
        assert set(after(ROLLBACK, state=before).serving) <= set(before.needed)


def test_a_rollback_that_drops_the_version_it_leaves_keeps_nothing_to_go_back_to():
    drop = Rollback(id="drop", drop=True)
    state = after(promote("1"), promote("2"), drop)
    assert (state.stable, state.previous) == ("1", None)
    state = after(promote("1"), promote("2"), canary("3"), drop)
    assert (state.stable, state.previous, state.canary) == ("2", "1", None)


def test_what_was_retired_cannot_be_gone_back_to():
    state = after(promote("1"), promote("2"), RETIRE)
    assert (state.previous, state.needed) == (None, ("2",))
    assert "no version to go back to" in refused(state, ROLLBACK)
    assert "nothing is kept warm" in refused(state, RETIRE)


def test_a_shadow_serves_beside_everything_else():
    state = after(promote("1"), canary("2"), shadow("3"))
    assert state.serving == ("1", "2", "3")
    assert state.sides == ("1", "2")
    assert after(stop("shadow"), state=state).serving == ("1", "2")


@pytest.mark.parametrize(
    "command", [promote("3"), canary("3"), experiment("1", "3")], ids=lambda command: type(command).__name__
)
def test_a_version_that_comes_to_answer_is_no_shadow_any_more(command):
    state = after(promote("1"), shadow("3"), command)
    assert state.shadow is None
    assert "3" in state.sides


def test_a_shadow_ends_when_a_rollback_makes_it_stable():
    state = after(promote("1"), promote("2"), shadow("1"), ROLLBACK)
    assert (state.stable, state.shadow) == ("1", None)


def test_an_experiment_gives_every_arm_its_share():
    state = after(promote("1"), experiment("1", "2", "3", weights=[0.5, 0.25, 0.25]))
    assert state.sides == ("1", "2", "3")
    assert state.experiment == "x"
    assert after(stop("experiment"), state=state).sides == ("1",)


@pytest.mark.parametrize(
    ("before", "command", "why"),
    [
        ([], canary("1"), "no version is stable yet: start a worker, or promote"),
        ([], ROLLBACK, "no version is stable yet"),
        ([promote("1")], promote("1"), "version 1 is stable already"),
        ([promote("1")], canary("1"), "version 1 is the stable one already"),
        ([promote("1")], shadow("1"), "version 1 serves already"),
        ([promote("1"), canary("2")], shadow("2"), "version 2 serves already"),
        ([promote("1"), experiment("1", "2")], shadow("2"), "version 2 serves already"),
        ([promote("1"), experiment("1", "2")], canary("3"), "experiment x is running; stop it first"),
        ([promote("1"), experiment("1", "2")], experiment("1", "3", name="y"), "experiment x is running"),
        ([promote("1"), canary("2")], experiment("1", "2"), "version 2 is on canary; promote it or roll it back"),
        ([promote("1")], experiment("1", "1"), "a name and a version of its own"),
        ([promote("1")], experiment("1", "2", weights=[0.5, 0.6]), "sum to 1.1, not to 1"),
        ([promote("1")], ROLLBACK, "no version to go back to"),
        ([promote("1")], stop("canary"), "there is no canary to stop"),
        ([promote("1")], stop("shadow"), "there is no shadow to stop"),
        ([promote("1"), canary("2")], stop("experiment"), "there is no experiment to stop"),
        ([promote("1")], RETIRE, "nothing is kept warm"),
    ],
)
def test_what_makes_no_sense_is_refused_and_says_why(before, command, why):
    state = after(*before)
    assert why in refused(state, command)


def test_a_command_for_another_revision_is_refused():
    state = after(promote("1"))
    assert "meant for revision -1, and by then 0" in refused(state, promote("2", expects=NONE))
    assert after(promote("2", expects=0), state=state).stable == "2"


def test_of_two_first_starts_at_once_one_counts():
    first, second = promote("1", expects=NONE), promote("2", expects=NONE)
    state = apply(RolloutState(), first, 0)
    refused(state, second)
    assert state.stable == "1"
