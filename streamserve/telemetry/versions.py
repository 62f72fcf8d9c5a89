"""The metrics of a slot whose versions change: one `WorkerMetrics` a version, exposed as one collector.

What belongs to a version is counted by its own metrics (predictions, rejects, stage times). What belongs to the slot
(commits, rebalances, the cache, lag) is counted by those of the version that is stable at the moment, `now`. So every
series has its version, and the law *consumed = predictions + rejected* holds for the sum over versions.

Counters and histograms of a version stay as long as the process lives; its gauges go when it is no longer stable, but
for what is said of every version that is loaded.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from math import nan
from typing import NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from streamserve.telemetry.metrics import GAUGES_OF_A_VERSION, WorkerMetrics


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
        self._versions: dict[str, WorkerMetrics] = {}
        self._loaded = nan
        if version is not None:
            self.stable(version)
        registry.register(self)

    def of(self, version: str) -> WorkerMetrics:
        """The metrics of a version, made when they are first asked for."""
        with self._lock:
            if version not in self._versions:
                self._versions[version] = WorkerMetrics(
                    None, pipeline=self._pipeline, model=self._model, version=version
                )
            return self._versions[version]

    def stable(self, version: str) -> None:
        """This version is the stable one from now on; what its gauges say of the slot goes on."""
        fresh = self.of(version)
        before = getattr(self, "now", fresh)
        if fresh is not before:
            fresh.take_over(before)
        fresh.models_loaded.set(self._loaded)
        self.now = fresh

    def loaded(self, count: int) -> None:
        """So many versions are loaded."""
        self._loaded = count
        if hasattr(self, "now"):
            self.now.models_loaded.set(count)

    def serving(self, models: Sequence[ServedModel]) -> None:
        """These serve, no others."""
        by_version: Mapping[str, ServedModel] = {model.version: model for model in models}
        for version in {*self._versions, *by_version}:
            model = by_version.get(version)
            info = {(model.sha256, model.provider, model.role): 1} if model is not None else {}
            self.of(version).model_info.replace(info)

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
