"""How a metric is declared: name, kind, meaning, labels and buckets in one place, bound once per worker.

A declaration is a class attribute. When an object of the class is made, `bind` puts the live metric, with its
labels filled in, into the object's own dictionary under the same name: the hot path then reads a plain
attribute and never looks up a label. On the class the attribute stays the declaration, which the reference
(`reference`) is made from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import nan
from typing import Generic, Literal, Protocol, TypeVar, overload

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.metrics_core import Metric

from streamserve.telemetry.collectors import ColumnHistogram, OutputCounter, SeriesGauge

PREFIX = "streamserve_"
BASE_LABELS = ("pipeline", "model", "version")

Kind = Literal["counter", "gauge", "histogram"]
Children = Mapping[tuple[str, ...], Counter]
"""Counters by the values of their own labels, in the order of declaration."""
M_co = TypeVar("M_co", covariant=True)


class Collector(Protocol):
    """What the registry asks a metric for."""

    def collect(self) -> Iterable[Metric]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """One metric as users see it.

    Attributes:
        name: full name as exposed, prefix and suffix included.
        kind: the Prometheus type.
        help: one sentence: what it counts, in which unit.
        labels: labels beyond `pipeline`, `model` and `version`; the values where they are a fixed set.
        buckets: upper bounds of a histogram.
    """

    name: str
    kind: Kind
    help: str
    labels: Mapping[str, tuple[str, ...]]
    buckets: tuple[float, ...] = ()

    @property
    def family(self) -> str:
        """The name the library wants: a counter's without its suffix."""
        return self.name.removesuffix("_total") if self.kind == "counter" else self.name


class Declared(Generic[M_co]):
    """A declaration on the class, the live metric on the object."""

    def __init__(
        self, spec: Declaration, make: Callable[[Declaration, dict[str, str]], tuple[Collector, M_co]]
    ) -> None:
        self.spec = spec
        self._make = make
        self.attribute = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.attribute = name

    @overload
    def __get__(self, instance: None, owner: type) -> Declared[M_co]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> M_co: ...
    def __get__(self, instance: object | None, owner: type) -> Declared[M_co] | M_co:
        """The declaration; the live metric stands in the object's dictionary, which comes first."""
        return self

    def bind(self, instance: object, base: dict[str, str]) -> Collector:
        """Make the live metric for `instance` and return its collector."""
        collector, metric = self._make(self.spec, base)
        vars(instance)[self.attribute] = metric
        return collector


def declarations(owner: type) -> Iterator[Declared[object]]:
    """Every declaration of a class, in order."""
    for value in vars(owner).values():
        if isinstance(value, Declared):
            yield value


def counter(name: str, help_text: str) -> Declared[Counter]:
    """Declare a counter; `name` without prefix, with `_total`."""

    def make(spec: Declaration, base: dict[str, str]) -> tuple[Collector, Counter]:
        parent = Counter(spec.family, spec.help, list(base), registry=None)
        return parent, parent.labels(**base)

    return Declared(_spec(name, "counter", help_text), make)


def counters(name: str, help_text: str, labels: Mapping[str, tuple[str, ...]]) -> Declared[Children]:
    """Declare a counter with labels of its own, every series of which exists from the start.

    Series that are there from the start let `rate()` see the first increment, and keep their number constant.
    """

    def make(spec: Declaration, base: dict[str, str]) -> tuple[Collector, Children]:
        parent = Counter(spec.family, spec.help, [*base, *spec.labels], registry=None)
        return parent, {values: parent.labels(*base.values(), *values) for values in product(*spec.labels.values())}

    return Declared(_spec(name, "counter", help_text, labels), make)


def counter_by_output(name: str, help_text: str) -> Declared[OutputCounter]:
    """Declare a counter with the label `output`, whose series come with the first count of each output."""

    def make(spec: Declaration, base: dict[str, str]) -> tuple[Collector, OutputCounter]:
        collector = OutputCounter(spec.family, spec.help, base)
        return collector, collector

    return Declared(_spec(name, "counter", help_text, {"output": ()}), make)


def gauge(name: str, help_text: str, *, unknown: bool = False) -> Declared[Gauge]:
    """Declare a gauge; with `unknown` it is not exposed before it is first set."""

    def make(spec: Declaration, base: dict[str, str]) -> tuple[Collector, Gauge]:
        parent = Gauge(spec.name, spec.help, list(base), registry=None)
        child = parent.labels(**base)
        if unknown:
            child.set(nan)
        return parent, child

    return Declared(_spec(name, "gauge", help_text), make)


def series(name: str, help_text: str, labels: Sequence[str]) -> Declared[SeriesGauge]:
    """Declare a gauge whose set of series is replaced as a whole."""

    def make(spec: Declaration, base: dict[str, str]) -> tuple[Collector, SeriesGauge]:
        collector = SeriesGauge(spec.name, spec.help, base, tuple(spec.labels))
        return collector, collector

    return Declared(_spec(name, "gauge", help_text, dict.fromkeys(labels, ())), make)


def histogram(name: str, help_text: str, buckets: tuple[float, ...]) -> Declared[Histogram]:
    """Declare a histogram that is fed once a batch."""

    def make(spec: Declaration, base: dict[str, str]) -> tuple[Collector, Histogram]:
        parent = Histogram(spec.name, spec.help, list(base), registry=None, buckets=spec.buckets)
        return parent, parent.labels(**base)

    return Declared(_spec(name, "histogram", help_text, buckets=buckets), make)


def column_histogram(name: str, help_text: str, buckets: tuple[float, ...]) -> Declared[ColumnHistogram]:
    """Declare a histogram that is fed whole columns."""

    def make(spec: Declaration, base: dict[str, str]) -> tuple[Collector, ColumnHistogram]:
        collector = ColumnHistogram(spec.name, spec.help, spec.buckets, base)
        return collector, collector

    return Declared(_spec(name, "histogram", help_text, buckets=buckets), make)


def _spec(
    name: str,
    kind: Kind,
    help_text: str,
    labels: Mapping[str, tuple[str, ...]] | None = None,
    buckets: tuple[float, ...] = (),
) -> Declaration:
    return Declaration(name=PREFIX + name, kind=kind, help=help_text, labels=labels or {}, buckets=buckets)
