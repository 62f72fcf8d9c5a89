"""The growing batch between two threads."""

from __future__ import annotations

import threading

import pytest

from streamserve.clock import SystemClock
from streamserve.pipeline.batcher import Batcher
from streamserve.testing import ManualClock
from streamserve.worker.mailbox import Mailbox
from tests.chunks import chunk


def mailbox(*, max_size=4, capacity=8, max_delay_s=0.0, clock=None):
    batcher = Batcher(max_size=max_size, max_bytes=1 << 20, max_delay_s=max_delay_s, capacity=capacity)
    return Mailbox(batcher, clock or SystemClock())


class Taker(threading.Thread):
    def __init__(self, box):
        super().__init__(daemon=True)
        self.box, self.got, self.returned = box, None, threading.Event()
        self.start()

    def run(self):
        self.got = self.box.take()
        self.returned.set()


def test_whoever_waits_gets_the_first_chunk():
    box = mailbox()
    taker = Taker(box)
    assert not taker.returned.wait(0.02)
    box.put(chunk(1))
    assert taker.returned.wait(20)
    records, reason = taker.got
    assert (records.offset, reason) == ([0], "idle")


def test_a_full_mailbox_has_room_again_when_a_batch_was_taken():
    box = mailbox(capacity=8)
    box.put(chunk(7))
    assert box.wait_room(0)
    box.put(chunk(1, start=7))
    assert not box.wait_room(0.01)
    waiting = threading.Thread(target=lambda: rooms.append(box.wait_room(20)))
    rooms: list[bool] = []
    waiting.start()
    assert box.take()[0].offset == [0, 1, 2, 3]
    waiting.join(20)
    assert rooms == [True]


def test_a_delay_is_kept_by_the_clock_that_was_handed_in():
    clock = ManualClock(now_s=10)
    box = mailbox(max_delay_s=0.05, clock=clock)
    box.put(chunk(1, polled_s=10))
    taker = Taker(box)
    assert not taker.returned.wait(0.15)  # three times the delay on the wall
    clock.advance(0.05)
    assert taker.returned.wait(20)
    assert taker.got[1] == "delay"


def test_a_full_batch_does_not_wait_for_the_delay():
    box = mailbox(max_size=4, max_delay_s=3600, clock=ManualClock())
    box.put(chunk(4))
    assert box.take()[1] == "size"


def test_the_place_of_a_taker_that_sleeps_can_be_borrowed_and_given_back():
    box = mailbox()
    taker = Taker(box)
    assert box.borrow(20)
    box.put(chunk(5))
    records, reason = box.take_now()
    assert (records.offset, reason) == ([0, 1, 2, 3], "size")
    assert not taker.returned.wait(0.05)
    assert len(box.take_now()[0]) == 1
    assert box.take_now() is None
    box.put(chunk(2, start=5))
    box.give_back()
    assert taker.returned.wait(20)
    assert taker.got[0].offset == [5, 6]


def test_the_place_of_a_taker_that_works_cannot_be_borrowed():
    box = mailbox()
    assert not box.borrow(0.02)  # nobody sleeps here
    box.put(chunk(1))
    assert not box.borrow(0)
    box.take()
    taker = Taker(box)
    assert box.borrow(20)
    box.give_back()
    box.put(chunk(1))
    assert taker.returned.wait(20)


def test_a_closed_mailbox_lends_no_place():
    box = mailbox()
    taker = Taker(box)
    box.close()
    assert taker.returned.wait(20)
    assert not box.borrow(0.02)


def test_closing_ends_a_taker_whose_place_is_borrowed():
    box = mailbox()
    taker = Taker(box)
    assert box.borrow(20)
    box.close(discard=True)
    assert taker.returned.wait(20)
    assert box.take_now() is None


def test_who_borrowed_the_place_is_behind_while_full_batches_come_one_after_the_other():
    box = mailbox()
    taker = Taker(box)
    assert box.borrow(20)
    for count, behind in ((4, False), (4, True), (4, True), (0, False), (4, False), (0, False), (4, False), (3, False)):
        if count:
            box.put(chunk(count))
        box.take_now()
        assert box.behind is behind
    box.close()
    assert taker.returned.wait(20)


def test_a_place_can_be_borrowed_while_records_wait_for_company():
    clock = ManualClock(now_s=10)
    box = mailbox(max_delay_s=0.05, clock=clock)
    box.put(chunk(1, polled_s=10))
    taker = Taker(box)
    assert box.borrow(20)
    clock.advance(0.06)
    assert box.take_now()[1] == "delay"
    box.close()
    assert taker.returned.wait(20)


def test_in_a_borrowed_place_records_wait_for_company_as_anywhere():
    clock = ManualClock(now_s=10)
    box = mailbox(max_delay_s=0.05, clock=clock)
    taker = Taker(box)
    assert box.borrow(20)
    assert box.ready_in_s() is None
    box.put(chunk(1, polled_s=10))
    assert box.take_now() is None
    clock.advance(0.04)
    assert box.ready_in_s() == pytest.approx(0.01)
    clock.advance(0.01)
    clock.advance(0.001)
    assert box.ready_in_s() == 0
    assert box.take_now()[1] == "delay"
    box.close()
    assert taker.returned.wait(20)


def test_a_closed_mailbox_gives_out_what_it_holds_without_delay_and_then_ends():
    box = mailbox(max_size=4, max_delay_s=3600, clock=ManualClock())
    box.put(chunk(6))
    box.close()
    assert [len(box.take()[0]), len(box.take()[0]), box.take()] == [4, 2, None]


def test_closing_wakes_who_takes():
    box = mailbox()
    taker = Taker(box)
    box.close()
    assert taker.returned.wait(20)
    assert taker.got is None


def test_closing_with_discard_drops_what_is_there():
    box = mailbox()
    box.put(chunk(3))
    box.close(discard=True)
    assert box.take() is None


def test_closing_wakes_who_waits_for_room():
    box = mailbox(capacity=1)
    box.put(chunk(1))
    done = threading.Event()
    waiting = threading.Thread(target=lambda: (box.wait_room(60), done.set()), daemon=True)
    waiting.start()
    box.close()
    assert done.wait(20)


def test_nothing_is_lost_or_reordered_between_two_threads():
    box = mailbox(max_size=7, capacity=20)
    taken: list[int] = []

    def consume():
        while (batch := box.take()) is not None:
            taken.extend(batch[0].offset)

    consumer = threading.Thread(target=consume)
    consumer.start()
    at = 0
    while at < 5000:
        if box.wait_room(1):
            count = 1 + at % 5
            box.put(chunk(count, start=at))
            at += count
    box.close()
    consumer.join(20)
    assert taken == list(range(at))
