"""When a transaction closes, and what an abort does to everything around it."""

from __future__ import annotations

import threading

import pytest

from streamserve.clock import SystemClock
from streamserve.errors import SinkError
from streamserve.testing import ManualClock
from streamserve.worker.rotation import OUTBOX_BATCHES, Rotation, Written
from tests.chunks import chunk, scored
from tests.memory import until

ERROR = SinkError("again", retryable=True)


def batch(n=0):
    return scored(chunk(1, start=n))


def written(*batches):
    return Written(transaction=object(), batches=list(batches), taken=len(batches))


class Lane(threading.Thread):
    """A call in a thread of its own, and what came of it."""

    def __init__(self, call):
        super().__init__(daemon=True)
        self._call, self.result, self.over = call, None, threading.Event()
        self.start()

    def run(self):
        try:
            self.result = self._call()
        except Exception as error:
            self.result = error
        self.over.set()

    def waits(self):
        return not self.over.wait(0.03)

    def outcome(self):
        assert self.over.wait(20)
        return self.result


@pytest.fixture
def clock():
    return ManualClock(now_s=1000)


@pytest.fixture
def rotation(clock):
    return Rotation(clock, interval_s=0.1, min_interval_s=0.005)


# -- when a transaction closes -----------------------------------------------------------------------------------


def test_batches_come_out_in_the_order_they_went_in(rotation):
    batches = [batch(n) for n in range(3)]
    for one in batches:
        rotation.put(one)
    assert rotation.take() is batches[0]
    assert rotation.more(1000) is batches[1]
    assert rotation.more(1000) is batches[2]
    assert rotation.held == 3


def test_with_nothing_more_to_write_a_transaction_closes_at_once(rotation):
    assert rotation.more(1000) is None


def test_it_takes_in_no_more_once_the_interval_is_over(rotation, clock):
    rotation.put(batch())
    clock.advance(0.1)
    assert rotation.more(1000) is None
    assert rotation.more(1000.05) is not None


def test_two_closings_are_the_least_interval_apart(rotation, clock):
    rotation.hand_over(written())
    rotation.next()
    lane = Lane(lambda: rotation.more(1000))
    assert lane.waits()  # the clock stands still
    clock.advance(0.005)
    assert lane.outcome() is None


def test_a_batch_that_comes_during_the_least_interval_is_taken_in(rotation):
    rotation.hand_over(written())
    rotation.next()
    lane = Lane(lambda: rotation.more(1000))
    assert lane.waits()
    late = batch(7)
    rotation.put(late)
    assert lane.outcome() is late


def test_while_the_commit_thread_has_no_room_a_transaction_stays_open(rotation, clock):
    rotation.hand_over(written())
    clock.advance(0.05)
    lane = Lane(lambda: rotation.more(1000.05))
    assert lane.waits()
    assert isinstance(rotation.next(), Written)
    assert lane.outcome() is None


def test_a_batch_is_wanted_while_the_writer_would_write_it_at_once(clock):
    wanted = [False]
    rotation = Rotation(clock, interval_s=0.1, min_interval_s=0.0, want=wanted.append)
    writer = Lane(rotation.take)
    until(lambda: wanted[-1])
    rotation.put(batch())
    writer.outcome()
    assert not wanted[-1]
    rotation.hand_over(written(batch()))
    writer = Lane(rotation.take)
    assert writer.waits()
    assert not wanted[-1]  # the commit thread has not taken the one before
    rotation.next()
    until(lambda: wanted[-1])
    rotation.put(batch())
    writer.outcome()


def test_a_batch_is_wanted_again_when_the_least_interval_is_over():
    wanted = [False]
    rotation = Rotation(SystemClock(), interval_s=0.1, min_interval_s=0.02, want=wanted.append)
    rotation.hand_over(written(batch()))
    rotation.next()
    writer = Lane(rotation.take)
    until(lambda: wanted[-1])
    rotation.put(batch())
    writer.outcome()


def test_at_the_end_of_the_input_it_closes_at_once(rotation, clock):
    rotation.hand_over(written())
    rotation.close()
    assert rotation.more(clock.monotonic_s()) is None


# -- the queues --------------------------------------------------------------------------------------------------


def test_a_full_outbox_makes_the_compute_thread_wait(rotation):
    for n in range(OUTBOX_BATCHES):
        rotation.put(batch(n))
    lane = Lane(lambda: rotation.put(batch(9)))
    assert lane.waits()
    rotation.take()
    lane.outcome()
    assert rotation.held == OUTBOX_BATCHES + 1


def test_one_transaction_stands_written_at_most(rotation):
    first, second = written(), written()
    rotation.hand_over(first)
    lane = Lane(lambda: rotation.hand_over(second))
    assert lane.waits()
    assert rotation.next() is first
    lane.outcome()
    assert rotation.next() is second


def test_settled_batches_are_no_longer_held(rotation):
    rotation.put(batch())
    rotation.put(batch(1))
    one = written(rotation.take(), rotation.more(1000))
    rotation.settled(one)
    assert rotation.held == 0


def test_the_end_goes_down_the_line(rotation):
    last = batch()
    rotation.put(last)
    rotation.close()
    assert rotation.take() is last
    one = written(last)
    rotation.hand_over(one)
    assert rotation.take() is None
    rotation.finish()
    assert rotation.next() is one
    assert rotation.next() is None


def test_finishing_lets_go_of_everybody(rotation):
    for n in range(OUTBOX_BATCHES):
        rotation.put(batch(n))
    putting = Lane(lambda: rotation.put(batch(9)))
    rotation.hand_over(written())
    handing = Lane(lambda: rotation.hand_over(written()))
    assert putting.waits()
    assert handing.waits()
    rotation.finish()
    putting.outcome()
    handing.outcome()
    assert rotation.take() is None


# -- the abort ---------------------------------------------------------------------------------------------------


def test_a_failure_of_the_writer_reaches_the_commit_thread_first_of_all(rotation):
    rotation.hand_over(written())
    rotation.fail(ERROR)
    assert isinstance(Lane(rotation.next).outcome(), SinkError)


def test_an_abort_waits_for_the_writer_to_park(rotation):
    abort = Lane(lambda: rotation.abort_and_wait(ERROR, 20))
    assert abort.waits()
    taking = Lane(rotation.take)
    assert abort.outcome() is True
    assert taking.waits()
    rotation.resume()
    fresh = batch()
    rotation.put(fresh)
    assert taking.outcome() is fresh


def test_an_abort_gives_up_on_a_writer_that_does_not_park(rotation):
    assert rotation.abort_and_wait(ERROR, 0.02) is False


def test_an_abort_interrupts_a_writer_wherever_it_waits(rotation, clock):
    rotation.hand_over(written())
    open_transaction = Lane(lambda: rotation.more(clock.monotonic_s()))
    assert open_transaction.waits()
    full = Lane(lambda: rotation.hand_over(written()))
    assert full.waits()
    assert rotation.abort_and_wait(ERROR, 0.01) is False
    assert open_transaction.outcome() is None
    full.outcome()


def test_an_abort_drops_what_is_queued_and_what_stands_written(rotation):
    rotation.put(batch())
    rotation.hand_over(written())
    abort = Lane(lambda: rotation.abort_and_wait(ERROR, 20))
    taking = Lane(rotation.take)
    abort.outcome()
    rotation.resume()
    assert rotation.held == 0
    rotation.close()
    assert taking.outcome() is None
    rotation.finish()
    assert rotation.next() is None


def test_a_transaction_that_is_handed_over_during_an_abort_is_dropped(rotation):
    abort = Lane(lambda: rotation.abort_and_wait(ERROR, 20))
    until(lambda: rotation._error is not None)
    rotation.hand_over(written())
    taking = Lane(rotation.take)
    abort.outcome()
    rotation.resume()
    rotation.finish()
    taking.outcome()
    assert rotation.next() is None


def test_a_batch_that_is_put_during_an_abort_waits_and_is_not_lost(rotation):
    abort = Lane(lambda: rotation.abort_and_wait(ERROR, 20))
    taking = Lane(rotation.take)
    abort.outcome()
    late = batch(3)
    putting = Lane(lambda: rotation.put(late))
    assert putting.waits()
    assert taking.waits()
    rotation.resume()
    putting.outcome()
    assert taking.outcome() is late
    assert rotation.held == 1


def test_the_end_of_the_input_during_an_abort_is_not_taken_for_the_end_of_the_output(rotation):
    abort = Lane(lambda: rotation.abort_and_wait(ERROR, 20))
    taking = Lane(rotation.take)
    abort.outcome()
    rotation.close()
    assert taking.waits()
    rotation.resume()
    assert taking.outcome() is None


def test_many_aborts_under_load_lose_nothing_that_was_put_after_the_last():
    """Writer, committer and aborts run freely; what one epoch puts comes out of it whole and in order, or is dropped."""
    rotation = Rotation(SystemClock(), interval_s=0.002, min_interval_s=0)
    committed: list[int] = []

    def write():
        while (first := rotation.take()) is not None:
            collected, one = [], first
            while one is not None:
                collected.append(one)
                one = rotation.more(SystemClock().monotonic_s())
            rotation.hand_over(written(*collected))
        rotation.finish()

    def commit():
        while True:
            try:
                one = rotation.next()
            except SinkError:
                assert rotation.abort_and_wait(ERROR, 20)
                committed.append(-1)
                rotation.resume()
                continue
            if one is None:
                return
            committed.extend(b.records.offset[0] for b in one.batches)
            rotation.settled(one)

    lanes = [Lane(write), Lane(commit)]
    for n in range(2000):
        if n % 100 == 50 and n < 1900:
            rotation.fail(ERROR)
        rotation.put(batch(n))
    rotation.close()
    assert [lane.outcome() for lane in lanes] == [None, None]
    assert committed.count(-1) >= 10
    numbers = [n for n in committed if n >= 0]
    assert numbers == sorted(set(numbers))
    assert numbers[-100:] == list(range(1900, 2000))
    assert rotation.held == 0
