"""The contract of the cache port, on Redis, on its stand-in, and in memory."""

from __future__ import annotations

import pytest

from streamserve.batch import CacheBatch, TopicPartition
from streamserve.cache.keys import offset_version
from streamserve.cache.memory_server import MemoryServer
from streamserve.cache.redis_cache import RedisCache
from streamserve.config.settings import CacheSettings
from streamserve.testing.cache import MemoryCache
from tests.services import unique


@pytest.fixture(params=["memory", "stand-in", "redis"])
def cache(request):
    if request.param == "memory":
        yield MemoryCache()
        return
    if request.param == "redis":
        url = request.getfixturevalue("redis_server").url
        adapter = RedisCache(CacheSettings(url=url, timeout_ms=5000), unique("p"))
        yield adapter
        adapter.close()
        return
    with MemoryServer() as server:
        adapter = RedisCache(CacheSettings(url=server.url, timeout_ms=5000), unique("p"))
        yield adapter
        adapter.close()


def batch(*rows):
    """(key, offset) or (key, offset, document) each."""
    return CacheBatch(
        row=list(range(len(rows))),
        key=[row[0] for row in rows],
        version=[offset_version(4, row[1]) for row in rows],
        document=[row[2] if len(row) > 2 else b"%d" % row[1] for row in rows],
    )


def test_what_is_written_is_read(cache):
    assert cache.write(batch((b"a", 1), (b"b", 2))) == 2
    assert cache.read([b"b", b"nothing", b"a"]) == [b"2", None, b"1"]


def test_an_older_write_changes_nothing(cache):
    cache.write(batch((b"a", 9)))
    assert cache.write(batch((b"a", 3))) == 0
    assert cache.read([b"a"]) == [b"9"]


def test_the_same_write_again_changes_nothing(cache):
    cache.write(batch((b"a", 9)))
    assert cache.write(batch((b"a", 9))) == 0
    assert cache.read([b"a"]) == [b"9"]


def test_a_newer_write_wins(cache):
    cache.write(batch((b"a", 9)))
    assert cache.write(batch((b"a", 10))) == 1
    assert cache.read([b"a"]) == [b"10"]


def test_a_key_twice_in_a_batch_keeps_its_newest_and_counts_once(cache):
    assert cache.write(batch((b"a", 5), (b"a", 7), (b"a", 6))) == 1
    assert cache.read([b"a"]) == [b"7"]


def test_offsets_beyond_2_to_the_53_are_told_apart(cache):
    cache.write(batch((b"a", 2**53 + 1)))
    assert cache.write(batch((b"a", 2**53))) == 0
    assert cache.write(batch((b"a", 2**53 + 2))) == 1


def test_any_bytes_are_a_key_and_a_document(cache):
    rows = [(key, 1, b"\x00\r\n" + key) for key in (b"", b" ", b"\x00", b"{a}", b"x" * 5000, b"#a", "é".encode())]
    assert cache.write(batch(*rows)) == len(rows)
    assert cache.read([row[0] for row in rows]) == [row[2] for row in rows]


def test_nothing_is_nothing(cache):
    assert cache.write(batch()) == 0
    assert cache.read([]) == []


def test_a_large_batch_is_written_whole(cache):
    rows = [(b"k%d" % i, i) for i in range(12_345)]
    assert cache.write(batch(*rows)) == 12_345
    assert cache.read([b"k0", b"k999", b"k1000", b"k12344"]) == [b"0", b"999", b"1000", b"12344"]


def test_large_documents_are_written_whole(cache):
    rows = [(b"k%d" % i, 1, b"%d" % i * 1_000_000) for i in range(10)]
    assert cache.write(batch(*rows)) == 10
    assert cache.read([b"k9"]) == [b"9" * 1_000_000]


def test_markers_are_kept_per_partition(cache):
    a, b = TopicPartition("in.a", 0), TopicPartition("in.a", 1)
    assert cache.read_marks([a, b]) == {}
    cache.write_marks({a: 5})
    cache.write_marks({b: 7})
    cache.write_marks({})
    assert cache.read_marks([a, b, TopicPartition("in.b", 0)]) == {a: 5, b: 7}


def test_it_answers_and_closes_twice(cache):
    cache.ping()
    cache.close()
    cache.close()
