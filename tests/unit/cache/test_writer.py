"""The queue before the cache."""

from __future__ import annotations

import threading
import time
from random import Random

from streamserve.batch import CacheBatch
from streamserve.cache import writer as cache_writer
from streamserve.cache.breaker import Backoff
from streamserve.cache.keys import offset_version
from streamserve.cache.writer import CacheWriter, WriterMetrics
from streamserve.clock import Deadline, SystemClock
from streamserve.errors import CacheError
from streamserve.testing.cache import MemoryCache
from tests.unit.cache.clocks import HandClock

AWAY = CacheError("away", retryable=True)


def entries(**offsets):
    return CacheBatch(
        row=list(range(len(offsets))),
        key=[key.encode() for key in offsets],
        version=[offset_version(1, offset) for offset in offsets.values()],
        document=[b"%s@%d" % (key.encode(), offset) for key, offset in offsets.items()],
    )


def large(key, offset, size):
    return CacheBatch(row=[0], key=[key.encode()], version=[offset_version(1, offset)], document=[b"x" * size])


def writer(cache, clock=None, **options):
    options = {"queue_size": 100, "backoff": Backoff(jitter=0.0), "random": Random(1)} | options
    return CacheWriter(cache, clock=clock or HandClock(), **options)


class FakeRepair:
    def __init__(self):
        self.requests = 0
        self.steps = 0

    def request(self):
        self.requests += 1

    def step(self, queue):
        self.steps += 1
        return False

    def close(self):
        pass


def test_what_is_offered_is_written_once():
    cache = MemoryCache()
    work = writer(cache)
    work.offer(entries(a=1, b=2))
    assert work.step() > 0
    assert cache.read([b"a", b"b"]) == [b"a@1", b"b@2"]
    assert work.step() > 0
    assert cache.calls == 1


def test_while_a_whole_batch_waits_the_next_write_is_due_at_once():
    work = writer(MemoryCache(), batch_keys=2)
    work.offer(entries(a=1, b=1, c=1, d=1, e=1))
    assert work.step() == 0.0
    assert work.step() > 0
    assert len(work._waiting) == 1


def test_what_is_left_of_a_batch_is_written_without_another_offer():
    cache = MemoryCache()
    work = writer(cache, clock=SystemClock(), batch_keys=2)
    thread = threading.Thread(target=work.run)
    work.offer(entries(a=1, b=1, c=1))
    thread.start()
    assert work.drain(Deadline.after(10, SystemClock()))
    assert set(cache.entries) == {b"a", b"b", b"c"}
    work.close()
    thread.join(10)


def test_entries_gather_behind_a_write(monkeypatch):
    monkeypatch.setattr(cache_writer, "GATHER_S", 3600.0)
    cache = MemoryCache()
    work = writer(cache)
    thread = threading.Thread(target=work.run)
    thread.start()
    work.offer(entries(a=1))
    assert work.drain(Deadline.after(10, SystemClock()))
    for offset in range(2, 10):
        work.offer(entries(a=offset))
    assert not work.drain(Deadline.after(0.1, SystemClock()))
    assert cache.calls == 1
    work.close()  # ends the rest
    thread.join(10)
    assert not thread.is_alive()


def test_entries_of_a_key_coalesce_to_the_newest_in_whatever_order():
    cache = MemoryCache()
    work = writer(cache)
    for offset in (3, 9, 5):
        work.offer(entries(a=offset))
    work.step()
    assert cache.read([b"a"]) == [b"a@9"]
    assert cache.calls == 1


def test_an_outage_keeps_entries_and_healing_writes_them():
    cache, clock = MemoryCache(), HandClock()
    counts = []
    work = writer(
        cache,
        clock,
        metrics=WriterMetrics(
            failed=lambda error: counts.append(("failed", str(error))),
            healed=lambda: counts.append("healed"),
            errors=lambda n: counts.append(("errors", n)),
            written=lambda n: counts.append(("written", n)),
            skipped=lambda n: counts.append(("skipped", n)),
        ),
    )
    cache.fail_with = AWAY
    work.offer(entries(a=1))
    assert 0 < work.step() < 0.11
    assert work.state == "open"
    work.offer(entries(a=2, b=1))
    clock.now_s += 0.2
    work.step()
    cache.fail_with = None
    clock.now_s += 0.3
    assert work.state == "half_open"
    work.step()
    assert work.state == "closed"
    work.step()
    assert cache.read([b"a", b"b"]) == [b"a@2", b"b@1"]
    assert counts.count(("failed", "away")) == 1
    assert counts.count(("errors", 1)) == 2
    assert counts.count("healed") == 1


def test_batches_are_bounded_and_oldest_first():
    cache = MemoryCache()
    work = writer(cache, batch_keys=2)
    work.offer(entries(a=1, b=1, c=1))
    work.step()
    assert set(cache.entries) == {b"a", b"b"}
    work.step()
    assert set(cache.entries) == {b"a", b"b", b"c"}


def test_an_overflow_is_counted_and_asks_for_a_repair_after_healing():
    cache, clock, repair = MemoryCache(), HandClock(), FakeRepair()
    work = writer(cache, clock, queue_size=2, repair=repair)
    cache.fail_with = AWAY
    work.offer(entries(a=1, b=1, c=1))
    work.offer(entries(a=5))
    work.step()
    assert work.needs_repair
    assert work.lost == 1
    assert work.ticket() is None
    clock.now_s += 0.5
    cache.fail_with = None
    work.step()
    assert repair.requests == 1
    assert not work.needs_repair
    assert work.ticket() is not None
    assert cache.read([b"a", b"b", b"c"]) == [b"a@5", b"b@1", None]


def test_memory_is_bounded_while_nothing_is_written():
    work = writer(MemoryCache(), queue_size=10)
    for offset in range(1000):
        work.offer(entries(**{f"k{i}": offset for i in range(5)}))
    assert len(work._waiting) + work._inbox_entries <= 20
    assert work.lost == 0


def test_memory_is_bounded_in_bytes_too_and_what_has_no_room_asks_for_a_repair():
    cache, clock, repair = MemoryCache(), HandClock(), FakeRepair()
    work = writer(cache, clock, queue_size=1000, queue_bytes=1000, batch_keys=1, repair=repair)
    cache.fail_with = AWAY
    for number in range(200):
        work.offer(large(f"k{number}", 1, 100))
        work.step()
        clock.now_s += 10
    held = [*work._waiting.values(), *work._taken.values()]
    assert sum(len(document) for _, document, _ in held) <= 1000
    assert len(held) == 7  # keys and versions count
    assert work.lost == 193
    assert work.needs_repair
    cache.fail_with = None
    for _ in range(10):
        work.step()
    assert not work.needs_repair
    assert (len(cache.entries), work._waiting_bytes, work._taken_bytes) == (7, 0, 0)


def test_a_newer_document_that_is_too_large_for_the_queue_counts_as_lost():
    cache = MemoryCache()
    work = writer(cache, queue_bytes=200)
    work.offer(large("a", 1, 100))
    work.offer(large("a", 2, 1000))
    work.step()
    assert (work.lost, cache.read([b"a"])) == (1, [b"x" * 100])
    work.offer(large("a", 3, 50))
    work.offer(large("a", 4, 20))
    work.step()
    assert (work.lost, cache.read([b"a"])) == (1, [b"x" * 20])


def test_documents_in_the_inbox_are_bounded_by_their_bytes():
    work = writer(MemoryCache(), queue_bytes=1000)
    for offset in range(100):
        work.offer(large("a", offset, 300))
    assert work._inbox_bytes <= 1000
    assert work.lost == 0


def test_an_outage_that_may_have_been_a_failover_asks_for_a_repair_before_markers_move():
    cache, clock = MemoryCache(), HandClock()
    repair = FakeRepair()
    repair.requests_at_step = []
    step = repair.step
    repair.step = lambda queue: repair.requests_at_step.append(repair.requests) or step(queue)
    work = writer(cache, clock, repair=repair)
    for outage_s, requests in ((0.9, 0), (1.1, 1), (60, 2)):
        cache.fail_with = AWAY
        work.offer(entries(a=1))
        work.step()
        clock.now_s += outage_s
        cache.fail_with = None
        work.step()
        assert work.state == "closed"
        work.step()
        assert repair.requests == requests
        assert repair.requests_at_step[-1] == requests
        assert repair.requests_at_step[-2] == requests


def test_whatever_a_client_raises_is_a_failure_of_the_cache_and_told():
    told = []
    cache, clock = MemoryCache(), HandClock()
    work = writer(cache, clock, metrics=WriterMetrics(failed=told.append))
    work.offer(entries(a=1))
    for error in (IndexError("list index out of range"), KeyError("slot"), ZeroDivisionError()):
        cache.fail_with = error
        assert work.step() > 0
        assert work.state == "open"
        assert repr(error) in str(told[-1])
        cache.fail_with = None
        clock.now_s += 10
        work.step()
        assert work.state == "closed"
        work.offer(entries(a=len(told) + 1))
    assert all(isinstance(error, CacheError) for error in told)


def test_an_error_at_the_end_does_not_leave_the_thread():
    told = []

    class Clinging(MemoryCache):
        def close(self):
            raise KeyError("node")

    work = writer(Clinging(), metrics=WriterMetrics(failed=told.append))
    work.close()
    work.run()
    assert "node" in str(told[0])


def test_upkeep_gets_its_turn_while_the_cache_is_away_and_may_fail_too():
    calls, told = [], []
    cache = MemoryCache()
    cache.fail_with = AWAY
    work = writer(cache, upkeep=lambda: calls.append(1), metrics=WriterMetrics(failed=told.append))
    work.offer(entries(a=1))
    for _ in range(3):
        work.step()
    assert (len(calls), cache.calls) == (3, 0)
    work = writer(MemoryCache(), upkeep=[].pop, metrics=WriterMetrics(failed=told.append))
    assert work.step() > 0
    assert "IndexError" in str(told[-1])


def test_a_ticket_is_settled_when_all_that_was_offered_before_it_is_written():
    cache, clock = MemoryCache(), HandClock()
    work = writer(cache, clock, batch_keys=1)
    work.offer(entries(a=1, b=1))
    ticket = work.ticket()
    work.offer(entries(c=1))
    work.step()
    assert not work.settled(ticket)
    cache.fail_with = AWAY
    work.step()
    assert not work.settled(ticket)
    cache.fail_with = None
    clock.now_s += 1
    work.step()
    assert work.settled(ticket)
    assert not work.settled(work.ticket())


def test_a_key_that_is_offered_again_still_counts_for_its_first_offer():
    work = writer(MemoryCache(), batch_keys=1)
    work.offer(entries(a=1))
    work.offer(entries(b=1))
    ticket = work.ticket()
    work.offer(entries(b=2))
    work.step()
    assert not work.settled(ticket)


def test_repair_gets_its_turn_after_every_write():
    repair = FakeRepair()
    work = writer(MemoryCache(), repair=repair)
    for offset in range(3):
        work.offer(entries(a=offset))
        work.step()
    assert repair.steps == 3


def test_the_thread_writes_drains_and_ends():
    cache = MemoryCache()
    work = writer(cache, SystemClock())
    thread = threading.Thread(target=work.run)
    thread.start()
    for offset in range(200):
        work.offer(entries(a=offset, b=offset))
    assert work.drain(Deadline.after(5, SystemClock()))
    assert cache.read([b"a"]) == [b"a@199"]
    work.close()
    thread.join(5)
    assert not thread.is_alive()


def test_a_drain_ends_at_its_deadline_and_offer_never_blocks_while_the_cache_is_stuck():
    release = threading.Event()

    class Stuck(MemoryCache):
        def write(self, batch):
            release.wait(10)
            return super().write(batch)

    work = writer(Stuck(), SystemClock())
    thread = threading.Thread(target=work.run)
    thread.start()
    work.offer(entries(a=1))
    began_s = time.monotonic()
    for offset in range(100):
        work.offer(entries(a=offset))
    assert time.monotonic() - began_s < 1
    assert not work.drain(Deadline.after(0.1, SystemClock()))
    release.set()
    assert work.drain(Deadline.after(5, SystemClock()))
    work.close()
    thread.join(5)
