"""Whatever happens to the writes on their way, the cache ends with the newest prediction of every key."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from streamserve.batch import CacheBatch
from streamserve.cache.breaker import Backoff
from streamserve.cache.keys import offset_version
from streamserve.cache.writer import CacheWriter
from streamserve.errors import CacheError
from streamserve.testing.cache import MemoryCache
from tests.unit.cache.clocks import HandClock

WRITES = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 40)), max_size=60)
"""(key, offset) each; duplicates are part of it."""


class LossyCache(MemoryCache):
    """Fails as told; every other failure happens after the write was done, as a timeout's may."""

    def __init__(self, outcomes):
        super().__init__()
        self.outcomes = list(outcomes)

    def write(self, entries):
        outcome = self.outcomes.pop() if self.outcomes else "ok"
        if outcome == "lost":
            raise CacheError("no connection", retryable=True)
        written = super().write(entries)
        if outcome == "unknown":
            raise CacheError("no answer", retryable=True)
        return written


def batch(writes):
    return CacheBatch(
        row=list(range(len(writes))),
        key=[b"k%d" % key for key, _ in writes],
        version=[offset_version(1, offset) for _, offset in writes],
        document=[b"%d" % offset for _, offset in writes],
    )


def newest(writes):
    best = {}
    for key, offset in writes:
        best[b"k%d" % key] = max(offset, best.get(b"k%d" % key, -1))
    return {key: (offset_version(1, offset), b"%d" % offset) for key, offset in best.items()}


@given(WRITES, st.randoms(use_true_random=False), st.lists(st.integers(1, 9), min_size=1, max_size=20))
def test_any_order_duplication_and_batching_ends_the_same(writes, random, sizes):
    arrivals = writes * 2
    random.shuffle(arrivals)
    cache = MemoryCache()
    while arrivals:
        size = random.choice(sizes)
        cache.write(batch(arrivals[:size]))
        arrivals = arrivals[size:]
    assert cache.entries == newest(writes)


@given(
    WRITES,
    st.lists(st.sampled_from(["ok", "lost", "unknown"]), max_size=30),
    st.lists(st.booleans(), max_size=60),
    st.integers(1, 5),
)
def test_outages_in_between_end_the_same(writes, outcomes, steps, batch_keys):
    cache, clock = LossyCache(outcomes), HandClock()
    writer = CacheWriter(
        cache,
        queue_size=100,
        clock=clock,
        batch_keys=batch_keys,
        backoff=Backoff(first_s=1, jitter=0.0),
        random=Random(1),
    )
    for index, write in enumerate(writes):
        writer.offer(batch([write]))
        if index < len(steps) and steps[index]:
            writer.step()
            clock.now_s += 1
    for _ in range(len(writes) + len(outcomes) + 1):
        writer.step()
        clock.now_s += 10
    assert cache.entries == newest(writes)
    assert writer.lost == 0


@given(WRITES, st.integers(1, 7))
def test_what_the_queue_drops_is_exactly_what_it_reports(writes, queue_size):
    cache = MemoryCache()
    writer = CacheWriter(cache, queue_size=queue_size, clock=HandClock(), random=Random(1))
    for write in writes:
        writer.offer(batch([write]))
    writer.step()
    missing = newest(writes).items() - cache.entries.items()
    assert bool(missing) <= writer.needs_repair
    assert (writer.lost > 0) == writer.needs_repair
