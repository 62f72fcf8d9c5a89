"""Partition counts that grow while a slot runs."""

from __future__ import annotations

import pytest

from streamserve.cache.partition_counts import EVERY_S, PartitionCounts
from streamserve.errors import BrokerUnavailable
from tests.unit.cache.clocks import HandClock


class Brokers:
    def __init__(self):
        self.counts = {"in": 4}
        self.error = None
        self.looks = 0

    def look(self):
        self.looks += 1
        if self.error:
            raise self.error
        return dict(self.counts)


@pytest.fixture
def brokers():
    return Brokers()


@pytest.fixture
def clock():
    return HandClock()


@pytest.fixture
def counts(brokers, clock):
    return PartitionCounts({"in": 4}, brokers.look, clock)


def test_a_count_that_grew_is_found_in_time_and_used_from_the_next_batch_on(brokers, clock, counts):
    brokers.counts = {"in": 8}
    counts.refresh()
    assert brokers.looks == 0
    clock.now_s += EVERY_S
    counts.refresh()
    assert counts.of("in") == 4
    counts.take_up()
    assert counts.of("in") == 8
    counts.refresh()
    assert brokers.looks == 1


def test_a_request_looks_at_once(brokers, counts):
    brokers.counts = {"in": 8}
    counts.request()
    counts.refresh()
    counts.take_up()
    assert counts.of("in") == 8


def test_brokers_that_are_away_or_lag_behind_change_nothing(brokers, clock, counts):
    for error, found in ((BrokerUnavailable("away"), 9), (None, 3)):
        brokers.error, brokers.counts = error, {"in": found}
        clock.now_s += EVERY_S
        counts.refresh()
        counts.take_up()
        assert counts.of("in") == 4
    assert brokers.looks == 2
