"""The note of a load: which version is being loaded, readable after a death of the process.

A runtime can crash on a model's file, in a warm-up, on a row of the rehearsal. Nothing in the process can catch that,
and a worker that went by the rollout alone would load the same version again in its next life, and die again. So the
version is noted before its load and struck out after it. A note that a dead process left means, by the rule of
`quarantine` for records: a native crash, and this file is not loaded again by this slot; a death of another kind (the
memory killer ends with SIGKILL, as a person may), and it is tried up to three times.

A file is known by its digest: mended, it is another one.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from streamserve.errors import EngineError
from streamserve.ports import ModelFiles
from streamserve.worker.quarantine import DEATHS_UNEXPLAINED, NATIVE_CRASHES, cause_of

PREFIX = "loading-"

log = logging.getLogger(__name__)


class _Note(msgspec.Struct, frozen=True):
    """What the file holds: a version's digest, how often a life ended over it, and whether it is given up."""

    version: str
    sha256: str
    deaths: int = 0
    why: str = ""


class LoadNote:
    """The note of a slot; one load at a time.

    Args:
        state_dir: folder of all slots of this pipeline on this machine; it exists.
        slot: the own slot.
        crashed_by: how its last life ended, as `Process.exitcode` has it; None when nobody knows.
    """

    def __init__(self, state_dir: Path, slot: str, crashed_by: int | None) -> None:
        self._path = state_dir / f"{PREFIX}{slot}"
        self._left = _judged(_read(self._path), crashed_by)
        if self._left is not None:
            _write(self._path, self._left)

    @property
    def died_loading(self) -> bool:
        """Whether the last life of the slot ended in the middle of a load."""
        return self._left is not None

    @contextlib.contextmanager
    def of(self, files: ModelFiles) -> Iterator[None]:
        """Around a load. Raises: EngineError, when it was given up."""
        left = self._left if self._left is not None and self._left.sha256 == files.sha256 else None
        if left is not None and left.why:
            raise EngineError(
                f"model {files.name} version {files.version} {left.why}, so it is not loaded again here; push a mended"
                f" version, or remove {self._path} to have it tried once more"
            )
        _write(self._path, _Note(files.version, files.sha256, left.deaths if left is not None else 0))
        try:
            yield
        finally:
            self._left = None
            self._path.unlink(missing_ok=True)


def _judged(note: _Note | None, crashed_by: int | None) -> _Note | None:
    """What is known after a life that may have ended over a load."""
    if note is None or note.why:
        return note
    deaths = note.deaths + 1
    why = ""
    if crashed_by is not None and -crashed_by in NATIVE_CRASHES:
        why = f"crashed the worker while it was being loaded ({cause_of(crashed_by)})"
    elif deaths >= DEATHS_UNEXPLAINED:
        why = f"was being loaded when the worker died, {deaths} times in a row ({cause_of(crashed_by)})"
    log.warning("load_died", extra={"version": note.version, "deaths": deaths, "cause": crashed_by})
    return _Note(note.version, note.sha256, deaths, why)


def _read(path: Path) -> _Note | None:
    """The file's content; a damaged one is ignored."""
    with contextlib.suppress(FileNotFoundError):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        with os.fdopen(fd, "rb") as file:
            try:
                return msgspec.json.decode(file.read(), type=_Note)
            except msgspec.DecodeError as error:
                log.warning("load_note_ignored", extra={"path": str(path), "why": str(error)})
    return None


def _write(path: Path, note: _Note) -> None:
    """Replace the file."""
    fresh = path.with_name(path.name + ".new")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(msgspec.json.encode(note))
    fresh.replace(path)
