"""A stand-in for Redis on loopback, inside this process: for demos and tests where no server can be had.

Speaks RESP2 and RESP3 and only the commands that streamserve uses; the cache's script is played in Python by
the same rule. Owns its data, which is bounded: beyond `max_keys` the oldest key leaves. Refuses everything
else with a proper error, and is no server for production: no persistence, no authentication, one lock.
"""

from __future__ import annotations

import fnmatch
import socketserver
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from types import TracebackType
from typing import BinaryIO, Self, cast

from streamserve.cache.resp import Failure, Reply, Simple, encode, read_command
from streamserve.cache.script import WRITE, WRITE_SHA

_OK = Simple("OK")
_Hash = dict[bytes, bytes]


class MemoryServer:
    """A small Redis in threads of this process; a context manager.

    Args:
        port: TCP port on 127.0.0.1, default a free one.
        max_keys: most keys held; the oldest written leaves first.
    """

    def __init__(self, *, port: int = 0, max_keys: int = 100_000) -> None:
        self._port = port
        self.data = MemoryData(max_keys)
        self._server: _Server | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """`redis://` address."""
        return f"redis://127.0.0.1:{self._port}/0"

    def start(self) -> None:
        """Listen. Raises: OSError when the port is taken."""
        self._server = _Server(("127.0.0.1", self._port), self.data)
        self._port = self._server.server_address[1]
        threading.Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": 0.05},
            name="memory-redis",
            daemon=True,
        ).start()

    def stop(self) -> None:
        """Stop listening and close every connection; the data stays until the object goes. Idempotent."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
            server.close_connections()


class MemoryData:
    """The keys of a `MemoryServer` and its commands; safe for several threads."""

    def __init__(self, max_keys: int) -> None:
        self._max_keys = max_keys
        self._lock = threading.Lock()
        self._hashes: OrderedDict[bytes, _Hash] = OrderedDict()
        self._expires_s: dict[bytes, float] = {}
        self._scripts: set[bytes] = set()
        self._commands: dict[bytes, tuple[int, Callable[[list[bytes]], Reply]]] = {
            b"PING": (0, lambda a: a[0] if a else Simple("PONG")),
            b"CLIENT": (1, lambda _: _OK),
            b"SELECT": (1, lambda _: _OK),
            b"SCRIPT": (1, self._script),
            b"EVALSHA": (2, self._evalsha),
            b"HGET": (2, lambda a: self._live(a[0]).get(a[1])),
            b"HMGET": (2, lambda a: [self._live(a[0]).get(field) for field in a[1:]]),
            b"HGETALL": (1, lambda a: dict(self._live(a[0]))),
            b"HSET": (3, self._hset),
            b"EXISTS": (1, lambda a: sum(bool(self._live(key)) for key in a)),
            b"DEL": (1, self._del),
            b"TTL": (1, lambda a: self._ttl_ms(a[0], 1000)),
            b"PTTL": (1, lambda a: self._ttl_ms(a[0], 1)),
            b"EXPIRE": (2, lambda a: self._expire(a[0], int(a[1]) * 1000)),
            b"PEXPIRE": (2, lambda a: self._expire(a[0], int(a[1]))),
            b"DBSIZE": (0, lambda _: len(self._hashes)),
            b"FLUSHALL": (0, self._flush),
            b"SCAN": (1, self._scan),
        }

    def execute(self, command: list[bytes]) -> Reply:
        """The answer to one command."""
        name = command[0].upper()
        known = self._commands.get(name)
        if known is None:
            return Failure(f"ERR unknown command '{name.decode('ascii', 'replace')[:40]}'")
        least, play = known
        if len(command) - 1 < least:
            return Failure(f"ERR wrong number of arguments for '{name.decode().lower()}' command")
        with self._lock:
            try:
                return play(command[1:])
            except ValueError:
                return Failure("ERR value is not an integer or out of range")
            except IndexError:
                return Failure("ERR syntax error")

    def _live(self, key: bytes) -> _Hash:
        """The hash under this key; an empty one where there is none."""
        expires_s = self._expires_s.get(key)
        if expires_s is not None and expires_s <= time.monotonic():
            self._hashes.pop(key, None)
            self._expires_s.pop(key, None)
        return self._hashes.get(key, {})

    def _set(self, key: bytes, fields: _Hash) -> int:
        known = self._live(key)
        added = len(fields.keys() - known.keys())
        self._hashes[key] = known | fields
        self._hashes.move_to_end(key)
        while len(self._hashes) > self._max_keys:
            oldest, _ = self._hashes.popitem(last=False)
            self._expires_s.pop(oldest, None)
        return added

    def _hset(self, arguments: list[bytes]) -> Reply:
        pairs = arguments[1:]
        if len(pairs) % 2:
            return Failure("ERR wrong number of arguments for 'hset' command")
        return self._set(arguments[0], dict(zip(pairs[::2], pairs[1::2], strict=True)))

    def _del(self, keys: list[bytes]) -> Reply:
        for key in keys:
            self._expires_s.pop(key, None)
        return sum(self._hashes.pop(key, None) is not None for key in keys)

    def _expire(self, key: bytes, ttl_ms: int) -> int:
        if not self._live(key):
            return 0
        self._expires_s[key] = time.monotonic() + ttl_ms / 1000
        return 1

    def _ttl_ms(self, key: bytes, unit_ms: int) -> int:
        if not self._live(key):
            return -2
        expires_s = self._expires_s.get(key)
        return -1 if expires_s is None else round((expires_s - time.monotonic()) * 1000 / unit_ms)

    def _flush(self, _: list[bytes]) -> Reply:
        self._hashes.clear()
        self._expires_s.clear()
        return _OK

    def _scan(self, arguments: list[bytes]) -> Reply:
        """All keys at once: a cursor of 0 is a complete answer."""
        options = {name.upper(): value for name, value in zip(arguments[1::2], arguments[2::2], strict=True)}
        pattern = options.get(b"MATCH", b"*")
        return [
            b"0",
            [key for key in list(self._hashes) if self._live(key) and fnmatch.fnmatchcase(key, pattern)],
        ]

    def _script(self, arguments: list[bytes]) -> Reply:
        action = arguments[0].upper()
        if action == b"LOAD" and arguments[1:] == [WRITE.encode()]:
            self._scripts.add(WRITE_SHA.encode())
            return WRITE_SHA.encode()
        if action == b"FLUSH":
            self._scripts.clear()
            return _OK
        return Failure("ERR this stand-in plays streamserve's own script only")

    def _evalsha(self, arguments: list[bytes]) -> Reply:
        if arguments[0] not in self._scripts:
            return Failure("NOSCRIPT No matching script.")
        count = int(arguments[1])
        keys, rest = arguments[2 : 2 + count], arguments[2 + count :]
        if len(rest) != 1 + 2 * count:
            return Failure("ERR wrong number of arguments for the script")
        written = 0
        for key, version, document in zip(keys, rest[1:], rest[1 + count :], strict=False):
            known = self._live(key).get(b"v")
            if known is None or version > known:
                self._set(key, {b"v": version, b"d": document})
                self._expire(key, int(rest[0]))
                written += 1
        return written


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], data: MemoryData) -> None:
        self.data = data
        self.connections: set[_Connection] = set()
        super().__init__(address, _Connection)

    def close_connections(self) -> None:
        for connection in list(self.connections):
            self.shutdown_request(connection.request)


class _Connection(socketserver.StreamRequestHandler):
    """One client: commands in, answers out."""

    disable_nagle_algorithm = True

    def handle(self) -> None:
        server = cast("_Server", self.server)
        server.connections.add(self)
        protocol = 2
        reader = cast("BinaryIO", self.rfile)
        try:
            while command := read_command(reader):
                if command[0].upper() == b"HELLO":
                    asked = int(command[1]) if len(command) > 1 and command[1].isdigit() else protocol
                    answer, protocol = _hello(asked, protocol)
                else:
                    answer = server.data.execute(command)
                self.wfile.write(encode(answer, protocol))
        except (OSError, ValueError):
            return  # the client has gone, or does not speak RESP
        finally:
            server.connections.discard(self)


def _hello(asked: int, now: int) -> tuple[Reply, int]:
    if asked not in {2, 3}:
        return Failure("NOPROTO unsupported protocol version"), now
    facts: dict[bytes, Reply] = {
        b"server": b"streamserve",
        b"version": b"7.0.0",
        b"proto": asked,
        b"mode": b"standalone",
    }
    return facts, asked
