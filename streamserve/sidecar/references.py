"""References as the monitors ask for them: read from the repository, and read again at most once a minute.

A monitor asks whenever a chunk names a reference that it does not have, so a question must be cheap. A file that
cannot be read is told once in the log and counts as missing until it changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from streamserve.clock import Clock
from streamserve.drift.reference import Reference
from streamserve.errors import ModelCorrupt
from streamserve.telemetry.logs import Log

REREAD_S = 60.0
MAX_KNOWN = 256
"""Model versions remembered; names come from the network."""


class ReferenceFiles(Protocol):
    """The repository (`registry.references.FolderReferences` fits)."""

    def find(self, model: str, version: str) -> Reference | None:
        """The reference of a version, if it has one. Raises: ModelCorrupt."""
        ...


@dataclass(frozen=True, slots=True)
class _Known:
    reference: Reference | None
    read_s: float
    complaint: str


class CachedReferences:
    """References of a repository, each read at most once a minute.

    Args:
        files: the repository.
    """

    def __init__(self, files: ReferenceFiles, clock: Clock, log: Log) -> None:
        self._files = files
        self._clock = clock
        self._log = log
        self._known: dict[tuple[str, str], _Known] = {}

    def find(self, model: str, version: str) -> Reference | None:
        """The reference of a version as it was within the last minute."""
        now_s = self._clock.monotonic_s()
        known = self._known.get((model, version))
        if known is not None and now_s - known.read_s < REREAD_S:
            return known.reference
        found, complaint = self._read(model, version)
        if complaint and (known is None or known.complaint != complaint):
            self._log.error("reference_unreadable", model=model, version=version, error=complaint)
        if found is not None and (known is None or known.reference is None or known.reference.hash != found.hash):
            self._log.info("reference_read", model=model, version=version, hash=found.hash, rows=found.rows)
        if known is None and len(self._known) >= MAX_KNOWN:
            del self._known[next(iter(self._known))]
        self._known[model, version] = _Known(found, now_s, complaint)
        return found

    def _read(self, model: str, version: str) -> tuple[Reference | None, str]:
        try:
            return self._files.find(model, version), ""
        except (ModelCorrupt, OSError) as error:
            return None, str(error)
