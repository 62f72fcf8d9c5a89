"""The crash journal: which records are inside the native engine now, readable after any death of the process.

A native crash cannot be caught. So before every inference a worker notes the batch's offset
ranges in a small file that is mapped into memory, and strikes them out afterwards; the pages outlive the
process, whatever killed it (a crash of the whole machine may lose them, and with them only the knowledge).
What is made of an entry that a dead process left behind is the business of `quarantine`.

File `journal-<slot>`: 8 bytes magic, 1 byte state (1: entry stands), 3 bytes zero, u32 length, u32 CRC-32,
then the entry in MessagePack: `[rows, [[topic, partition, first offset, last offset], ...]]`. The state is
written last, so a process that dies while it writes leaves no entry, and the engine has not been called
yet. An exclusive `flock` tells a live owner from a dead one.
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
import stat
import struct
import time
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple, Self

import msgspec

from streamserve.batch import RecordBatch, TopicPartition
from streamserve.errors import ConfigError

MAGIC: Final = b"SSJRNL1\n"
STATE_AT: Final = 8
HEADER: Final = struct.Struct("<8sB3xII")
SIZE_BYTES: Final = 1 << 18
"""Room for thousands of partitions in one batch; a batch with more goes without an entry."""
PREFIX: Final = "journal-"
SHADOW_PREFIX: Final = "shadow-"
"""Of the journal in which a slot's shadow lane notes what is inside *its* engine."""
FEW_PARTITIONS: Final = 8
"""Up to so many it is quicker to search the batch for each one's first record than to put all rows into a dict."""

log = logging.getLogger(__name__)


class OffsetRange(NamedTuple):
    """Records of one partition from `first` up to and with `last`; not all need to be in the batch."""

    topic: str
    partition: int
    first: int
    last: int


class Entry(NamedTuple):
    """What was inside the engine: so many rows, within these ranges."""

    rows: int
    ranges: tuple[OffsetRange, ...]


class CrashJournal:
    """The journal of a live slot. `open` before use; whoever scores enters and leaves.

    Args:
        state_dir: folder of all slots of this pipeline on this machine, made with mode 0700.
        slot: name of the slot, unique among live ones.
        prefix: of the file's name.
    """

    def __init__(self, state_dir: str | Path, slot: str, *, prefix: str = PREFIX) -> None:
        self._path = journal_path(Path(state_dir), slot, prefix)
        self._slot = slot
        self._fd = -1
        self._map: mmap.mmap | None = None
        self._encode = msgspec.msgpack.Encoder().encode

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self, timeout_s: float = 5.0) -> None:
        """Take the journal over, empty. A dead slot's entry must have been read before.

        Args:
            timeout_s: how long to wait for a process that is dying to let go of it.

        Raises:
            ConfigError: another live worker has this slot's name, or the disk is full.
        """
        make_private(self._path.parent)
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        give_up_s = time.monotonic() + timeout_s
        while not try_lock(self._fd):
            if time.monotonic() >= give_up_s:
                os.close(self._fd)
                self._fd = -1
                raise ConfigError(f"another worker runs as slot {self._slot!r} on {self._path.parent}")
            time.sleep(0.05)
        os.ftruncate(self._fd, 0)
        try:
            # Real blocks, not a hole: writing to a mapped hole on a full disk would be a SIGBUS.
            os.posix_fallocate(self._fd, 0, SIZE_BYTES)
        except OSError as error:
            self.close()
            raise ConfigError(f"no room for the crash journal {self._path}: {error.strerror}") from error
        self._map = mmap.mmap(self._fd, SIZE_BYTES)
        self._map[: HEADER.size] = HEADER.pack(MAGIC, 0, 0, 0)

    def enter(self, records: RecordBatch, rows: Sequence[int]) -> None:
        """Note that these rows of `records` go into the engine; the entry before is replaced."""
        pages = self._map
        if pages is None or not rows:
            return
        body = self._encode((len(rows), ranges_of(records, rows)))
        end = HEADER.size + len(body)
        pages[STATE_AT] = 0
        if end > SIZE_BYTES:
            return
        pages[HEADER.size : end] = body
        pages[: HEADER.size] = HEADER.pack(MAGIC, 0, len(body), zlib.crc32(body))
        pages[STATE_AT] = 1

    def leave(self) -> None:
        """Strike the entry out."""
        if self._map is not None:
            self._map[STATE_AT] = 0

    def close(self) -> None:
        """Let go of the file; an entry that stands stays. Idempotent."""
        if self._map is not None:
            self._map.close()
            self._map = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def ranges_of(records: RecordBatch, rows: Sequence[int]) -> list[tuple[str, int, int, int]]:
    """One range per partition; of the whole of `records` unless there is a single row.

    A range may hold more than the rows: rows rejected before the engine, records of an earlier batch. That
    costs nothing but caution.
    """
    if len(rows) == 1:
        row = rows[0]
        only = records.offset[row]
        return [(records.topic[row], records.partition[row], only, only)]
    topic, partition, offset = records.topic, records.partition, records.offset
    ends = records.next_positions()
    if len({t for t, _ in ends}) == 1 and len(ends) <= FEW_PARTITIONS:
        return [(t, p, offset[partition.index(p)], end - 1) for (t, p), end in ends.items() if p in partition]
    # From the back: a partition's first record is the last to be written into the dict.
    places = zip(reversed(topic), reversed(partition), strict=True)
    first = dict(zip(places, reversed(offset), strict=True))
    return [(t, p, at, ends[TopicPartition(t, p)] - 1) for (t, p), at in first.items()]


def read_abandoned(path: Path) -> Entry | None:
    """The entry that a dead process left in a journal; None when there is none or its owner lives.

    A file that is not ours, or makes no sense, is ignored with a warning.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        log.warning("journal_ignored", extra={"path": str(path), "why": str(error)})
        return None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            raise ValueError("not a regular file of this user")
        if not try_lock(fd):
            return None
        return _parse(os.read(fd, SIZE_BYTES))
    except (ValueError, OSError, msgspec.DecodeError) as error:
        log.warning("journal_ignored", extra={"path": str(path), "why": str(error)})
        return None
    finally:
        os.close(fd)


def _parse(data: bytes) -> Entry | None:
    """Raises: ValueError, msgspec.DecodeError: these bytes are no journal."""
    if not data.strip(b"\0"):
        return None
    if len(data) < HEADER.size or not data.startswith(MAGIC):
        raise ValueError("not a journal")
    _, state, length, checksum = HEADER.unpack_from(data)
    if state == 0:
        return None
    body = data[HEADER.size : HEADER.size + length]
    if len(body) != length or zlib.crc32(body) != checksum:
        raise ValueError("damaged")
    entry = msgspec.msgpack.decode(body, type=Entry)
    if entry.rows < 1 or not entry.ranges or any(r.last < r.first for r in entry.ranges):
        raise ValueError("damaged")
    return entry


def journal_path(state_dir: Path, slot: str, prefix: str = PREFIX) -> Path:
    """Where a slot's journal lies; a slot name is any text without `/` and NUL."""
    if not slot or "/" in slot or "\0" in slot:
        raise ConfigError(f"{slot!r} cannot be a slot's name")
    return state_dir / f"{prefix}{slot}"


def journals(state_dir: Path) -> Iterable[tuple[str, Path]]:
    """Slot and path of every journal in a folder."""
    return [(path.name.removeprefix(PREFIX), path) for path in sorted(state_dir.glob(f"{PREFIX}*"))]


def make_private(folder: Path) -> None:
    """Make a folder with mode 0700; one that is there stays as it is (a mounted volume, say)."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def try_lock(fd: int) -> bool:
    """Take the exclusive lock of an open file, if nobody has it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
