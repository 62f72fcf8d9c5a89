"""Predictions of arms joined with labels: who is counted, what the outcome is, what is passed over."""

from __future__ import annotations

import json

import pytest

from streamserve.cli.experiment_outcomes import Joiner
from streamserve.errors import ConfigError
from streamserve.testing import memory_settings


def settings(task="binary", **labels):
    drift = {"labels": {"task": task, "output": "p", **labels}}
    return memory_settings([{"name": "x"}], drift=drift, output={"topic": "out", "outputs": {"score": "p"}})


def prediction(name, arm="", score=0.9, *, experiment="e", **more):
    document = {"id": name, "version": "3" if arm == "a" else "4", "outputs": {"score": score}, **more}
    return json.dumps({**document, "experiment": experiment, "arm": arm} if experiment else document).encode()


def label(name, truth, **more):
    return json.dumps({"id": name, "label": truth, "ts": 1, **more}).encode()


def joined(settings, predictions, labels, *, experiment="e", metric=None):
    joiner = Joiner(settings, experiment, metric)
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
