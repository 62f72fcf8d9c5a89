"""Requests on a real broker: who gets them, which counts, and when they are done."""

from __future__ import annotations

import time

import pytest

from streamserve.config.drift_topics import drift_topics
from streamserve.drift.events import RetrainRequest
from streamserve.errors import SourceError
from streamserve.retrain.requests import Requests
from streamserve.testing import memory_settings
from tests.services import create_topic, produce, unique

SESSION_S = 6


@pytest.fixture
def settings(kafka):
    made = memory_settings(
        [{"name": "x"}],
        pipeline=unique("retrain"),
        kafka={
            "bootstrap.servers": kafka.bootstrap,
            "consumer.session.timeout.ms": SESSION_S * 1000,
            "consumer.heartbeat.interval.ms": 500,
        },
        drift={"retrain": {"at_most_every_s": 3600}},
    )
    create_topic(kafka.bootstrap, drift_topics(made).alerts, 2)
    return made


def ask(settings, reason, *, pipeline=None, age_s=0.0):
    event = RetrainRequest(
        pipeline=pipeline or settings.pipeline, model="m", version="1", reason=reason, at_ms=1, evidence={}
    )
    record = {"key": event.key, "value": event.json(), "timestamp": int((time.time() - age_s) * 1000)}
    produce(settings.kafka["bootstrap.servers"], drift_topics(settings).alerts, [record])


def asked(requests, timeout_s=20.0):
    found = requests.next(lambda: False, timeout_s)
    return found.reason if found is not None else None


def test_the_newest_request_counts_and_a_settled_one_is_done(settings):
    for reason in ("first", "second"):
        ask(settings, reason)
    ask(settings, "another's", pipeline="other")
    ask(settings, "long ago", age_s=7200)
    with Requests(settings) as requests:
        assert asked(requests) == "second"
        requests.settled()
    with Requests(settings) as requests:
        assert asked(requests, 5) is None
        ask(settings, "third")
        assert asked(requests) == "third"


def test_a_runner_that_dies_leaves_its_request_to_the_next(settings):
    ask(settings, "drifted")
    with Requests(settings) as requests:
        assert asked(requests) == "drifted"
    with Requests(settings) as requests:
        assert asked(requests) == "drifted"


def test_a_runner_stays_in_the_group_while_it_trains(settings):
    ask(settings, "drifted")
    with Requests(settings) as requests:
        assert asked(requests) == "drifted"
        with requests.busy():
            time.sleep(2 * SESSION_S)  # longer than the group waits for a silent member
            ask(settings, "again")
            time.sleep(1)
        requests.settled()
        assert asked(requests, 20) == "again", "what came meanwhile is not taken for settled"
        requests.settled()
    with Requests(settings) as requests:
        assert asked(requests, 5) is None


def test_a_missing_topic_is_told(kafka):
    settings = memory_settings(
        [{"name": "x"}], pipeline=unique("none"), kafka={"bootstrap.servers": kafka.bootstrap}, drift={}
    )
    with pytest.raises(SourceError, match="topics apply"), Requests(settings):
        pass
