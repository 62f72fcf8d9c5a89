"""Repair markers and the repair of the tail."""

from __future__ import annotations

import pytest

from streamserve.batch import CacheBatch, TopicPartition
from streamserve.cache.keys import offset_version
from streamserve.cache.prediction_log import Chunk
from streamserve.cache.repair import RepairLimits, TailRepair
from streamserve.errors import BrokerUnavailable, CacheError
from streamserve.testing.cache import MemoryCache
from streamserve.worker.loop import COMMIT_WATCHDOG_S
from tests.unit.cache.clocks import HandClock

IN = TopicPartition("in", 0)
OTHER = TopicPartition("other", 0)
OUT = TopicPartition("out", 0)


class ListLog:
    """A prediction topic of one partition: record i is of key `k<i>` unless said otherwise."""

    def __init__(self, count):
        self.count = count
        self.positions = {}
        self.ends = {}
        self.error = None
        self.silent = False
        self.reads = []

    def home(self, source):
        return OUT

    def bounds(self, partition):
        if self.error:
            raise self.error
        return 0, self.count

    def stable_end(self, partition):
        return self.bounds(partition)[1]

    def read(self, ranges):
        self.positions = {tp: start for tp, (start, _) in ranges.items()}
        self.ends = {tp: end for tp, (_, end) in ranges.items()}
        self.reads.append(dict(ranges))

    @property
    def finished(self):
        return {tp for tp, end in self.ends.items() if self.positions[tp] >= end}

    def poll(self, max_records, timeout_s):
        start = self.positions[OUT]
        stop = start if self.silent else min(start + max_records, self.ends[OUT])
        self.positions[OUT] = stop
        n = range(start, stop)
        batch = CacheBatch(
            row=list(range(len(n))),
            key=[b"k%d" % i for i in n],
            version=[offset_version(1, i) for i in n],
            document=[b"%d" % i for i in n],
        )
        return Chunk(entries=batch, records=len(n), skipped={})

    def close(self):
        pass


class Queue:
    def __init__(self):
        self.number = 0
        self.done = True

    def ticket(self):
        return self.number

    def settled(self, ticket):
        return self.done


def repair(log, cache, clock=None, reports=None, **limits):
    limits = {"poll_records": 10, "mark_every_s": 10, "grace_s": 60, "max_records": 1000} | limits
    return TailRepair(
        log,
        cache,
        clock=clock or HandClock(),
        limits=RepairLimits(**limits),
        done=(reports if reports is not None else []).append,
    )


def work(tail, queue=None):
    queue = queue or Queue()
    while tail.step(queue):
        pass


def test_an_assigned_partition_is_repaired_from_its_marker_on():
    log, cache = ListLog(35), MemoryCache()
    cache.marks[IN] = 20
    tail = repair(log, cache)
    tail.assigned([IN])
    work(tail)
    assert set(cache.entries) == {b"k%d" % i for i in range(20, 35)}
    assert cache.marks[IN] == 35
    assert tail.complete == {IN}


def test_without_a_marker_a_short_topic_is_repaired_whole():
    log, cache, reports = ListLog(35), MemoryCache(), []
    tail = repair(log, cache, reports=reports)
    tail.assigned([IN])
    work(tail)
    assert len(cache.entries) == 35
    assert cache.marks == {IN: 35}
    assert (reports[0].records, reports[0].written, reports[0].incomplete) == (35, 35, ())


def test_a_tail_beyond_the_bound_is_repaired_at_its_end_and_keeps_its_marker():
    log, cache, reports = ListLog(100), MemoryCache(), []
    cache.marks[IN] = 10
    tail = repair(log, cache, reports=reports, max_records=30)
    tail.assigned([IN])
    work(tail)
    assert set(cache.entries) == {b"k%d" % i for i in range(70, 100)}
    assert cache.marks[IN] == 10
    assert reports[0].incomplete == (IN,)
    assert tail.complete == set()


def test_time_bounds_a_repair_too():
    log, cache, clock, reports = ListLog(1000), MemoryCache(), HandClock(), []
    tail = repair(log, cache, clock, reports, max_s=5)
    tail.assigned([IN])
    tail.step(Queue())
    clock.now_s += 6
    work(tail)
    assert cache.marks == {IN: 10}
    assert (reports[0].incomplete, reports[0].unfinished) == ((), (IN,))
    assert tail.complete == set()


def test_what_the_time_was_too_short_for_is_read_on_after_a_wait():
    log, cache, clock, reports = ListLog(50), MemoryCache(), HandClock(), []
    tail = repair(log, cache, clock, reports, max_s=5, retry_s=5)
    tail.assigned([IN])
    tail.step(Queue())
    clock.now_s += 6
    work(tail)
    assert tail.step(Queue()) is False
    clock.now_s += 5
    work(tail)
    assert log.reads == [{OUT: (0, 50)}, {OUT: (10, 50)}]
    assert len(cache.entries) == 50
    assert cache.marks == {IN: 50}
    assert tail.complete == {IN}
    assert reports[-1].unfinished == ()


def test_a_tail_beyond_the_bound_stays_incomplete_when_the_time_was_too_short_as_well():
    log, cache, clock, reports = ListLog(100), MemoryCache(), HandClock(), []
    cache.marks[IN] = 10
    tail = repair(log, cache, clock, reports, max_records=30, max_s=5)
    tail.assigned([IN])
    tail.step(Queue())
    clock.now_s += 6
    work(tail)
    assert (reports[0].incomplete, reports[0].unfinished) == ((IN,), ())
    assert cache.marks == {IN: 10}


def test_the_time_of_a_repair_starts_anew_while_brokers_are_away():
    log, cache, clock, reports = ListLog(50), MemoryCache(), HandClock(), []
    tail = repair(log, cache, clock, reports, max_s=5, retry_s=1)
    tail.assigned([IN])
    tail.step(Queue())
    log.error, log.silent = BrokerUnavailable("away"), True
    for _ in range(28):
        tail.step(Queue())
        clock.now_s += 1
    assert reports == []
    log.error, log.silent = None, False
    work(tail)
    assert len(log.reads) == 1
    assert (len(cache.entries), cache.marks, tail.complete) == (50, {IN: 50}, {IN})


def test_the_grace_is_longer_than_a_commit_may_hang():
    assert RepairLimits().grace_s > COMMIT_WATCHDOG_S


def test_a_defect_of_the_repair_leaves_the_queue_its_turn():
    log, cache, clock = ListLog(5), MemoryCache(), HandClock()
    log.error = ZeroDivisionError()
    tail = repair(log, cache, clock)
    tail.assigned([IN])
    with pytest.raises(ZeroDivisionError):
        tail.step(Queue())
    assert tail.step(Queue()) is False
    log.error = None
    clock.now_s += 5
    work(tail)
    assert len(cache.entries) == 5


def test_inputs_that_share_a_prediction_partition_have_markers_of_their_own():
    log, cache = ListLog(50), MemoryCache()
    cache.marks |= {IN: 40, OTHER: 15}
    tail = repair(log, cache)
    tail.assigned([IN, OTHER])
    work(tail)
    assert log.reads == [{OUT: (15, 50)}]
    assert cache.marks == {IN: 50, OTHER: 50}


def test_a_marker_moves_on_after_the_grace_once_the_queue_has_settled():
    log, cache, clock, queue = ListLog(5), MemoryCache(), HandClock(), Queue()
    tail = repair(log, cache, clock)
    tail.assigned([IN])
    work(tail, queue)
    clock.now_s += 10
    log.count = 9
    tail.step(queue)
    log.count = 12
    clock.now_s += 59
    tail.step(queue)
    tail.step(queue)
    assert cache.marks[IN] == 5
    queue.done = False
    clock.now_s += 1
    tail.step(queue)
    tail.step(queue)
    assert cache.marks[IN] == 5
    queue.done = True
    tail.step(queue)
    assert cache.marks[IN] == 9


def test_a_marker_stands_still_after_a_revoke():
    log, cache, clock, queue = ListLog(5), MemoryCache(), HandClock(), Queue()
    tail = repair(log, cache, clock)
    tail.assigned([IN])
    work(tail, queue)
    log.count = 9
    tail.step(queue)
    tail.revoked([IN])
    for _ in range(10):
        clock.now_s += 60
        tail.step(queue)
    assert cache.marks[IN] == 5


def test_a_request_repairs_every_owned_partition_again():
    log, cache = ListLog(5), MemoryCache()
    tail = repair(log, cache)
    tail.assigned([IN])
    work(tail)
    cache.entries.clear()
    cache.marks.clear()
    tail.request()
    work(tail)
    assert len(cache.entries) == 5


def test_a_cache_that_goes_away_in_between_is_repaired_after_healing():
    log, cache = ListLog(40), MemoryCache()
    tail = repair(log, cache)
    tail.assigned([IN])
    tail.step(Queue())
    tail.step(Queue())
    cache.fail_with = CacheError("away", retryable=True)
    for _ in range(3):
        try:
            tail.step(Queue())
        except CacheError:
            continue
        raise AssertionError("the cache is away")
    cache.fail_with = None
    work(tail)
    assert len(cache.entries) == 40
    assert cache.marks[IN] == 40


def test_a_topic_that_cannot_be_read_is_tried_again_later():
    log, cache, clock = ListLog(5), MemoryCache(), HandClock()
    log.error = BrokerUnavailable("away")
    tail = repair(log, cache, clock)
    tail.assigned([IN])
    assert tail.step(Queue()) is False
    log.error = None
    assert tail.step(Queue()) is False
    clock.now_s += 5
    work(tail)
    assert len(cache.entries) == 5
