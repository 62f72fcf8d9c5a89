"""The prediction cache in Redis or Valkey, one server or a cluster.

Owns the client, the compare-and-set of whole batches by one script call, and the map from the client's errors
to `CacheError`. Keeps no queue and retries only what an immediate second try mends: a server that does not
know the script (NOSCRIPT) and one that became a replica (READONLY). Waiting, backoff and repair are `writer`
and `repair`.

RESP2 is spoken on purpose: every server since 2.6 knows it, nothing here needs RESP3, and it saves a HELLO,
so that the user in Redis needs few rights: `evalsha`, `script|load`, `hget`, `hset`, `pexpire`, `ping`.

Cost: 0.9 us of client CPU a key at 1,000 keys a call and documents of 200 bytes, where the same call by redis-py's
`execute_command` costs 1.2 and a pipeline of SETs 9.1 (`python -m benchmarks.cache_write`, 2026-11-21, two shared x86
cores, Redis 7.0.15 on loopback, redis-py 8.1, hiredis 3.5, Python 3.11). The server needs 3 us a key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar, cast

from hiredis import pack_command
from redis.crc import key_slot
from redis.exceptions import NoScriptError, ReadOnlyError, RedisClusterException, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from streamserve.batch import CacheBatch, TopicPartition
from streamserve.cache.entries import newest
from streamserve.cache.keys import KeyLayout
from streamserve.cache.redis_client import connect, is_cluster, mapped, server_may_differ
from streamserve.cache.script import WRITE, WRITE_SHA
from streamserve.config.settings import CacheSettings
from streamserve.errors import CacheError

MAX_KEYS = 1000
"""Most keys of one script call: the server serves nobody else meanwhile, 1,000 keys take about 3 ms."""
MAX_BYTES = 4 << 20
"""Most bytes of documents in one script call."""
MAX_HALVINGS = 9
"""After as many time-outs in a row a call has one key: 1,000 / 2^9."""
GROW_AFTER = 10
"""Calls in a row that were answered in time before the next may be twice as large: at once would find the next
time-out as soon."""

T = TypeVar("T")


def _nothing() -> None:
    """Default of `on_server_change`."""


class RedisCache:
    """Port `Cache` on Redis. One thread at a time; connects at the first call.

    Args:
        settings: the `cache` block.
        pipeline: name of the pipeline, part of every key.
        on_server_change: called after a call that found another or an emptied server behind the address (it
            did not know the script, refused writes, or dropped the connection): entries may be missing there.
    """

    def __init__(self, settings: CacheSettings, pipeline: str, on_server_change: Callable[[], None] = _nothing) -> None:
        self._settings = settings
        self._layout = KeyLayout(pipeline)
        self._ttl_ms = settings.ttl_s * 1000
        self._cluster = is_cluster(settings.url)
        self._on_server_change = on_server_change
        self._changed = False
        self._changes = 0
        self._met = False  # whether a server was given the script by us
        self._halvings = self._in_time = 0
        self._client: Any = None

    def write(self, entries: CacheBatch) -> int:
        latest = newest(entries)
        write = self._write_slots if self._cluster else self._write_all
        sizes = list(map(len, latest.document))
        start = written = 0
        while start < len(sizes):
            stop = _stop(sizes, start, self.most_keys, MAX_BYTES >> self._halvings)
            chunk = latest if stop - start == len(sizes) else latest.take(range(start, stop))
            start = stop
            names = self._layout.names(chunk.key)
            try:
                written += self._guarded(partial(write, names, chunk), "write")
            except CacheError as error:
                if isinstance(error.__cause__, RedisTimeoutError):
                    self._halvings, self._in_time = min(self._halvings + 1, MAX_HALVINGS), 0
                raise
            self._met = True
            self._grow()
        return written

    @property
    def most_keys(self) -> int:
        """Most keys of the next script call: half as many after each time-out, growing back."""
        return max(1, MAX_KEYS >> self._halvings)

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        names = self._layout.names(keys)
        found: list[bytes | None] = []
        for start in range(0, len(names), MAX_KEYS):
            wanted = [(name, b"d") for name in names[start : start + MAX_KEYS]]
            found += self._guarded(partial(self._fields, wanted), "read")
        return found

    def ping(self) -> None:
        """Make sure that the server answers. Raises: CacheError."""
        self._guarded(lambda: self._connected().ping(), "reach")

    def read_marks(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The stored repair markers of these partitions, as far as there are any. Raises: CacheError."""
        asked = list(partitions)
        wanted = [(self._layout.marks, b"%s-%d" % (tp.topic.encode(), tp.partition)) for tp in asked]
        values = self._guarded(lambda: self._fields(wanted), "read")
        return {tp: int(value) for tp, value in zip(asked, values, strict=True) if value and value.isdigit()}

    def write_marks(self, marks: Mapping[TopicPartition, int]) -> None:
        """Store these repair markers, unless the server is another one now. Raises: CacheError."""
        if not marks:
            return
        met, changes = self._met, self._changes
        if not self._cluster:
            # A dropped connection is opened anew in silence, and a marker would be the first that a new or emptied
            # server gets: it would vouch for entries that are not there. Such a server does not know the script.
            self._guarded(lambda: self._connected().execute_command("EVALSHA", WRITE_SHA, 0, self._ttl_ms), "write")
            self._met = True
        if changes == self._changes or not met:
            fields = {f"{tp.topic}-{tp.partition}": offset for tp, offset in marks.items()}
            self._guarded(lambda: self._connected().hset(self._layout.marks, mapping=fields), "write")

    def close(self) -> None:
        """Close the connections. Idempotent; the next call connects again."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _grow(self) -> None:
        if self._halvings:
            self._in_time += 1
            if self._in_time == GROW_AFTER:
                self._halvings, self._in_time = self._halvings - 1, 0

    def _write_all(self, names: list[bytes], entries: CacheBatch) -> int:
        """One script call. Sent past redis-py's `execute_command`, whose looks at every argument double its cost."""
        command = ("EVALSHA", WRITE_SHA, len(names), *names, self._ttl_ms, *entries.version, *entries.document)
        packed = pack_command(command)  # type: ignore[arg-type]  # its types say that a command is one word
        pool = self._connected().connection_pool
        connection = pool.get_connection()
        try:
            connection.send_packed_command([packed])
            return cast("int", connection.read_response())
        finally:
            pool.release(connection)

    def _write_slots(self, names: list[bytes], entries: CacheBatch) -> int:
        """One script call a hash slot, all of them in one pipeline (which groups them by node)."""
        slots: dict[int, list[int]] = {}
        for index, name in enumerate(names):
            slots.setdefault(key_slot(name), []).append(index)
        pipeline = self._connected().pipeline(transaction=False)
        for group in slots.values():
            part = entries.take(group)
            keys = [names[index] for index in group]
            pipeline.execute_command(
                "EVALSHA", WRITE_SHA, len(keys), *keys, self._ttl_ms, *part.version, *part.document
            )
        return sum(pipeline.execute())

    def _fields(self, wanted: Sequence[tuple[bytes, bytes]]) -> list[bytes | None]:
        if not wanted:
            return []
        pipeline = self._connected().pipeline(transaction=False)
        for name, field in wanted:
            pipeline.hget(name, field)
        return cast("list[bytes | None]", pipeline.execute())

    def _connected(self) -> Any:
        if self._client is None:
            self._client = connect(self._settings)
        return self._client

    def _guarded(self, call: Callable[[], T], what: str) -> T:
        """The call's answer, after mending a forgotten script and a server turned replica once each."""
        mends: list[tuple[type[RedisError], Callable[[], None]]] = [
            (NoScriptError, self._load_script),
            (ReadOnlyError, self._drop_pool),
        ]
        try:
            while True:
                try:
                    answer = call()
                    break
                except (NoScriptError, ReadOnlyError) as error:
                    self._changed = True
                    mend = next((pair for pair in mends if isinstance(error, pair[0])), None)
                    if mend is None:
                        raise
                    mends.remove(mend)
                    mend[1]()
        except (RedisError, RedisClusterException, OSError) as error:
            self._changed = self._changed or server_may_differ(error)
            raise mapped(error, self._settings, what) from error
        if self._changed:
            self._changed = False
            self._changes += 1
            self._on_server_change()
        return answer

    def _load_script(self) -> None:
        self._connected().script_load(WRITE)

    def _drop_pool(self) -> None:
        """Forget every connection: behind the address may be a new primary."""
        client = self._connected()
        if self._cluster:
            client.nodes_manager.initialize()
        else:
            client.connection_pool.disconnect()


def _stop(sizes: Sequence[int], start: int, max_keys: int, max_bytes: int) -> int:
    """End of the part from `start` with at most `max_keys` documents and `max_bytes` of them, or with one."""
    last = min(start + max_keys, len(sizes))
    if sum(sizes[start:last]) <= max_bytes:
        return last
    room = max_bytes - sizes[start]
    for index in range(start + 1, last):
        room -= sizes[index]
        if room < 0:
            return index
    return start + 1
