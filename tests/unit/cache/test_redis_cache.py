"""The Redis adapter where it meets trouble, on the stand-in for a server."""

from __future__ import annotations

import pytest
from redis.exceptions import TimeoutError as RedisTimeoutError

from streamserve.batch import CacheBatch, TopicPartition
from streamserve.cache.memory_server import MemoryServer
from streamserve.cache.redis_cache import GROW_AFTER, MAX_KEYS, RedisCache
from streamserve.config.settings import CacheSettings
from streamserve.errors import CacheError

HERE = TopicPartition("in", 0)


def batch(count, size=1):
    return CacheBatch(
        row=list(range(count)),
        key=[b"k%d" % i for i in range(count)],
        version=[b"1"] * count,
        document=[b"x" * size] * count,
    )


class SlowCache(RedisCache):
    """Times out when a call has more than `bearable` keys."""

    bearable = 0
    calls: list[int]

    def _write_all(self, names, entries):
        self.calls.append(len(names))
        if len(names) > self.bearable:
            raise RedisTimeoutError("Timeout writing to socket")
        return len(names)


@pytest.fixture
def slow():
    cache = SlowCache(CacheSettings(url="redis://127.0.0.1:1/0"), "p")
    cache.calls = []
    return cache


def test_calls_halve_after_time_outs_down_to_one_key(slow):
    for _ in range(12):
        with pytest.raises(CacheError):
            slow.write(batch(MAX_KEYS))
    assert slow.calls == [1000, 500, 250, 125, 62, 31, 15, 7, 3, 1, 1, 1]


def test_calls_halve_in_bytes_as_well(slow):
    with pytest.raises(CacheError):
        slow.write(batch(4, size=1 << 20))
    slow.bearable = 2
    assert slow.write(batch(4, size=1 << 20)) == 4
    assert slow.calls == [4, 2, 2]


def test_calls_grow_back_after_successes(slow):
    slow.bearable = 250
    for _ in range(2):
        with pytest.raises(CacheError):
            slow.write(batch(MAX_KEYS))
    assert slow.most_keys == 250
    slow.bearable = MAX_KEYS
    for _ in range(GROW_AFTER):
        assert slow.most_keys == 250
        slow.write(batch(1))
    assert slow.most_keys == 500
    for _ in range(GROW_AFTER):
        slow.write(batch(1))
    assert slow.most_keys == MAX_KEYS


def test_other_errors_leave_the_size_of_calls(slow):
    slow._write_all = lambda names, entries: (_ for _ in ()).throw(ConnectionError("refused"))
    with pytest.raises(CacheError):
        slow.write(batch(10))
    assert slow.most_keys == MAX_KEYS


def test_a_marker_is_not_the_first_that_a_new_server_gets():
    changes = []
    with MemoryServer() as server:
        cache = RedisCache(CacheSettings(url=server.url, timeout_ms=5000), "p", lambda: changes.append(1))
        cache.write(batch(1))
        cache.write_marks({HERE: 5})
        changes.clear()
        server.data.execute([b"FLUSHALL"])
        server.data.execute([b"SCRIPT", b"FLUSH"])
        cache.write_marks({HERE: 7})
        assert (changes, cache.read_marks([HERE])) == ([1], {})
        cache.write_marks({HERE: 8})
        assert cache.read_marks([HERE]) == {HERE: 8}
        cache.close()
