"""Rollouts in words."""

from __future__ import annotations

import pytest

from streamserve.rollout.records import Arm, Canary, Experiment, Promote, Retire, Rollback, Shadow, Stop
from streamserve.rollout.state import RolloutState
from streamserve.rollout.words import command_words, state_words

ARMS = (Arm(name="control", version="3", weight=0.5), Arm(name="new", version="4", weight=0.5))


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (Promote(id="a", version="4"), "promote version 4"),
        (Canary(id="a", version="4", weight=0.125), "canary of version 4 with 12.5 %"),
        (Shadow(id="a", version="4"), "shadow of version 4"),
        (
            Experiment(id="a", name="x", arms=ARMS),
            "experiment x: control is version 3 with 50 %, new is version 4 with 50 %",
        ),
        (Rollback(id="a"), "roll back"),
        (Rollback(id="a", drop=True), "roll back, and do not keep the version that is left"),
        (Stop(id="a", what="shadow"), "stop the shadow"),
        (Retire(id="a"), "retire the version before"),
    ],
)
def test_a_command_in_words(command, words):
    assert command_words(command) == words


def test_a_state_in_words():
    assert state_words(RolloutState()) == ["no version is stable yet"]
    assert state_words(RolloutState(stable="3", previous="2", canary="4", weight=0.1, shadow="5")) == [
        "version 3 is stable",
        "version 4 is on canary with 10 % of the keys",
        "version 5 scores beside, as a shadow",
        "a rollback ends the canary",
    ]
    assert state_words(RolloutState(stable="3", previous="2"))[1:] == ["a rollback goes back to version 2 (kept warm)"]
    assert state_words(RolloutState(stable="3", previous="4", experiment="x", arms=ARMS))[1:] == [
        "experiment x runs: control is version 3 with 50 %, new is version 4 with 50 %",
        "a rollback ends the experiment",
    ]
