"""Who writes, when a transaction closes, and what an abort does to everything around it."""

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


INTERVAL_S, MIN_INTERVAL_S = 0.1, 0.005


def batch(n=0):
    return scored(chunk(1, start=n))


def offsets(written):
    return [one.records.offset[0] for one in written.batches]


def written(*batches):
    return Written(transaction=object(), batches=list(batches), taken=len(batches))


def write(into, one, _may_wait):
    into.batches.append(one)
    return True


class Writers(list):
    """Writes, and notes on which threads."""

    def __call__(self, into, one, may_wait):
        self.append(threading.current_thread())
        return write(into, one, may_wait)


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


def rotating(clock, write=write, **more):
    return Rotation(clock, write, **{"interval_s": INTERVAL_S, "min_interval_s": MIN_INTERVAL_S, **more})


@pytest.fixture
def rotation(clock):
    return rotating(clock)


def hand_over_and_commit(rotation):
    rotation.hand_over(written())
    rotation.next()


# -- who writes --------------------------------------------------------------------------------------------------


def test_whoever_puts_a_batch_writes_it(clock):
    writers = Writers()
    rotation = rotating(clock, writers)
    rotation.put(batch(), more_behind=True)
    rotation.put(batch(1))
    assert writers == [threading.current_thread()] * 2
    assert offsets(rotation.take()) == [0, 1]
    assert rotation.held == 2


def test_what_is_put_during_a_flush_is_written_after_it(clock):
    writers = Writers()
    rotation = rotating(clock, writers)
    rotation.put(batch())
    first = rotation.take()
    putting = Lane(lambda: [rotation.put(batch(n)) for n in (1, 2)])
    putting.outcome()
    assert writers == [threading.current_thread()]  # the pen is with the flush
    rotation.hand_over(first)
    rotation.write_out()
    assert writers == [threading.current_thread()] * 3
    rotation.next()
    clock.advance(MIN_INTERVAL_S)
    assert offsets(rotation.take()) == [1, 2]


def test_a_full_outbox_makes_whoever_scores_wait(rotation):
    rotation.put(batch())
    rotation.take()
    for n in range(OUTBOX_BATCHES):
        assert rotation.wait_room(0)
        rotation.put(batch(n))
    assert not rotation.wait_room(0)
    lane = Lane(lambda: rotation.put(batch(9)))
    assert lane.waits()
    rotation.write_out()
    lane.outcome()
    assert rotation.held == OUTBOX_BATCHES + 2


def test_a_failure_to_write_is_reported_and_stops_the_writing(clock):
    def broken(_into, _one, _may_wait):
        raise ERROR

    rotation = rotating(clock, broken)
    rotation.put(batch())
    assert rotation.aborting
    assert isinstance(Lane(rotation.next).outcome(), SinkError)
    assert Lane(rotation.take).waits()


def test_a_batch_whose_writer_may_not_wait_is_left_to_the_flush_thread(clock):
    waited = []

    def patient(into, one, may_wait):
        waited.append(may_wait)
        return may_wait and write(into, one, may_wait)

    rotation = rotating(clock, patient)
    rotation.put(batch(3), more_behind=True)
    assert waited == [False]
    assert not rotation.wait_room(0, wanted=True)
    flushing = Lane(rotation.take)
    assert flushing.waits()  # more is behind
    assert waited == [False, True]
    assert rotation.held == 1
    rotation.nothing_behind()
    assert offsets(flushing.outcome()) == [3]


def test_what_does_not_come_after_a_batch_in_the_outbox_is_not_waited_for(rotation, clock):
    rotation.put(batch())
    first = rotation.take()
    rotation.put(batch(1), more_behind=True)  # the pen is with the flush
    rotation.nothing_behind()
    rotation.hand_over(first)
    rotation.write_out()
    rotation.next()
    clock.advance(MIN_INTERVAL_S)
    assert rotation.take().closing


def test_the_interval_counts_from_the_first_batch_and_not_from_the_wait_for_a_producer(clock):
    def refusing(into, one, may_wait):
        return may_wait and write(into, one, may_wait)

    rotation = rotating(clock, refusing)
    rotation.put(batch(), more_behind=True)
    clock.advance(2 * INTERVAL_S)  # nothing is in it yet
    rotation.put(batch(1), more_behind=True)
    taking = Lane(rotation.take)
    assert taking.waits()
    clock.advance(INTERVAL_S)
    one = taking.outcome()
    assert (one.closing, offsets(one)) == (True, [0, 1])


# -- when a transaction closes -----------------------------------------------------------------------------------


def test_with_nothing_more_to_write_a_transaction_closes_at_once(rotation):
    rotation.put(batch())
    assert rotation.take().closing


def test_with_more_behind_it_closes_when_the_interval_is_over(rotation, clock):
    rotation.put(batch(), more_behind=True)
    lane = Lane(rotation.take)
    assert lane.waits()
    clock.advance(INTERVAL_S)
    assert lane.outcome().closing


def test_the_interval_is_minded_although_the_flush_thread_woke_during_the_writing():
    writing, go_on = threading.Event(), threading.Event()

    def slow(into, one, may_wait):
        writing.set()
        assert go_on.wait(20)
        return write(into, one, may_wait)

    rotation = rotating(SystemClock(), slow, interval_s=0.05)
    taking = Lane(rotation.take)
    assert taking.waits()
    putting = Lane(lambda: rotation.put(batch(), more_behind=True))
    assert writing.wait(20)
    assert taking.waits()
    go_on.set()
    putting.outcome()
    assert taking.outcome().closing


def test_it_takes_in_no_more_once_the_interval_is_over(rotation, clock):
    rotation.put(batch(), more_behind=True)
    clock.advance(INTERVAL_S)
    rotation.put(batch(1))
    first = rotation.take()
    assert offsets(first) == [0]
    rotation.hand_over(first)
    rotation.write_out()
    rotation.next()
    clock.advance(MIN_INTERVAL_S)
    assert offsets(rotation.take()) == [1]


def test_it_closes_when_what_was_behind_does_not_come(rotation):
    rotation.put(batch(), more_behind=True)
    assert rotation.flowing
    lane = Lane(rotation.take)
    assert lane.waits()
    rotation.nothing_behind()
    assert lane.outcome().closing
    assert not rotation.flowing


def test_two_closings_are_the_least_interval_apart(rotation, clock):
    hand_over_and_commit(rotation)
    rotation.put(batch())
    lane = Lane(rotation.take)
    assert lane.waits()  # the clock stands still
    clock.advance(MIN_INTERVAL_S)
    assert lane.outcome().closing


def test_a_batch_that_comes_during_the_least_interval_is_taken_in(rotation, clock):
    hand_over_and_commit(rotation)
    rotation.put(batch())
    lane = Lane(rotation.take)
    assert lane.waits()
    rotation.put(batch(7))
    clock.advance(MIN_INTERVAL_S)
    assert offsets(lane.outcome()) == [0, 7]


def test_while_the_commit_thread_has_no_room_a_transaction_stays_open(rotation, clock):
    rotation.hand_over(written())
    clock.advance(0.05)
    rotation.put(batch())
    lane = Lane(rotation.take)
    assert lane.waits()
    assert isinstance(rotation.next(), Written)
    assert lane.outcome().closing


def test_at_the_end_of_the_input_it_closes_at_once(rotation):
    hand_over_and_commit(rotation)
    rotation.put(batch(), more_behind=True)
    rotation.close()
    assert rotation.take().closing


# -- when a batch is wanted --------------------------------------------------------------------------------------


def test_a_batch_is_wanted_while_it_could_be_committed_at_once(rotation, clock):
    assert rotation.wait_room(0, wanted=True)
    rotation.put(batch())
    assert not rotation.wait_room(0, wanted=True)  # the one before is to be flushed
    first = rotation.take()
    assert not rotation.wait_room(0, wanted=True)
    rotation.hand_over(first)
    rotation.write_out()
    assert not rotation.wait_room(0, wanted=True)  # the commit thread has not taken the one before
    rotation.next()
    assert not rotation.wait_room(0, wanted=True)  # nor is the least interval over
    clock.advance(MIN_INTERVAL_S)
    assert rotation.wait_room(0, wanted=True)


def test_a_batch_is_wanted_while_a_transaction_flows(rotation):
    rotation.put(batch(), more_behind=True)
    assert rotation.wait_room(0, wanted=True)


def test_who_waits_to_be_wanted_is_told():
    rotation = rotating(SystemClock(), min_interval_s=0.02)
    rotation.hand_over(written(batch()))
    lane = Lane(lambda: rotation.wait_room(20, wanted=True))
    assert lane.waits()
    rotation.next()
    assert lane.outcome() is True


def test_an_eager_rotation_shows_what_it_has_before_it_may_close(clock):
    rotation = rotating(clock, eager=True)
    hand_over_and_commit(rotation)
    rotation.put(batch(), more_behind=True)
    lane = Lane(rotation.take)
    assert lane.waits()  # more is behind
    rotation.put(batch(1))
    shown = lane.outcome()
    assert (shown.closing, offsets(shown)) == (False, [0, 1])
    rotation.put(batch(2))
    rotation.write_out()
    clock.advance(MIN_INTERVAL_S)
    closed = rotation.take()
    assert closed is shown
    assert (closed.closing, offsets(closed)) == (True, [0, 1, 2])


def test_an_eager_rotation_wants_a_batch_although_it_may_not_close_yet(clock):
    rotation = rotating(clock, eager=True)
    hand_over_and_commit(rotation)
    assert rotation.wait_room(0, wanted=True)
    rotation.put(batch())
    assert not rotation.wait_room(0, wanted=True)  # it is to be shown first
    rotation.take()
    rotation.write_out()
    assert rotation.wait_room(0, wanted=True)


# -- the queues --------------------------------------------------------------------------------------------------


def test_one_transaction_stands_written_at_most(rotation):
    first, second = written(), written()
    rotation.hand_over(first)
    lane = Lane(lambda: rotation.hand_over(second))
    assert lane.waits()
    assert rotation.next() is first
    lane.outcome()
    assert rotation.next() is second


def test_settled_batches_are_no_longer_held(rotation):
    rotation.put(batch(), more_behind=True)
    rotation.put(batch(1))
    rotation.settled(rotation.take())
    assert rotation.held == 0


def test_the_end_goes_down_the_line(rotation):
    rotation.put(batch())
    rotation.close()
    one = rotation.take()
    rotation.hand_over(one)
    rotation.write_out()
    assert rotation.take() is None
    rotation.finish()
    assert rotation.next() is one
    assert rotation.next() is None


def test_finishing_lets_go_of_everybody(rotation):
    rotation.put(batch())
    rotation.take()
    for n in range(OUTBOX_BATCHES):
        rotation.put(batch(n))
    putting = Lane(lambda: rotation.put(batch(9)))
    rotation.hand_over(written())
    handing = Lane(lambda: rotation.hand_over(written()))
    room = Lane(lambda: rotation.wait_room(60))
    assert putting.waits()
    assert handing.waits()
    assert room.waits()
    rotation.finish()
    putting.outcome()
    handing.outcome()
    assert room.outcome() is False
    assert rotation.take() is None


# -- the abort ---------------------------------------------------------------------------------------------------


def test_a_failure_of_the_writer_reaches_the_commit_thread_first_of_all(rotation):
    rotation.hand_over(written())
    rotation.fail(ERROR)
    assert isinstance(Lane(rotation.next).outcome(), SinkError)


def test_an_abort_waits_for_the_flush_thread_to_park(rotation):
    abort = Lane(lambda: rotation.abort_and_wait(ERROR, 20))
    assert abort.waits()
    taking = Lane(rotation.take)
    assert abort.outcome() is True
    assert taking.waits()
    rotation.resume()
    rotation.put(batch(5))
    assert offsets(taking.outcome()) == [5]


def test_an_abort_waits_for_whoever_writes(clock):
    writing, go_on = threading.Event(), threading.Event()

    def slow(into, one, may_wait):
        writing.set()
        assert go_on.wait(20)
        return write(into, one, may_wait)

    rotation = rotating(clock, slow)
    taking = Lane(rotation.take)
    putting = Lane(lambda: rotation.put(batch()))
    assert writing.wait(20)
    abort = Lane(lambda: rotation.abort_and_wait(ERROR, 20))
    assert abort.waits()
    go_on.set()
    assert abort.outcome() is True
    putting.outcome()
    rotation.resume()
    assert taking.waits()  # what was written is void


def test_an_abort_gives_up_on_a_thread_that_does_not_park(rotation):
    assert rotation.abort_and_wait(ERROR, 0.02) is False


def test_an_abort_interrupts_a_wait_for_the_commit_thread(rotation):
    rotation.hand_over(written())
    full = Lane(lambda: rotation.hand_over(written()))
    assert full.waits()
    assert rotation.abort_and_wait(ERROR, 0.01) is False
    full.outcome()


def test_an_abort_drops_what_is_queued_written_and_open(rotation):
    rotation.put(batch())
    rotation.take()
    rotation.put(batch(1))
    rotation.hand_over(written())
    abort = Lane(lambda: rotation.abort_and_wait(ERROR, 20))
    assert abort.waits()
    rotation.write_out()
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


def test_a_batch_that_is_put_during_an_abort_is_written_after_it(rotation):
    abort = Lane(lambda: rotation.abort_and_wait(ERROR, 20))
    taking = Lane(rotation.take)
    abort.outcome()
    rotation.put(batch(3))  # and does not wait: it may be the poll thread's, which the abort needs
    assert taking.waits()
    rotation.resume()
    assert offsets(taking.outcome()) == [3]
    assert rotation.held == 1


def test_nobody_is_told_to_score_during_an_abort(rotation):
    rotation.fail(ERROR)
    assert not rotation.wait_room(0)
    assert not rotation.wait_room(0, wanted=True)


def test_the_end_of_the_input_during_an_abort_is_not_taken_for_the_end_of_the_output(rotation):
    abort = Lane(lambda: rotation.abort_and_wait(ERROR, 20))
    taking = Lane(rotation.take)
    abort.outcome()
    rotation.close()
    assert taking.waits()
    rotation.resume()
    assert taking.outcome() is None


@pytest.mark.parametrize("eager", [False, True])
def test_many_aborts_under_load_lose_nothing_that_was_put_after_the_last(eager):
    """Scorer, flush, commit and aborts run freely; what one epoch puts comes out of it whole and in order, or is dropped."""
    rotation = rotating(SystemClock(), interval_s=0.002, min_interval_s=0, eager=eager)
    committed: list[int] = []

    def flush():
        while (one := rotation.take()) is not None:
            if one.closing:
                rotation.hand_over(one)
            rotation.write_out()
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

    lanes = [Lane(flush), Lane(commit)]
    for n in range(2000):
        if n % 100 == 50 and n < 1900:
            rotation.fail(ERROR)
        rotation.put(batch(n), more_behind=n % 7 != 0)
    rotation.close()
    assert [lane.outcome() for lane in lanes] == [None, None]
    assert committed.count(-1) >= 10
    numbers = [n for n in committed if n >= 0]
    assert numbers == sorted(set(numbers))
    assert numbers[-100:] == list(range(1900, 2000))
    assert rotation.held == 0
