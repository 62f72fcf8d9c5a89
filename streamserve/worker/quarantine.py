"""What crashes of the native engine teach: which records to infer one by one, and which never again.

Rule. An entry that a dead process left in the slot's crash journal means:

* several records: all of them become *suspects*, to be inferred each alone and journalled each alone;
* one record, and the process died of SIGSEGV, SIGABRT, SIGBUS, SIGFPE, SIGILL or with the exit code of a
device
  fault: the engine crashed on this record, alone. It is *quarantined*: dead-lettered, never shown to the
      engine;
* one record, and the process died otherwise (SIGKILL may be the memory killer as well as a person, a
watchdog ends a
  hang; None: nobody knows): the record stays a suspect, and is quarantined at the third such death.

A process may die of its shadow lane, which has an engine and a journal of its own (`shadow`). So a death with an entry
in that one as well convicts nobody: it counts as one of unknown cause, and the lane leaves the shadow alone in the next
life. If it was not the shadow, the next death has one entry.

Only the entry of the own slot is judged, because only its cause of death is known; entries of other dead
slots make suspects and stay where they are for their own next life. Knowledge lies in `quarantine.json` in
the state folder, shared by all slots of the machine under a lock, replaced atomically, and is dropped when
the committed position has passed it.
"""

from __future__ import annotations

import fcntl
import logging
import os
import signal
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from streamserve.batch import Positions, RecordBatch
from streamserve.errors import ConfigError
from streamserve.pipeline.infer import Suspicion
from streamserve.worker.journal import (
    SHADOW_PREFIX,
    Entry,
    OffsetRange,
    journal_path,
    journals,
    make_private,
    read_abandoned,
)

DEVICE_FAULT_EXIT_CODE: Final = 70
"""A worker ends with it when its device is gone (an `EngineError` marked retryable)."""
NATIVE_CRASHES: Final = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL})
DEATHS_UNEXPLAINED: Final = 3
"""Deaths of unknown cause with one record alone in the engine before it is quarantined."""
FILE: Final = "quarantine.json"

log = logging.getLogger(__name__)


class Convict(msgspec.Struct, frozen=True):
    """A record that was alone in the engine when the process died.

    Attributes:
        topic, partition, offset: the record.
        deaths: how often that happened.
        why: empty as long as it is only suspected; else the detail of its dead letter.
    """

    topic: str
    partition: int
    offset: int
    deaths: int = 1
    why: str = ""


class Record(msgspec.Struct, frozen=True):
    """All that is known; the content of the file."""

    suspects: tuple[OffsetRange, ...] = ()
    convicts: tuple[Convict, ...] = ()


class _Known:
    """A `Record` ordered for look-ups: one per partition."""

    def __init__(self) -> None:
        self.ranges: list[tuple[int, int]] = []
        self.alone: set[int] = set()
        self.never: dict[int, str] = {}

    def suspects(self, offset: int) -> bool:
        if offset in self.alone:
            return True
        at = bisect_right(self.ranges, (offset, 1 << 63)) - 1
        return at >= 0 and offset <= self.ranges[at][1]


@dataclass(frozen=True, slots=True)
class _Knowledge:
    """A record and its look-ups, replaced together, so that no thread sees half."""

    record: Record
    by_partition: Mapping[tuple[str, int], _Known]

    @classmethod
    def of(cls, record: Record) -> _Knowledge:
        return cls(record, _by_partition(record))


class Quarantine:
    """The knowledge of one slot.

    `split` belongs to whoever scores, `forget` to the commit thread, `reload` to the poll thread.

    Args:
        state_dir: folder of all slots of this pipeline on this machine.
        record: what is known.
    """

    def __init__(self, state_dir: str | Path, record: Record) -> None:
        self._folder = Path(state_dir)
        self._knowledge = _Knowledge.of(record)

    @classmethod
    def load(cls, state_dir: str | Path, slot: str, crashed_by: int | None = None) -> Quarantine:
        """Judge what the last life of `slot` left, by the rule of this module. Before `CrashJournal.open`.

        Args:
            state_dir: made, with mode 0700, when it is not there.
            slot: the own slot.
            crashed_by: how its last life ended, as `Process.exitcode` has it: minus a signal's number, or
                an exit
                code; None when nobody knows.

        Raises:
            ConfigError: the folder cannot be used.
        """
        folder = Path(state_dir)
        own = journal_path(folder, slot)
        try:
            make_private(folder)
            return cls(folder, cls._judge(folder, slot, own, crashed_by))
        except OSError as error:
            raise ConfigError(f"state_dir {folder} cannot be used: {error}") from error

    @staticmethod
    def _judge(folder: Path, slot: str, own: Path, crashed_by: int | None) -> Record:
        """Read, judge, write and only then strike out."""
        with _locked(folder):
            before = _read(folder)
            record = before
            entry = read_abandoned(own) if own.exists() else None
            if entry is not None:
                record = judged(record, entry, None if shadow_inside(folder, slot) else crashed_by)
                log.warning(
                    "crash_found",
                    extra={"slot": slot, "rows": entry.rows, "ranges": entry.ranges, "cause": crashed_by},
                )
            for other, path in journals(folder):
                left = read_abandoned(path) if other != slot else None
                if left is not None:
                    record = _suspecting(record, left.ranges)
            if record != before:
                _write(folder, record)
            if entry is not None:
                own.unlink(missing_ok=True)
        return record

    def split(self, records: RecordBatch) -> Suspicion | None:
        """What is known against these records; None, at once, when nothing is known of their partitions."""
        known = self._knowledge.by_partition
        if not known or known.keys().isdisjoint(records.next_positions()):
            return None
        alone: set[int] = set()
        never: dict[int, str] = {}
        places = zip(records.topic, records.partition, records.offset, strict=True)
        for row, (topic, partition, offset) in enumerate(places):
            facts = known.get((topic, partition))
            if facts is None:
                continue
            if offset in facts.never:
                never[row] = facts.never[offset]
            elif facts.suspects(offset):
                alone.add(row)
        return Suspicion(alone=frozenset(alone), never=never) if alone or never else None

    def forget(self, positions: Positions) -> None:
        """Drop what lies before these committed positions.

        A disk that fails is a warning: what is dropped here then comes back, harmless, with the next life.
        """
        before = self._knowledge.record
        record = _without(before, positions) if before != Record() else before
        if record == before:
            return
        try:
            with _locked(self._folder):
                record = _without(_read(self._folder), positions)
                _write(self._folder, record)
                self._knowledge = _Knowledge.of(record)
        except OSError as error:
            log.warning("quarantine_not_written", extra={"path": str(self._folder), "why": str(error)})
            self._knowledge = _Knowledge.of(record)

    def reload(self) -> None:
        """Learn what other slots of this machine found out since; worth it when partitions come over.

        A folder that is gone or a disk that fails is a warning, and what is known stays: this runs within a rebalance.
        """
        try:
            with _locked(self._folder):  # also against `forget`, whose news an older reading must not undo
                self._knowledge = _Knowledge.of(_read(self._folder))
        except OSError as error:
            log.warning("quarantine_not_read", extra={"path": str(self._folder), "why": str(error)})


def shadow_inside(state_dir: Path, slot: str) -> bool:
    """Whether the shadow lane of a slot that died was inside its engine. Before its journal is opened again."""
    path = journal_path(state_dir, slot, SHADOW_PREFIX)
    return path.exists() and read_abandoned(path) is not None


def shadow_crashed(state_dir: Path, slot: str, crashed_by: int | None) -> bool:
    """Whether a slot's last life may have ended over its shadow: inside its engine, and not killed from outside."""
    return shadow_inside(state_dir, slot) and (crashed_by is None or _native(crashed_by))


def judged(record: Record, entry: Entry, crashed_by: int | None) -> Record:
    """What is known after a process died over `entry`."""
    if entry.rows > 1:
        return _suspecting(record, entry.ranges)
    topic, partition, offset, _ = entry.ranges[0]
    place = (topic, partition, offset)
    earlier = next((c for c in record.convicts if (c.topic, c.partition, c.offset) == place), None)
    deaths = earlier.deaths + 1 if earlier else 1
    why = ""
    if crashed_by is not None and _native(crashed_by):
        why = f"the engine crashed on this record ({cause_of(crashed_by)})"
    elif deaths >= DEATHS_UNEXPLAINED:
        why = f"the worker died {deaths} times with this record alone in the engine ({cause_of(crashed_by)})"
    convict = Convict(topic, partition, offset, deaths, why or (earlier.why if earlier else ""))
    others = tuple(c for c in record.convicts if c is not earlier)
    return Record(suspects=record.suspects, convicts=(*others, convict))


def _native(crashed_by: int) -> bool:
    return -crashed_by in NATIVE_CRASHES or crashed_by == DEVICE_FAULT_EXIT_CODE


def cause_of(crashed_by: int | None) -> str:
    """How a life ended, in words."""
    if crashed_by is None:
        return "cause unknown"
    if crashed_by == DEVICE_FAULT_EXIT_CODE:
        return "device fault"
    if crashed_by >= 0:
        return f"exit code {crashed_by}"
    try:
        return f"signal {signal.Signals(-crashed_by).name}"
    except ValueError:
        return f"signal {-crashed_by}"


def _suspecting(record: Record, ranges: tuple[OffsetRange, ...]) -> Record:
    """The record with more suspects; overlapping ranges of a partition become one."""
    merged: list[OffsetRange] = []
    for item in sorted({*record.suspects, *ranges}):
        before = merged[-1] if merged else None
        if before is not None and before[:2] == item[:2] and item.first <= before.last + 1:
            merged[-1] = before._replace(last=max(before.last, item.last))
        else:
            merged.append(item)
    return Record(suspects=tuple(merged), convicts=record.convicts)


def _by_partition(record: Record) -> Mapping[tuple[str, int], _Known]:
    known: dict[tuple[str, int], _Known] = {}
    for topic, partition, first, last in sorted(record.suspects):
        known.setdefault((topic, partition), _Known()).ranges.append((first, last))
    for convict in record.convicts:
        facts = known.setdefault((convict.topic, convict.partition), _Known())
        if convict.why:
            facts.never[convict.offset] = convict.why
        else:
            facts.alone.add(convict.offset)
    return known


def _without(record: Record, positions: Positions) -> Record:
    """The record without what lies before `positions`."""
    at = {(topic, partition): offset for (topic, partition), offset in positions.items()}
    return Record(
        suspects=tuple(r for r in record.suspects if r.last >= at.get((r.topic, r.partition), 0)),
        convicts=tuple(c for c in record.convicts if c.offset >= at.get((c.topic, c.partition), 0)),
    )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """The lock that the slots of one machine share; held for one small read and write."""
    fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _read(folder: Path) -> Record:
    """The file's content; a damaged or foreign file is ignored with a warning."""
    path = folder / FILE
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return Record()
    except OSError as error:
        log.warning("quarantine_ignored", extra={"path": str(path), "why": str(error)})
        return Record()
    with os.fdopen(fd, "rb") as file:
        if os.fstat(fd).st_uid != os.geteuid():
            log.warning("quarantine_ignored", extra={"path": str(path), "why": "not a file of this user"})
            return Record()
        try:
            return msgspec.json.decode(file.read(), type=Record)
        except msgspec.DecodeError as error:
            log.warning("quarantine_ignored", extra={"path": str(path), "why": str(error)})
            return Record()


def _write(folder: Path, record: Record) -> None:
    """Replace the file, durably."""
    fresh = folder / f"{FILE}.new"
    fresh.unlink(missing_ok=True)
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(msgspec.json.encode(record))
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(folder / FILE)
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
