"""The metrics of a slot whose versions change: one `WorkerMetrics` a version, exposed as one collector.

What belongs to a version is counted by its own metrics (predictions, rejects, stage times). What belongs to the slot
(commits, rebalances, the cache, lag) is counted by those of the version that is stable at the moment, `now`. So every
series has its version, and the law *consumed = predictions + rejected* holds for the sum over versions.

Counters and histograms of a version stay while it is loaded or serves, and after that until `KEPT` others have been in
use since: a slot that is promoted to every night must not expose a year of versions. A dropped version's counts are
added to nothing; one that comes back counts from zero, as after a restart. Its gauges go when it is no longer stable,
but for what is said of every version that is loaded.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from math import nan
from typing import NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from streamserve.telemetry.metrics import GAUGES_OF_A_VERSION, WorkerMetrics

KEPT = 8
"""Versions whose series stay although they are not in use: the newest. One takes 27 kB of a scrape."""


class ServedModel(NamedTuple):
    """What `model_info` says of a version that serves."""

    version: str
    sha256: str
    provider: str
    role: str


class VersionMetrics:
    """All metrics of one slot. Thread-safe.

    Args:
        registry: where a scrape finds them.
        pipeline, model: values of the labels that every series has.
        version: the stable one, where it is known already.

    Attributes:
        now: the stable version's; not there before the first `stable`.
    """

    now: WorkerMetrics

    def __init__(self, registry: CollectorRegistry, *, pipeline: str, model: str, version: str | None = None) -> None:
        self._pipeline = pipeline
        self._model = model
        self._lock = threading.Lock()
        self._versions: dict[str, WorkerMetrics] = {}  # the one asked for last stands last
        self._serving: Collection[str] = ()
        self._loaded: Collection[str] | None = None
        if version is not None:
            self.stable(version)
        registry.register(self)

    def of(self, version: str) -> WorkerMetrics:
        """The metrics of a version, made when they are first asked for."""
        with self._lock:
            found = self._versions.pop(version, None)
            if found is None:
                found = WorkerMetrics(None, pipeline=self._pipeline, model=self._model, version=version)
            self._versions[version] = found
            self._drop_old()
            return found

    def stable(self, version: str) -> None:
        """This version is the stable one from now on; what its gauges say of the slot goes on."""
        fresh = self.of(version)
        before = getattr(self, "now", fresh)
        if fresh is not before:
            fresh.take_over(before)
        self.now = fresh
        self._tell_loaded()

    def loaded(self, versions: Collection[str]) -> None:
        """These are loaded, no others."""
        with self._lock:
            self._loaded = frozenset(versions)
            self._drop_old()
        self._tell_loaded()

    def serving(self, models: Sequence[ServedModel]) -> None:
        """These serve, no others."""
        by_version: Mapping[str, ServedModel] = {model.version: model for model in models}
        for version in by_version:
            self.of(version)
        with self._lock:
            self._serving = frozenset(by_version)
            self._drop_old()
            for version, metrics in self._versions.items():
                model = by_version.get(version)
                info = {(model.sha256, model.provider, model.role): 1} if model is not None else {}
                metrics.model_info.replace(info)

    def _drop_old(self) -> None:
        """With the lock held."""
        now = getattr(self, "now", None)
        used = {*self._serving, *(self._loaded or ())}
        others = [version for version, metrics in self._versions.items() if metrics is not now and version not in used]
        for version in others[:-KEPT]:
            del self._versions[version]

    def _tell_loaded(self) -> None:
        if hasattr(self, "now"):
            self.now.models_loaded.set(nan if self._loaded is None else len(self._loaded))

    def describe(self) -> Iterator[Metric]:
        """Names and types, for the registry's check against duplicates."""
        return WorkerMetrics.describe()

    def collect(self) -> Iterator[Metric]:
        """Every family that has something to say, all versions in it."""
        with self._lock:
            versions = list(self._versions.values())
        families: dict[str, Metric] = {}
        for metrics in versions:
            for family in metrics.collect():
                if family.type == "gauge" and metrics is not self.now and family.name not in GAUGES_OF_A_VERSION:
                    continue
                if family.name in families:
                    families[family.name].samples += family.samples
                else:
                    families[family.name] = family
        yield from families.values()
