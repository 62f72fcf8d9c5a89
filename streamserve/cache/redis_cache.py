"""The prediction cache in Redis or Valkey, one server or a cluster.

Owns the client, the compare-and-set of whole batches by one script call, and the map from the client's errors
to `CacheError`. Keeps no queue and retries only what an immediate second try mends: a server that does not
know the script (NOSCRIPT) and one that became a replica (READONLY). Waiting, backoff and repair are `writer`
and `repair`.

RESP2 is spoken on purpose: every server since 2.6 knows it, nothing here needs RESP3, and it saves a HELLO,
so that the user in Redis needs few rights: `evalsha`, `script|load`, `hget`, `hset`, `pexpire`, `ping`.

Cost: 1.2 us of client CPU a key at 512 keys a batch and documents of 300 bytes, where a pipeline of
SETs costs 8.7 (`python -m benchmarks.cache_write`, 2026-11-21, two shared x86 cores, Redis 7.0.15 on
loopback, redis-py 8.1, hiredis 3.5, Python 3.11).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar, cast

from redis.crc import key_slot
from redis.exceptions import NoScriptError, ReadOnlyError, RedisClusterException, RedisError

from streamserve.batch import CacheBatch, TopicPartition
from streamserve.cache.entries import newest
from streamserve.cache.keys import KeyLayout
from streamserve.cache.redis_client import connect, is_cluster, mapped, server_may_differ
from streamserve.cache.script import WRITE, WRITE_SHA
from streamserve.config.settings import CacheSettings

MAX_KEYS = 1000
"""Most keys of one script call: the server serves nobody else meanwhile, 1,000 keys take about 3 ms."""
MAX_BYTES = 4 << 20
"""Most bytes of documents in one script call."""

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
        self._client: Any = None

    def write(self, entries: CacheBatch) -> int:
        latest = newest(entries)
        write = self._write_slots if self._cluster else self._write_all
        written = 0
        for chunk in _chunks(latest):
            names = self._layout.names(chunk.key)
            written += self._guarded(partial(write, names, chunk), "write")
        return written

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
        """Store these repair markers. Raises: CacheError."""
        if marks:
            fields = {f"{tp.topic}-{tp.partition}": offset for tp, offset in marks.items()}
            self._guarded(lambda: self._connected().hset(self._layout.marks, mapping=fields), "write")

    def close(self) -> None:
        """Close the connections. Idempotent; the next call connects again."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _write_all(self, names: list[bytes], entries: CacheBatch) -> int:
        command = (
            "EVALSHA",
            WRITE_SHA,
            len(names),
            *names,
            self._ttl_ms,
            *entries.version,
            *entries.document,
        )
        return cast("int", self._connected().execute_command(*command))

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


def _chunks(entries: CacheBatch) -> Iterator[CacheBatch]:
    """Parts of at most `MAX_KEYS` entries and about `MAX_BYTES` of documents."""
    sizes = list(map(len, entries.document))
    if len(sizes) <= MAX_KEYS and sum(sizes) <= MAX_BYTES:
        if sizes:
            yield entries
        return
    start = 0
    room = MAX_BYTES
    for index, size in enumerate(sizes):
        if index > start and (size > room or index - start == MAX_KEYS):
            yield entries.take(range(start, index))
            start, room = index, MAX_BYTES
        room -= size
    yield entries.take(range(start, len(sizes)))
