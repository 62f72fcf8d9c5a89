"""The note of a load: which version is being loaded, readable after a death of the process.

A runtime can crash on a model's file, in a warm-up, on a row of the rehearsal. Nothing in the process can catch that,
and a worker that went by the rollout alone would load the same version again in its next life, and die again. So the
version is noted before its load and struck out after it. A note that a dead process left means, by the rule of
`quarantine` for records: a native crash, and this file is not loaded again by this slot; a death of another kind (the
memory killer ends with SIGKILL, as a person may), and it is tried up to three times. So it is as well when records were
in an engine meanwhile, the line's or the shadow's: any of them may be the cause, and they are suspects too.

A load that a stop cuts short is not the version's fault: the note is struck out when the slot begins to drain.

A file is known by its digest: mended, it is another one. What is known of it stays until that very file has loaded.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from streamserve.errors import EngineError
from streamserve.ports import ModelFiles
from streamserve.worker.journal import journal_path, read_abandoned
from streamserve.worker.quarantine import DEATHS_UNEXPLAINED, NATIVE_CRASHES, cause_of, shadow_inside

PREFIX = "loading-"
DEATHS_PREFIX = "deaths-"

Content = TypeVar("Content")

log = logging.getLogger(__name__)


class _Note(msgspec.Struct, frozen=True):
    """What is being loaded."""

    version: str
    sha256: str


class _Deaths(msgspec.Struct, frozen=True):
    """How often a life ended over a version's load, and, once it is given up, why."""

    version: str
    deaths: int = 0
    why: str = ""


class LoadNote:
    """The note of a slot, and what came of its earlier ones; one load at a time. Before `Quarantine.load`.

    Args:
        state_dir: folder of all slots of this pipeline on this machine; it exists.
        slot: the own slot.
        crashed_by: how its last life ended, as `Process.exitcode` has it; None when nobody knows.

    Attributes:
        died_loading: whether the last life of the slot ended in the middle of a load.
    """

    def __init__(self, state_dir: Path, slot: str, crashed_by: int | None) -> None:
        self._path = state_dir / f"{PREFIX}{slot}"
        self._deaths_path = state_dir / f"{DEATHS_PREFIX}{slot}"
        self._deaths = _read(self._deaths_path, dict[str, _Deaths]) or {}
        self._stopping = False
        left = _read(self._path, _Note)
        self.died_loading = left is not None
        if left is not None:
            alone = not _engine_inside(state_dir, slot)
            self._deaths[left.sha256] = _judged(left, self._deaths.get(left.sha256), crashed_by, alone=alone)
            _write(self._deaths_path, self._deaths)
            self._path.unlink()

    @contextlib.contextmanager
    def of(self, files: ModelFiles) -> Iterator[None]:
        """Around a load. Raises: EngineError, when it was given up."""
        before = self._deaths.get(files.sha256)
        if before is not None and before.why:
            raise EngineError(
                f"model {files.name} version {files.version} {before.why}, so it is not loaded again here; push a"
                f" mended version, or remove {self._deaths_path} and restart to have it tried once more"
            )
        _write(self._path, _Note(files.version, files.sha256))
        if self._stopping:  # asked after the writing: `stop` may come in between
            self._path.unlink(missing_ok=True)
        try:
            yield
        finally:
            self._path.unlink(missing_ok=True)
            if self._deaths.pop(files.sha256, None) is not None:
                _write(self._deaths_path, self._deaths)

    def stop(self) -> None:
        """Blame no version for how this life ends from now on. Safe in a signal handler."""
        self._stopping = True
        self._path.unlink(missing_ok=True)


def _engine_inside(state_dir: Path, slot: str) -> bool:
    """Whether the life that ended was inside an engine with records as well."""
    own = journal_path(state_dir, slot)
    return shadow_inside(state_dir, slot) or (own.exists() and read_abandoned(own) is not None)


def _judged(note: _Note, before: _Deaths | None, crashed_by: int | None, *, alone: bool) -> _Deaths:
    """What is known after a life that ended over a load; `alone`: no records were in an engine meanwhile."""
    deaths = before.deaths + 1 if before is not None else 1
    why = ""
    if alone and crashed_by is not None and -crashed_by in NATIVE_CRASHES:
        why = f"crashed the worker while it was being loaded ({cause_of(crashed_by)})"
    elif deaths >= DEATHS_UNEXPLAINED:
        why = f"was being loaded when the worker died, {deaths} times in a row ({cause_of(crashed_by)})"
    log.warning("load_died", extra={"version": note.version, "deaths": deaths, "cause": crashed_by})
    return _Deaths(note.version, deaths, why)


def _read(path: Path, kind: type[Content]) -> Content | None:
    """The file's content; a damaged one is ignored."""
    with contextlib.suppress(FileNotFoundError):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        with os.fdopen(fd, "rb") as file:
            try:
                return msgspec.json.decode(file.read(), type=kind)
            except msgspec.DecodeError as error:
                log.warning("load_note_ignored", extra={"path": str(path), "why": str(error)})
    return None


def _write(path: Path, content: object) -> None:
    """Replace the file."""
    fresh = path.with_name(path.name + ".new")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(msgspec.json.encode(content))
    fresh.replace(path)
