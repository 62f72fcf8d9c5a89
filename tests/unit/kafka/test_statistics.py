"""Lag by the client's statistics: offsets that no record has are none, and nothing is invented."""

import json

import pytest

from streamserve.batch import TopicPartition
from streamserve.clock import SystemClock
from streamserve.kafka.statistics import KafkaStatistics
from streamserve.pipeline.assignment import Assignment

TP = TopicPartition("t", 0)


def statistics(state="UP", **partition):
    fields = {"ls_offset": 50, "next_offset": 50, "app_offset": -1001, "fetchq_cnt": 0, **partition}
    return json.dumps({"brokers": {"b": {"state": state}}, "topics": {"t": {"partitions": {"0": fields}}}})


@pytest.fixture
def assignment():
    made = Assignment(SystemClock())
    made.assign([TP])
    return made


def test_a_caught_up_partition_without_a_record_since_its_assignment_has_no_lag(assignment):
    assert KafkaStatistics.parse(statistics(), assignment).lag == {TP: 0}


def test_before_the_first_record_the_fetch_position_counts(assignment):
    assert KafkaStatistics.parse(statistics(next_offset=20), assignment).lag == {TP: 30}
    assert KafkaStatistics.parse(statistics(next_offset=-1001), assignment).lag == {}


def test_a_marker_at_the_end_of_the_log_is_no_lag(assignment):
    assignment.delivered({TP: 0}, {TP: 49})
    assignment.committed({TP: 49}, assignment.epochs)
    assert KafkaStatistics.parse(statistics(), assignment).lag == {TP: 0}


def test_what_is_in_flight_or_fetched_or_not_fetched_yet_is_lag(assignment):
    assignment.delivered({TP: 0}, {TP: 50})
    assert KafkaStatistics.parse(statistics(), assignment).lag == {TP: 50}
    assignment.committed({TP: 50}, assignment.epochs)
    assert KafkaStatistics.parse(statistics(ls_offset=60, next_offset=60, fetchq_cnt=10), assignment).lag == {TP: 10}
    assert KafkaStatistics.parse(statistics(ls_offset=60), assignment).lag == {TP: 10}


def test_partitions_of_others_and_unknown_ends_are_left_out(assignment):
    assert KafkaStatistics.parse(statistics(ls_offset=-1001), assignment).lag == {}
    assignment.leave([TP])
    assert KafkaStatistics.parse(statistics(), assignment).lag == {}


def test_whether_a_broker_is_up(assignment):
    assert KafkaStatistics.parse(statistics(), assignment).brokers_up
    assert not KafkaStatistics.parse(statistics(state="DOWN"), assignment).brokers_up
