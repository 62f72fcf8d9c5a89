"""The cache on a real Redis that is stopped, restarted, refused, full, or slow."""

from __future__ import annotations

import threading
import time

import pytest
import redis

from streamserve.batch import CacheBatch, TopicPartition
from streamserve.cache.breaker import Backoff
from streamserve.cache.keys import offset_versions
from streamserve.cache.redis_cache import RedisCache
from streamserve.cache.writer import CacheWriter
from streamserve.clock import Deadline, SystemClock
from streamserve.config.settings import CacheSettings
from streamserve.demo.local_process import wait_until
from streamserve.demo.local_redis import LocalRedis, redis_available
from streamserve.errors import CacheError, ConfigError

pytestmark = pytest.mark.redis
PIPELINE = "flights"


@pytest.fixture(scope="module")
def shared():
    reason = redis_available()
    if reason is not None:
        pytest.skip(f"no Redis: {reason}")
    with LocalRedis() as local:
        yield local


@pytest.fixture
def server(shared):
    """A server of this module's own, running and empty."""
    shared.resume()
    if not shared.alive:
        shared.restart()
    with redis.Redis.from_url(shared.url) as admin:
        admin.flushall()
        admin.script_flush()
        admin.config_set("maxmemory", 0)
        yield shared
        shared.resume()


@pytest.fixture
def admin(server):
    with redis.Redis.from_url(server.url) as client:
        yield client


@pytest.fixture
def open_cache(server):
    opened = []

    def make(url=None, changes=None, **settings):
        settings = {"url": url or server.url, "timeout_ms": 1000} | settings
        cache = RedisCache(
            CacheSettings(**settings), PIPELINE, *([lambda: changes.append(1)] if changes is not None else [])
        )
        opened.append(cache)
        return cache

    yield make
    for cache in opened:
        cache.close()


def batch(keys, offset=0, document=b"{}"):
    keys = [key.encode() for key in keys]
    return CacheBatch(
        row=list(range(len(keys))),
        key=keys,
        version=offset_versions(4, [offset] * len(keys)),
        document=[document] * len(keys),
    )


def test_layout_and_time_to_live_are_as_documented(open_cache, admin):
    open_cache(ttl_s=100).write(batch(["a"], 7, b'{"x":1}'))
    name = b"pred:flights:a"
    assert admin.hgetall(name) == {b"v": b"0000004:0000000000000000007", b"d": b'{"x":1}'}
    assert 99_000 < admin.pttl(name) <= 100_000


def test_a_write_renews_the_time_to_live_and_a_superseded_one_does_not(open_cache, admin):
    cache = open_cache(ttl_s=100)
    cache.write(batch(["a"], 7))
    admin.expire("pred:flights:a", 10)
    cache.write(batch(["a"], 6))
    assert admin.ttl("pred:flights:a") <= 10
    cache.write(batch(["a"], 8))
    assert admin.ttl("pred:flights:a") > 90


def test_an_entry_vanishes_after_its_time(open_cache):
    cache = open_cache(ttl_s=1)
    cache.write(batch(["a"]))
    assert wait_until(lambda: cache.read([b"a"]) == [None], 5, lambda: None)


def test_a_script_that_was_forgotten_is_loaded_again(open_cache, admin):
    changes = []
    cache = open_cache(changes=changes)
    cache.write(batch(["a"], 1))
    admin.script_flush()
    before = len(changes)
    assert cache.write(batch(["a"], 2)) == 1
    assert len(changes) == before + 1


def test_a_key_of_another_type_does_not_hold_up_the_others(open_cache, admin):
    admin.set("pred:flights:b", "not ours")
    assert open_cache().write(batch(["a", "b", "c"])) == 2
    assert admin.get("pred:flights:b") == b"not ours"


def test_a_paused_server_is_a_timeout_and_the_answer_that_comes_late_is_nobody_elses(open_cache, server):
    cache = open_cache(timeout_ms=100)
    cache.write(batch(["a"], 1, b"first"))
    server.pause()
    began_s = time.monotonic()
    with pytest.raises(CacheError, match="no answer in 100 ms") as failure:
        cache.write(batch(["a"], 2, b"second"))
    assert failure.value.retryable
    assert time.monotonic() - began_s < 1
    server.resume()
    assert cache.read([b"x", b"a"])[0] is None
    cache.write(batch(["a"], 2, b"second"))
    assert cache.read([b"a"]) == [b"second"]


def test_a_restarted_server_is_written_to_again(open_cache, server):
    changes = []
    cache = open_cache(changes=changes)
    cache.write(batch(["a"], 5))
    server.shutdown()
    with pytest.raises(CacheError, match="is it running") as failure:
        cache.write(batch(["a"], 6))
    assert failure.value.retryable
    assert failure.value.exit_code == 69
    server.restart()
    before = len(changes)
    assert cache.write(batch(["a"], 6)) == 1
    assert len(changes) == before + 1


def test_a_replica_refuses_with_a_remedy_and_is_written_to_once_it_is_primary(open_cache, admin):
    changes = []
    cache = open_cache(changes=changes)
    cache.write(batch(["a"], 1))
    admin.replicaof("127.0.0.1", "1")
    try:
        with pytest.raises(CacheError, match="primary"):
            cache.write(batch(["a"], 2))
    finally:
        admin.replicaof("NO", "ONE")
    before = len(changes)
    assert cache.write(batch(["a"], 3)) == 1
    assert len(changes) == before + 1


def test_a_full_server_says_so(open_cache, admin):
    cache = open_cache()
    cache.ping()
    admin.config_set("maxmemory", 1)
    with pytest.raises(CacheError, match="out of memory"):
        cache.write(batch(["a"]))


def test_the_documented_rights_are_enough_and_each_of_them_is_needed(open_cache, admin, server, tmp_path):
    secret = tmp_path / "password"
    secret.write_text("s3cret\n")
    rights = ["+evalsha", "+script|load", "+hget", "+hset", "+pexpire", "+ping"]
    url = server.url

    def use(allowed):
        admin.execute_command(
            "ACL",
            "SETUSER",
            "worker",
            "reset",
            "on",
            ">s3cret",
            "~pred:flights:*",
            "~repair:flights",
            *allowed,
        )
        admin.script_flush()
        cache = open_cache(url, username="worker", password_file=str(secret))
        assert cache.write(batch(["a"], time.monotonic_ns())) == 1
        assert cache.read([b"a"]) == [b"{}"]
        partition = TopicPartition("in", 0)
        cache.write_marks({partition: 3})
        assert cache.read_marks([partition]) == {partition: 3}
        cache.ping()

    use(rights)
    for right in rights:
        with pytest.raises(CacheError, match="lacks a right") as failure:
            use([other for other in rights if other != right])
        assert not failure.value.retryable
    admin.execute_command("ACL", "SETUSER", "worker", "reset", "on", ">s3cret", "~pred:other:*", *rights)
    with pytest.raises(CacheError, match="lacks a right"):
        open_cache(url, username="worker", password_file=str(secret)).write(batch(["a"]))


def test_a_rotated_password_needs_no_restart_and_is_never_told(open_cache, admin, server, tmp_path):
    secret = tmp_path / "password"
    secret.write_text("first-secret")
    admin.execute_command("ACL", "SETUSER", "rotated", "reset", "on", ">first-secret", "~*", "+@all")
    cache = open_cache(username="rotated", password_file=str(secret))
    cache.write(batch(["a"], 1))
    admin.execute_command("ACL", "SETUSER", "rotated", "resetpass", ">second-secret")
    admin.execute_command("CLIENT", "KILL", "USER", "rotated")
    with pytest.raises(CacheError, match="password_file") as failure:
        cache.write(batch(["a"], 2))
    assert "secret" not in str(failure.value)
    secret.write_text("second-secret")
    assert cache.write(batch(["a"], 2)) == 1
    secret.unlink()
    admin.execute_command("CLIENT", "KILL", "USER", "rotated")
    with pytest.raises(CacheError, match="cannot read"):
        cache.write(batch(["a"], 3))


def test_credentials_in_the_address_are_never_told(open_cache):
    with pytest.raises(CacheError) as failure:
        open_cache("redis://someone:hunter2@127.0.0.1:1/0").ping()
    assert "hunter2" not in str(failure.value)
    with pytest.raises(ConfigError):
        open_cache("http://localhost").ping()


def test_a_hundred_thousand_keys(open_cache, admin):
    cache = open_cache(timeout_ms=5000)
    keys = [f"k{i}" for i in range(100_000)]
    assert cache.write(batch(keys, 1)) == 100_000
    assert cache.write(batch(keys, 1)) == 0
    assert admin.dbsize() == 100_000


def test_the_writer_outlives_a_pause_and_a_restart_and_ends_with_the_newest(open_cache, server):
    cache = open_cache(timeout_ms=100)
    clock = SystemClock()
    writer = CacheWriter(cache, queue_size=10_000, clock=clock, backoff=Backoff(first_s=0.02, most_s=0.2))
    thread = threading.Thread(target=writer.run, daemon=True)
    thread.start()
    keys = [f"k{i}" for i in range(50)]
    slowest_s = 0.0
    for offset in range(150):
        if offset == 30:
            server.pause()
        if offset == 70:
            server.resume()
        if offset == 100:
            server.shutdown()
        if offset == 120:
            server.restart()
        began_s = time.monotonic()
        writer.offer(batch(keys, offset, b"%d" % offset))
        slowest_s = max(slowest_s, time.monotonic() - began_s)
        time.sleep(0.01)
    assert writer.drain(Deadline.after(10, clock))
    with_all = open_cache().read([key.encode() for key in keys])
    assert with_all == [b"149"] * 50
    assert slowest_s < 0.3
    writer.close()
    thread.join(5)
    assert not thread.is_alive()


def test_a_cluster_is_written_by_slot(open_cache):
    with LocalRedis(overrides={"cluster-enabled": "yes"}) as node:
        with redis.Redis.from_url(node.url) as admin:
            admin.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            assert wait_until(
                lambda: (
                    b"cluster_state:ok"
                    in bytes(str(admin.execute_command("CLUSTER INFO")), "utf8").replace(b"': '", b":")
                ),
                20,
                lambda: None,
            )
        cache = open_cache(f"redis+cluster://127.0.0.1:{node.port}", timeout_ms=2000)
        keys = [f"k{i}" for i in range(300)]
        assert cache.write(batch(keys, 5)) == 300
        assert cache.write(batch(keys, 4)) == 0
        assert cache.read([b"k7", b"none", b"k299"]) == [b"{}", None, b"{}"]
        partition = TopicPartition("in", 0)
        cache.write_marks({partition: 9})
        assert cache.read_marks([partition]) == {partition: 9}
        cache.ping()


def test_a_cluster_that_is_away_is_an_outage_too(open_cache):
    with pytest.raises(CacheError, match="is it running") as failure:
        open_cache("redis+cluster://127.0.0.1:1").write(batch(["a"]))
    assert failure.value.retryable
