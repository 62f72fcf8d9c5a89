"""The in-memory twin of the prediction cache.

Keeps the contract of `streamserve.ports.Cache` in a dictionary: newest version per key, in whatever order
writes come. Has no time to live. Outages are played by `fail_with`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence

from streamserve.batch import CacheBatch, TopicPartition
from streamserve.cache.entries import newest
from streamserve.errors import CacheError


class MemoryCache:
    """A prediction cache in this process; safe for several threads.

    Attributes:
        fail_with: while set, every call raises it, as if the server were away.
        entries: version and document per entity key.
        marks: repair markers per partition of the prediction topic.
        calls: how many calls of `write` were answered.
    """

    def __init__(self) -> None:
        self.fail_with: CacheError | None = None
        self.entries: dict[bytes, tuple[bytes, bytes]] = {}
        self.marks: dict[TopicPartition, int] = {}
        self.calls = 0
        self._lock = threading.Lock()

    def write(self, entries: CacheBatch) -> int:
        self._check()
        with self._lock:
            self.calls += 1
            written = 0
            latest = newest(entries)
            for key, version, document in zip(latest.key, latest.version, latest.document, strict=True):
                known = self.entries.get(key)
                if known is None or version > known[0]:
                    self.entries[key] = (version, document)
                    written += 1
            return written

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        self._check()
        with self._lock:
            return [found[1] if (found := self.entries.get(key)) else None for key in keys]

    def read_marks(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The stored markers of these partitions, as far as there are any."""
        self._check()
        return {partition: self.marks[partition] for partition in partitions if partition in self.marks}

    def write_marks(self, marks: Mapping[TopicPartition, int]) -> None:
        """Store these markers."""
        self._check()
        self.marks.update(marks)

    def ping(self) -> None:
        """Raise CacheError while the cache is away."""
        self._check()

    def close(self) -> None:
        """Nothing to release."""

    def _check(self) -> None:
        if self.fail_with is not None:
            raise self.fail_with
