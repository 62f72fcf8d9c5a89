"""Collectors that prometheus_client lacks: a histogram fed by columns, a replaceable series set, counters by output.

All implement the library's collector interface (`collect`, `describe`), may be used from any thread, and
hold their lock for microseconds. They know nothing of streamserve's own metrics (`metrics` declares those).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from threading import Lock
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.utils import floatToGoString

F64 = npt.NDArray[np.float64]
K = TypeVar("K", bound=tuple[object, ...])
Numbers = npt.NDArray[np.floating | np.integer]


class ColumnHistogram:
    """A classic histogram that takes a whole column in one call.

    Equal to a `prometheus_client.Histogram` that is fed the same finite values one by one (up to the rounding
    of the sum). Values that are not finite are left out: one NaN would spoil the sum for good.

    Args:
        name: name of the family, with its unit.
        help_text: one sentence.
        buckets: upper bounds (inclusive), ascending and finite; `+Inf` is added.
        labels: label names and values of the one series.
    """

    def __init__(
        self, name: str, help_text: str, buckets: Sequence[float], labels: Mapping[str, str] | None = None
    ) -> None:
        if not buckets or list(buckets) != sorted(set(buckets)):
            raise ValueError(f"{name}: buckets must be ascending and not empty")
        self._name = name
        self._help = help_text
        self._labels = dict(labels or {})
        self._edges = [float(bound) for bound in buckets]
        self._bounds: F64 = np.asarray(self._edges, dtype=np.float64)
        self._counts = [0] * (len(self._edges) + 1)
        self._sum = 0.0
        self._lock = Lock()

    def observe(self, value: float) -> None:
        """Count one value."""
        if value - value != 0.0:
            return
        bucket = bisect_left(self._edges, value)
        with self._lock:
            self._counts[bucket] += 1
            self._sum += value

    def observe_many(self, values: Numbers) -> None:
        """Count every value of a column.

        Args:
            values: number[n], any n.
        """
        total = float(values.sum(dtype=np.float64))
        if total - total != 0.0:
            values = values[np.isfinite(values)]
            total = float(values.sum(dtype=np.float64))
        buckets = self._bounds.searchsorted(values, side="left")
        found = np.bincount(buckets, minlength=len(self._counts)).tolist()
        with self._lock:
            self._counts = [old + new for old, new in zip(self._counts, found, strict=True)]
            self._sum += total

    def describe(self) -> Iterable[Metric]:
        """The family's name and type, for the registry's check against duplicates."""
        return [HistogramMetricFamily(self._name, self._help)]

    def collect(self) -> Iterable[Metric]:
        """The family with its one series."""
        with self._lock:
            counts, total = list(self._counts), self._sum
        cumulative: list[tuple[str, float]] = []
        seen = 0
        for bound, count in zip([*self._edges, float("inf")], counts, strict=True):
            seen += count
            cumulative.append((_bound_text(bound), float(seen)))
        family = HistogramMetricFamily(self._name, self._help, labels=list(self._labels))
        family.add_metric(list(self._labels.values()), cumulative, total)
        return [family]


def _bound_text(bound: float) -> str:
    """A bucket's bound as the library writes it, so that both kinds of histogram look alike."""
    return str(floatToGoString(bound))  # type: ignore[no-untyped-call]  # the library's function has no types


class SeriesGauge:
    """A gauge whose whole set of series is replaced in one step: what left is gone at the next scrape.

    Args:
        name: name of the family.
        help_text: one sentence.
        labels: label names and values that all series share.
        varying: names of the labels that tell the series apart.
    """

    def __init__(self, name: str, help_text: str, labels: Mapping[str, str], varying: Sequence[str]) -> None:
        self._name = name
        self._help = help_text
        self._labels = dict(labels)
        self._varying = tuple(varying)
        self._series: Mapping[tuple[object, ...], float] = {}

    @property
    def series(self) -> Mapping[tuple[object, ...], float]:
        """The whole content."""
        return self._series

    def replace(self, series: Mapping[K, float]) -> None:
        """Make `series` (values of the varying labels -> value) the whole content; the mapping is copied."""
        self._series = {tuple(key): float(value) for key, value in series.items()}

    def describe(self) -> Iterable[Metric]:
        """The family's name and type, for the registry's check against duplicates."""
        return [GaugeMetricFamily(self._name, self._help)]

    def collect(self) -> Iterable[Metric]:
        """The family with one sample a series."""
        family = GaugeMetricFamily(self._name, self._help, labels=[*self._labels, *self._varying])
        shared = list(self._labels.values())
        for key, value in self._series.items():
            family.add_metric([*shared, *map(str, key)], value)
        return [family]


class OutputCounter:
    """A counter with one series per output of a model: few, known to the model and not to who declares the metric.

    Args:
        name: name of the family, without `_total`.
        help_text: one sentence.
        labels: label names and values that all series share.
    """

    def __init__(self, name: str, help_text: str, labels: Mapping[str, str]) -> None:
        self._name = name
        self._help = help_text
        self._labels = dict(labels)
        self._totals: dict[str, float] = {}
        self._lock = Lock()

    def add(self, output: str, amount: float) -> None:
        """Count `amount`, which is not negative."""
        with self._lock:
            self._totals[output] = self._totals.get(output, 0.0) + amount

    def describe(self) -> Iterable[Metric]:
        """The family's name and type, for the registry's check against duplicates."""
        return [CounterMetricFamily(self._name, self._help)]

    def collect(self) -> Iterable[Metric]:
        """The family with one sample an output."""
        family = CounterMetricFamily(self._name, self._help, labels=[*self._labels, "output"])
        with self._lock:
            totals = dict(self._totals)
        for output, total in totals.items():
            family.add_metric([*self._labels.values(), output], total)
        return [family]
