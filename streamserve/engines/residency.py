"""Which versions are loaded: those that serve, those a rollback may want, and how many more memory allows.

Without a budget just the versions that are needed stay. With one (`engine.memory_budget_mb`) every version that was
loaded stays while all fit; beyond it goes the least recently used that serves nothing, needed or not, and it is loaded
again when it is wanted again. A version that serves is never dropped, so while a switch is under way, and when the
serving ones alone are larger, memory is above the budget.

What a version takes is what resident memory grew by while it was loaded and warmed, and at least the size of its
files: memory that was free in the process before hides growth. An engine is closed when nothing holds its model any
more: no deployment, no batch on its way, no shadow's queue.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from math import nan

from streamserve.engines.memory import give_back, resident_bytes
from streamserve.pipeline.serving import LoadedModel
from streamserve.ports import Engine, ModelFiles
from streamserve.telemetry.logs import Log
from streamserve.telemetry.versions import VersionMetrics


@dataclass(frozen=True, slots=True)
class _Resident:
    """A loaded version and what it takes."""

    model: LoadedModel
    size_bytes: int


class Residency:
    """The loaded versions of one slot. Used by one thread at a time, the one that follows the rollout.

    Args:
        resolve: finds the files of a version and checks them.
        build: loads, warms and checks a version.
        budget_bytes: what loaded versions may take; None: only those that are needed are kept.
        measure: memory in use now, bytes.
    """

    def __init__(
        self,
        resolve: Callable[[str], ModelFiles],
        build: Callable[[ModelFiles], LoadedModel],
        *,
        budget_bytes: int | None,
        metrics: VersionMetrics,
        log: Log,
        measure: Callable[[], int] = resident_bytes,
    ) -> None:
        self._resolve = resolve
        self._build = build
        self._budget_bytes = budget_bytes
        self._metrics = metrics
        self._log = log
        self._measure = measure
        self._residents: OrderedDict[str, _Resident] = OrderedDict()
        self._leaving: list[tuple[weakref.ref[LoadedModel], Engine]] = []

    @property
    def versions(self) -> tuple[str, ...]:
        """Versions that are loaded, the least recently used first."""
        return tuple(self._residents)

    @property
    def taken_bytes(self) -> int:
        """What all loaded versions take."""
        return sum(resident.size_bytes for resident in self._residents.values())

    def get(self, version: str, *, serving: Collection[str]) -> LoadedModel:
        """A version, loaded now if it is not; makes room among those that are not `serving`.

        Raises:
            StreamServeError: it cannot be loaded.
        """
        found = self._residents.get(version)
        if found is None:
            found = self._loaded(version, {version, *serving})
        self._residents.move_to_end(version)
        return found.model

    def fits(self, version: str) -> bool:
        """Whether a version that is not loaded would fit beside all that are. Raises: as the repository."""
        return self._budget_bytes is None or self.taken_bytes + self._resolve(version).size_bytes <= self._budget_bytes

    def keep(self, serving: Collection[str], needed: Collection[str]) -> None:
        """These serve, and these should stay loaded; drops what does not fit, or is not needed where nothing bounds."""
        for version in [version for version in self._residents if version in serving]:
            self._residents.move_to_end(version)
        if self._budget_bytes is None:
            for version in set(self._residents) - {*serving, *needed}:
                self._evict(version)
        else:
            self._make_room(0, serving)
        self.sweep()

    def sweep(self) -> None:
        """Close engines whose models nobody holds any more, and give their memory back."""
        gone = [engine for held, engine in self._leaving if held() is None]
        self._leaving = [(held, engine) for held, engine in self._leaving if held() is not None]
        for engine in gone:
            engine.close()
        if gone:
            del gone
            give_back()

    def close(self) -> None:
        """Close every engine. The worker has come to rest."""
        for resident in self._residents.values():
            resident.model.infer.engine.close()
        for _, engine in self._leaving:
            engine.close()
        self._residents.clear()
        self._leaving.clear()

    def _loaded(self, version: str, keep: Collection[str]) -> _Resident:
        files = self._resolve(version)
        self._make_room(files.size_bytes, keep)
        self.sweep()
        before = self._measure()
        model = self._built(files)
        resident = _Resident(model, max(files.size_bytes, self._measure() - before))
        self._residents[version] = resident
        self._metrics.of(version).model_loads.inc()
        self._told(version, resident.size_bytes)
        self._make_room(0, keep)
        self.sweep()
        return resident

    def _built(self, files: ModelFiles) -> LoadedModel:
        try:
            return self._build(files)
        except Exception:
            self._metrics.of(files.version).model_load_failures.inc()
            raise

    def _make_room(self, wanted_bytes: int, keep: Collection[str]) -> None:
        if self._budget_bytes is None:
            return
        for version in [version for version in self._residents if version not in keep]:
            if self.taken_bytes + wanted_bytes <= self._budget_bytes:
                return
            self._evict(version)

    def _evict(self, version: str) -> None:
        resident = self._residents.pop(version)
        self._leaving.append((weakref.ref(resident.model), resident.model.infer.engine))
        self._metrics.of(version).model_evictions.inc()
        self._told(version, nan)
        self._log.info("model_evicted", version=version, bytes=resident.size_bytes)

    def _told(self, version: str, size_bytes: float) -> None:
        self._metrics.of(version).model_memory_bytes.set(size_bytes)
        self._metrics.loaded(self._residents)
