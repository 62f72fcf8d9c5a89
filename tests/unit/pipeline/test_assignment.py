"""Epochs and positions of owned partitions."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamserve.batch import TopicPartition
from streamserve.clock import SystemClock
from streamserve.pipeline.assignment import Assignment
from streamserve.testing import ManualClock

A, B = TopicPartition("t", 0), TopicPartition("t", 1)


@pytest.fixture
def owned():
    assignment = Assignment(ManualClock())
    assignment.assign([A, B])
    return assignment


def deliver(assignment, tp, first, after):
    assignment.delivered({tp: first}, {tp: after})
    return assignment.epochs


def test_a_partition_that_was_assigned_has_an_epoch_and_no_position(owned):
    assert set(owned.epochs) == {A, B}
    assert owned.position(A) is None
    assert not owned.in_flight()


def test_the_first_record_delivered_is_where_the_position_begins(owned):
    deliver(owned, A, 7, 10)
    deliver(owned, A, 10, 12)
    assert owned.position(A) == 7
    assert owned.positions() == {A: 7}


def test_a_partition_is_in_flight_until_all_that_was_delivered_is_committed(owned):
    epochs = deliver(owned, A, 0, 10)
    assert owned.in_flight()
    assert owned.in_flight([A])
    assert not owned.in_flight([B])
    owned.committed({A: 9}, epochs)
    assert owned.in_flight()
    owned.committed({A: 10}, epochs)
    assert not owned.in_flight()


def test_positions_only_grow_while_an_epoch_lasts(owned):
    epochs = deliver(owned, A, 0, 10)
    owned.committed({A: 8}, epochs)
    owned.committed({A: 5}, epochs)
    assert owned.position(A) == 8


def test_a_current_batch_has_no_stale_partition(owned):
    epochs = deliver(owned, A, 0, 10)
    assert owned.stale({A: 10}, epochs) == set()


def test_assigning_another_partition_makes_nothing_stale(owned):
    epochs = owned.epochs
    owned.assign([TopicPartition("t", 2)])
    assert owned.epochs is not epochs
    assert owned.stale({A: 1, B: 1}, epochs) == set()


def test_only_the_partition_that_left_is_stale(owned):
    epochs = owned.epochs
    owned.leave([A])
    assert owned.stale({A: 1, B: 1}, epochs) == {A}


def test_a_partition_that_left_and_came_back_is_another_one(owned):
    epochs = deliver(owned, A, 0, 10)
    owned.leave([A])
    owned.assign([A])
    assert owned.stale({A: 10}, epochs) == {A}
    assert owned.position(A) is None
    owned.committed({A: 10}, epochs)
    assert owned.position(A) is None


def test_a_rewind_makes_everything_stale_and_tells_where_to_read_on(owned):
    epochs = deliver(owned, A, 3, 10)
    owned.committed({A: 6}, epochs)
    assert owned.rewind() == {A: 6}
    assert owned.stale({A: 10, B: 1}, epochs) == {A, B}
    assert not owned.in_flight()


def test_a_rewind_before_any_commit_goes_back_to_the_first_record_delivered(owned):
    deliver(owned, A, 3, 10)
    assert owned.rewind() == {A: 3}


def test_a_commit_of_before_the_rewind_changes_nothing(owned):
    epochs = deliver(owned, A, 0, 10)
    owned.rewind()
    owned.committed({A: 10}, epochs)
    assert owned.position(A) == 0


def test_old_epochs_stay_as_they_were(owned):
    epochs = owned.epochs
    before = dict(epochs)
    owned.rewind()
    owned.leave([A])
    assert dict(epochs) == before


def test_waiting_for_what_is_settled_returns_at_once(owned):
    assert owned.wait_settled(None, 0)


def test_waiting_ends_with_the_commit():
    assignment = Assignment(SystemClock())
    assignment.assign([A])
    epochs = deliver(assignment, A, 0, 10)
    answers: list[bool] = []
    waiting = threading.Thread(target=lambda: answers.append(assignment.wait_settled([A], 20)))
    waiting.start()
    assignment.committed({A: 10}, epochs)
    waiting.join(20)
    assert answers == [True]


def test_waiting_ends_with_the_time(owned):
    deliver(owned, A, 0, 10)
    assert not owned.wait_settled([A], 0)
    assert owned.wait_settled([B], 0)


def test_an_interrupt_ends_every_wait_until_the_rewind():
    assignment = Assignment(SystemClock())
    assignment.assign([A])
    deliver(assignment, A, 0, 10)
    answers: list[bool] = []
    waiting = threading.Thread(target=lambda: answers.append(assignment.wait_settled([A], 20)))
    waiting.start()
    assignment.interrupt()
    waiting.join(20)
    assert answers == [False]
    assert assignment.interrupted
    assignment.rewind()
    assert not assignment.interrupted


def test_leaving_ends_a_wait():
    assignment = Assignment(SystemClock())
    assignment.assign([A])
    deliver(assignment, A, 0, 10)
    answers: list[bool] = []
    waiting = threading.Thread(target=lambda: answers.append(assignment.wait_settled([A], 20)))
    waiting.start()
    assignment.leave([A])
    waiting.join(20)
    assert answers == [True]


steps = st.lists(
    st.tuples(
        st.sampled_from(["assign", "leave", "deliver", "commit", "rewind"]), st.integers(0, 2), st.integers(1, 9)
    ),
    max_size=40,
)


def test_the_share_owned_is_that_of_now_over_none_and_up_to_all():
    assignment = Assignment(ManualClock())
    share, unknown = assignment.share_of(4), assignment.share_of(0)
    assert share() == 0.25
    assignment.assign(TopicPartition("t", number) for number in range(3))
    assert share() == 0.75
    assignment.assign(TopicPartition("t", number) for number in range(3, 9))  # the topic grew
    assert (share(), unknown()) == (1.0, 1.0)


@given(steps)
def test_committed_never_passes_delivered_and_stale_commits_change_nothing(schedule):
    assignment = Assignment(ManualClock())
    end: dict[TopicPartition, int] = {}
    batches: list[tuple[TopicPartition, int, object]] = []
    for step, number, amount in schedule:
        tp = TopicPartition("t", number)
        if step == "assign" and tp not in assignment.epochs:
            assignment.assign([tp])
            end[tp] = 100
        elif step == "leave":
            assignment.leave([tp])
        elif step == "deliver" and tp in assignment.epochs:
            assignment.delivered({tp: end[tp]}, {tp: end[tp] + amount})
            end[tp] += amount
            batches.append((tp, end[tp], assignment.epochs))
        elif step == "rewind":
            end |= assignment.rewind()
        elif step == "commit" and batches:
            tp, position, epochs = batches.pop(0)
            stale = assignment.stale({tp: position}, epochs)
            before = assignment.position(tp)
            assignment.committed({tp: position}, epochs)
            assert assignment.position(tp) == (before if stale else position)
        for owned, position in assignment.positions().items():
            assert owned in assignment.epochs
            assert position <= end[owned]
