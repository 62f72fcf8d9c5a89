"""The stand-in for Redis."""

from __future__ import annotations

import socket

import pytest
import redis

from streamserve.cache.memory_server import MemoryServer


@pytest.fixture
def server():
    with MemoryServer(max_keys=5) as running:
        yield running


@pytest.fixture(params=[2, 3])
def client(server, request):
    with redis.Redis.from_url(server.url, protocol=request.param) as connected:
        yield connected


def test_hashes_in_both_protocols(client):
    assert client.ping()
    assert client.hset("h", mapping={"a": "1", "b": "2"}) == 2
    assert client.hset("h", "b", "3") == 0
    assert client.hget("h", "b") == b"3"
    assert client.hget("h", "x") is None
    assert client.hmget("h", "a", "x") == [b"1", None]
    assert client.hgetall("h") == {b"a": b"1", b"b": b"3"}
    assert client.hgetall("none") == {}
    assert client.exists("h", "none") == 1
    assert client.ttl("h") == -1
    assert client.expire("h", 100)
    assert 99 <= client.ttl("h") <= 100
    assert 99_000 <= client.pttl("h") <= 100_000
    assert client.dbsize() == 1
    assert list(client.scan_iter("h*")) == [b"h"]
    assert client.delete("h") == 1
    assert client.ttl("h") == -2


def test_a_key_vanishes_when_its_time_is_over(client):
    client.hset("h", "a", "1")
    client.pexpire("h", 0)
    assert client.exists("h") == 0


def test_the_oldest_key_leaves_a_full_server(client):
    for number in range(8):
        client.hset(f"k{number}", "a", "1")
    assert client.dbsize() == 5
    assert client.exists("k2") == 0
    assert client.exists("k3") == 1


def test_what_it_does_not_know_is_a_proper_error(client):
    for command in (
        ("LPUSH", "l", "1"),
        ("EVAL", "return 1", "0"),
        ("SCRIPT", "LOAD", "return 1"),
        ("HGET", "h"),
    ):
        with pytest.raises(redis.ResponseError):
            client.execute_command(*command)
    with pytest.raises(redis.exceptions.NoScriptError):
        client.evalsha("0" * 40, 0)
    assert client.ping()


@pytest.mark.parametrize(
    "noise",
    [b"*1000000000\r\n", b"*1\r\n$99999999999\r\n", b"*x\r\n", b"*1\r\n+PING\r\n", b"\xff" * 100_000],
)
def test_noise_ends_its_own_connection_only(server, noise):
    with socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1].split("/")[0])), timeout=5) as raw:
        raw.sendall(noise)
        raw.shutdown(socket.SHUT_WR)
        while raw.recv(4096):
            pass
    with redis.Redis.from_url(server.url) as other:
        assert other.ping()


def test_a_stopped_server_answers_nobody(server):
    with redis.Redis.from_url(server.url, retry=None) as client:
        client.ping()
        server.stop()
        with pytest.raises(redis.ConnectionError):
            client.ping()
