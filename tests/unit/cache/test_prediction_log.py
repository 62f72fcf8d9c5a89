"""The prediction topic's partitions, of brokers made up."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from streamserve.batch import TopicPartition
from streamserve.cache.prediction_log import PredictionLog
from streamserve.errors import SourceError


@pytest.fixture
def counts():
    return {"in": 4, "out": 3}


@pytest.fixture
def log(counts, monkeypatch):
    def list_topics(topic, timeout):
        return SimpleNamespace(
            topics={topic: SimpleNamespace(error=None, partitions=dict.fromkeys(range(counts[topic])))}
        )

    log = PredictionLog({}, "out", group="g", order="offset", inputs=["in"])
    monkeypatch.setattr(log, "_open", lambda: SimpleNamespace(list_topics=list_topics))
    return log


def test_a_topic_without_partitions_is_no_home_yet(log, counts):
    counts["out"] = 0
    with pytest.raises(SourceError):
        log.home(TopicPartition("in", 5))
    counts["out"] = 3
    assert log.home(TopicPartition("in", 5)) == TopicPartition("out", 2)


def test_input_counts_are_those_of_today(log, counts):
    assert log.input_counts() == {"in": 4}
    counts["in"] = 8
    assert log.input_counts() == {"in": 8}
