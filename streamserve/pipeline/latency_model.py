"""How long a batch of n rows takes: `T(n) = a n + b`, learnt from the batches that were computed.

One `LatencyModel` belongs to one model version (and, where lengths are known beforehand, one length bucket). It is fed
(rows, seconds) pairs: first the warm-up's, so that it is never empty, then one pair a batch. The seconds are those of
the whole compute step, decoding to encoding, because that is what stands between a record and the transaction; a
warm-up times the engine alone, and the first real batches correct that.

Three things make it fit for a stream:

* **Sizes are remembered evenly.** Points are kept by power of two of their rows, a few of each. Under a backlog
  every batch is full, and a window of the newest points would know one size only; the slope would then be made up
  (BentoML's dispatcher fits the minimum-norm line there and puts nearly all of the cost on the rows).
* **Outliers do not count.** The slope is the median of the slopes between all pairs of points, each weighted by the
  distance of its rows; the intercept is the median of what is left, small batches first. A fifth of the points may be
  anything.
* **Promises are pessimistic.** What the newest batches took in relation to the line gives a level and a spread;
  a p99 is the level plus three standard deviations (as Clipper does).

With points of a single size the slope is unknowable: rows beyond it are then taken to cost in proportion, fewer rows
to save nothing.

Sources: G. L. Sievers, Weighted rank statistics for simple linear regression, JASA 73 (1978), 628-631. D. Crankshaw et
al., Clipper, NSDI 2017. Pure but for `timed_warm_up`; used by one thread at a time.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from streamserve.batch import F64
from streamserve.ports import Engine

POINTS_PER_OCTAVE = 6
"""From 1 to 65,536 rows there are 17 octaves: about a hundred points together, 5,000 slopes."""
RECENT = 64
"""Batches that give level and spread."""
REFIT_EVERY = 8
"""Batches between two fits, once there are that many: a fit takes a few hundred microseconds."""
MAD_TO_SIGMA = 1.4826
"""Standard deviations in a median absolute deviation, of a normal distribution."""
SIGMAS = 3.0
MOST_MARGIN = 3.0
"""A p99 is at most so many times the usual: on a machine that is not its own, smaller batches would not help."""
ANY_ROWS = 1 << 30
"""More than any batch has."""
NEARLY_BEST = 0.995
"""A batch this near to the best throughput is as good, and shorter. Not nearer: what a batch costs in other threads is
not in its seconds."""

Timing = tuple[int, float]
"""Rows of a batch, and the seconds that it took."""


@dataclass(frozen=True, slots=True)
class Line:
    """`seconds(n) = row_s * n + batch_s`, and how far real batches lie from it.

    Attributes:
        row_s: seconds a row (a).
        batch_s: seconds a batch, however small (b).
        level: what the newest batches took, as a multiple of the line.
        margin: the same for a batch in a hundred.
        only: the one size that all points had, 0 when there were several.
    """

    row_s: float
    batch_s: float
    level: float = 1.0
    margin: float = 1.0
    only: int = 0

    def typical_s(self, rows: int) -> float:
        """Median seconds of a batch of `rows`."""
        return self.level * self._base_s(rows)

    def p99_s(self, rows: int) -> float:
        """Seconds that about one batch of `rows` in a hundred exceeds."""
        return self.margin * self._base_s(rows)

    def rows_within(self, budget_s: float) -> int:
        """Most rows that a batch may have to end within `budget_s`, 99 times in 100; never less than 1."""
        left_s = budget_s / self.margin - self.batch_s
        if left_s < self._base_s(max(1, self.only)) - self.batch_s:
            return 1
        return int(min(ANY_ROWS, left_s / self.row_s)) if self.row_s > 0 else ANY_ROWS

    def best_throughput_rows(self, most: int, share: float = NEARLY_BEST) -> int:
        """The smallest batch, of at most `most` rows, that has this share of the best throughput; all but the best."""
        if self.only:
            return most
        whole = self.row_s * most + self.batch_s
        saved = whole - share * self.row_s * most
        return max(1, min(most, math.ceil(share * most * self.batch_s / saved))) if saved > 0 else most

    def _base_s(self, rows: int) -> float:
        return self.row_s * max(rows, self.only) + self.batch_s


def timed_warm_up(engine: Engine, sizes: Sequence[int]) -> tuple[Timing, ...]:
    """Warm every batch size; the second run of each is timed, because the first pays for what is made once."""
    timings = []
    for rows in sizes:
        engine.warm([rows])
        start_s = perf_counter()
        engine.warm([rows])
        timings.append((rows, perf_counter() - start_s))
    return tuple(timings)


class LatencyModel:
    """Learns a `Line`.

    Args:
        prior: timings of the warm-up.
    """

    def __init__(self, prior: Iterable[Timing] = ()) -> None:
        self._octaves: dict[int, deque[Timing]] = {}
        self._recent: deque[Timing] = deque(maxlen=RECENT)
        self._unfitted = 0
        self._line: Line | None = None
        for rows, seconds in prior:
            self._keep(rows, seconds)
        if self._octaves:
            self._line = self._fitted()

    @property
    def line(self) -> Line | None:
        """What is known; None before the first timing."""
        return self._line

    def observe(self, rows: int, seconds: float) -> None:
        """A batch of `rows` took `seconds`. Batches of no rows, and times that are none, teach nothing."""
        if rows < 1 or not 0 < seconds < math.inf:
            return
        self._keep(rows, seconds)
        self._recent.append((rows, seconds))
        self._unfitted += 1
        if self._unfitted >= REFIT_EVERY or len(self._recent) < REFIT_EVERY:
            self._unfitted = 0
            self._line = self._fitted()

    def _keep(self, rows: int, seconds: float) -> None:
        octave = rows.bit_length()
        self._octaves.setdefault(octave, deque(maxlen=POINTS_PER_OCTAVE)).append((rows, seconds))

    def _fitted(self) -> Line:
        points = [point for octave in self._octaves.values() for point in octave]
        x, y = np.array(points, dtype=np.float64).T
        if (x == x[0]).all():
            row_s, batch_s, only = float(np.median(y)) / x[0], 0.0, int(x[0])
        else:
            (row_s, batch_s), only = _straight(x, y), 0
        return self._levelled(Line(row_s, batch_s, only=only))

    def _levelled(self, line: Line) -> Line:
        """The line with level and margin by the newest batches; as it is while there are none."""
        if not self._recent:
            return line
        ratios = np.array([seconds / line.typical_s(rows) for rows, seconds in self._recent])
        level = float(np.median(ratios))
        spread = MAD_TO_SIGMA * float(np.median(np.abs(ratios - level)))
        return Line(line.row_s, line.batch_s, level, min(level + SIGMAS * spread, MOST_MARGIN * level), line.only)


def _straight(x: F64, y: F64) -> tuple[float, float]:
    """Slope and intercept, neither below 0: time is no refund."""
    first, second = np.triu_indices(len(x), 1)
    run = np.abs(x[second] - x[first])
    apart = run > 0
    slopes = (y[second] - y[first])[apart] / (x[second] - x[first])[apart]
    row_s = _weighted_median(slopes, run[apart])
    if row_s <= 0:
        return 0.0, float(np.median(y))
    batch_s = _weighted_median(y - row_s * x, 1 / x)
    if batch_s < 0:
        return float(np.median(y / x)), 0.0
    return row_s, batch_s


def _weighted_median(values: F64, weights: F64) -> float:
    order = np.argsort(values)
    reached = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(reached, reached[-1] / 2)])
