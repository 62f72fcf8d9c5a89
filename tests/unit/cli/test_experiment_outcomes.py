"""Predictions of arms joined with labels: who is counted, what the outcome is, what is passed over."""

from __future__ import annotations

import json

import pytest

from streamserve.cli.experiment_outcomes import Joiner
from streamserve.cli.model_report import begun
from streamserve.errors import ConfigError
from streamserve.rollout.log import RolloutLog
from streamserve.rollout.records import Arm, Canary, Experiment, Promote, Rollback, encode
from streamserve.testing import memory_settings


def settings(task="binary", **labels):
    drift = {"labels": {"task": task, "output": "p", **labels}}
    return memory_settings([{"name": "x"}], drift=drift, output={"topic": "out", "outputs": {"score": "p"}})


def prediction(name, arm="", score=0.9, *, experiment="e", **more):
    document = {"id": name, "version": "3" if arm == "a" else "4", "outputs": {"score": score}, **more}
    return json.dumps({**document, "experiment": experiment, "arm": arm} if experiment else document).encode()


def label(name, truth, **more):
    return json.dumps({"id": name, "label": truth, "ts": 1, **more}).encode()


def joined(settings, predictions, labels, *, experiment="e", metric=None, versions=None):
    joiner = Joiner(settings, experiment, metric, versions)
    for value in predictions:
        joiner.predicted(b"k", value)
    for value in labels:
        joiner.labelled(value)
    return joiner.outcomes


def means(outcomes):
    return {name: (arm.rows, round(arm.mean, 6)) for name, arm in outcomes.arms.items()}


def test_the_arms_accuracies():
    rows = [("1", "a", 0.9), ("2", "a", 0.1), ("3", "b", 0.7), ("4", "b", 0.2), ("5", "b", 0.6)]
    predictions = [prediction(name, arm, score) for name, arm, score in rows]
    found = joined(settings(), predictions, [label(n, 1) for n in "12345"])
    assert means(found) == {"a": (2, 0.5), "b": (3, round(2 / 3, 6))}
    assert (found.versions, found.predictions) == ({"a": "3", "b": "4"}, {"a": 2, "b": 3})


@pytest.mark.parametrize(
    ("metric", "more", "mean"),
    [("brier", {}, 0.01), ("label", {}, 1.0), ("value", {"value": 12.5}, 12.5), ("clicked", {"clicked": True}, 1.0)],
)
def test_other_outcomes(metric, more, mean):
    found = joined(settings(), [prediction("1", "a")], [label("1", 1, **more)], metric=metric)
    assert means(found) == {"a": (1, mean)}


def test_a_number_is_held_against_its_error():
    found = joined(settings("regression"), [prediction("1", "a", 3.5)], [label("1", 5)])
    assert means(found) == {"a": (1, 1.5)}


def test_a_label_without_the_wanted_field_says_nothing():
    found = joined(settings(), [prediction("1", "a")], [label("1", 1)], metric="value")
    assert found.arms["a"].rows == 0


def test_a_canary_is_told_by_the_role_and_other_experiments_are_passed_over():
    predictions = [
        prediction("1", experiment="", role="stable"),
        prediction("2", experiment="", role="canary"),
        prediction("3", "a"),
        prediction("4", "a", experiment="other"),
        b"not json",
        b"{}",
    ]
    labels = [label(n, 1) for n in "1234"]
    assert means(joined(settings(), predictions, labels, experiment="")) == {"stable": (1, 1.0), "canary": (1, 1.0)}
    assert means(joined(settings(), predictions, labels)) == {"a": (1, 1.0)}


def test_the_first_label_counts_and_strange_ones_are_told():
    found = joined(
        settings(), [prediction("1", "a")], [label("1", 1), label("1", 0), label("9", 1), label("1", 7), b"x", None]
    )
    assert means(found) == {"a": (1, 1.0)}
    assert (found.without_prediction, found.malformed) == (2, 3)


def test_what_cannot_be_joined_is_refused_with_the_remedy():
    with pytest.raises(ConfigError, match=r"configure drift.labels"):
        Joiner(memory_settings([{"name": "x"}]), "e", None)
    with pytest.raises(ConfigError, match="brier is no metric of a regression task"):
        Joiner(settings("regression"), "e", "brier")
    with pytest.raises(ConfigError, match=r"output\.outputs does not write q"):
        Joiner(settings(output="q"), "e", None)


def test_another_canarys_predictions_and_fallbacks_are_nobodys():
    predictions = [
        prediction("1", experiment="", role="canary"),
        prediction("2", experiment="", role="canary", version="9"),
        prediction("3", experiment="", role="canary", fallback=True),
    ]
    found = joined(
        settings(), predictions, [label(n, 1) for n in "123"], experiment="", versions={"canary": "4", "stable": "3"}
    )
    assert (found.predictions, found.versions) == ({"canary": 1}, {"canary": "4"})


def test_a_report_begins_where_the_newest_rollout_of_its_kind_did():
    log = RolloutLog()
    commands = [
        Promote(id="1", version="3", at_ms=1),
        Canary(id="2", version="4", weight=0.1, at_ms=100_000),
        Rollback(id="3", at_ms=200_000),
        Canary(id="4", version="5", weight=0.1, at_ms=300_000),
        Canary(id="5", version="5", weight=0.3, at_ms=400_000),
        Canary(id="6", version="3", weight=0.3, at_ms=500_000),  # refused: it is stable
    ]
    for offset, command in enumerate(commands):
        log.add(offset, *encode(command))
    assert begun(log, "") == (240_000, {"stable": "3", "canary": "5"})
    assert begun(log, "none") == (None, {})
    arms = (Arm(name="a", version="3", weight=0.5), Arm(name="b", version="6", weight=0.5))
    for offset, command in enumerate(
        [Rollback(id="7"), Experiment(id="8", name="e", arms=arms, at_ms=900_000)], start=len(commands)
    ):
        log.add(offset, *encode(command))
    assert begun(log, "e") == (840_000, {"a": "3", "b": "6"})
    assert begun(log, "") == (240_000, {"stable": "3", "canary": "5"})
