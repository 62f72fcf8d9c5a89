"""Which looks could find anything: bounds that no p-value is under, for all looks of half a day at once.

A look is passed on to the product's `Decider` when any column's p-value could be under alpha / F, which is what Holm's
method asks of the smallest one. Everything that is left out provably decides nothing:

- signed root: r^2 = 2 n KL(p, mid) + 2 m KL(q, mid) is at most (p - q)^2 n m / (n + m) over the smaller of p (1 - p)
  and q (1 - q) (remainder of Taylor's formula), and at most twice that over mid (1 - mid), since KL(p, q) <=
  (p - q)^2 / (q (1 - q)); and the effective rows are at most rows / factor.
- chi-square: each cell adds at most Pearson's term, and pooling or leaving out cells makes Pearson's statistic smaller.
- rare cells: a number of hits that is not enough with the fewest rows of any look is not enough with more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.drift_streams import FrozenReference
from streamserve.batch import F64, Bools
from streamserve.drift.decision import Budget
from streamserve.drift.dispersion import Inflation, contrasts, credited
from streamserve.drift.scores import POOL_BELOW
from streamserve.drift.special import f_sf, log_binomial_sf, student_two_sided

SLACK = 0.98
"""For the rounding of float32."""
MOST_HITS = 60


@dataclass(frozen=True, kw_only=True)
class Screen:
    """Thresholds of one window and reference; arrays over [F, C] or [F]."""

    reference: FrozenReference
    factor: F64
    peak: F64
    base_rows: F64
    base_peak: F64
    root: F64
    chi: F64
    hits: F64
    inflation: Inflation

    @classmethod
    def of(cls, reference: FrozenReference, budget: Budget, window_s: float, rows_per_pane: float) -> Screen:
        """Solve for the thresholds."""
        columns, cells = reference.counts.shape
        inflation = reference.dispersion.inflation(budget.panes(window_s))
        rows = float(reference.counts[0].sum())
        base = reference.dispersion.own(rows).effective(rows)
        usual = rows_per_pane * budget.panes(window_s)
        fewest = inflation.effective(usual - 7 * np.sqrt(usual))
        level = budget.alpha(window_s) / columns / 3
        share = reference.counts / rows
        above = np.arange(1, cells + 1, dtype=np.float64)
        dof = np.maximum(inflation.peak_dof, 1e-3)
        return cls(
            reference=reference,
            factor=inflation.factor,
            peak=inflation.peak,
            base_rows=base.rows,
            base_peak=base.peak_rows,
            root=_solve(lambda x: student_two_sided(x, inflation.dof), level / cells, inflation.dof.shape),
            chi=_solve(lambda x: f_sf(x, above, dof[:, None]), level, (columns, cells)) * above,
            hits=_hits(fewest.peak_rows, base.peak_rows, share, dof, level / cells),
            inflation=inflation,
        )

    def candidates(self, counts: npt.NDArray[np.int32], first: int, rows: F64) -> Bools:
        """Looks that could find something in some columns.

        Args:
            counts: [K, f, C] of K windows and the columns from `first` on.
            first: the first of the columns.
            rows: [K], of the windows.
        """
        part = slice(first, first + counts.shape[1])
        total = self.reference.counts[part].sum(axis=-1, keepdims=True)
        q = self.reference.counts[part] / total
        p = counts / rows[:, None, None].astype(np.float32)
        ordered = self.reference.ordered[part]
        found = self._contrasts(contrasts(p, ordered).astype(np.float32), contrasts(q, ordered), rows, part)
        found |= self._chi_square(p, q, rows, part)
        found |= (counts / self.peak[part][:, None] >= self.hits[part]).any(axis=(1, 2))
        return found

    def _contrasts(self, p: npt.NDArray[np.float32], q: F64, rows: F64, part: slice) -> Bools:
        n = (rows[:, None, None] / self.factor[part]).astype(np.float32)
        m = self.base_rows[part].astype(np.float32)
        base = q.astype(np.float32)
        middle = (n * p + m * base) / (n + m)
        noise = np.maximum(middle * (1 - middle) / 2, np.minimum(p * (1 - p), base * (1 - base)))
        usable = np.minimum(n, m) * np.minimum(middle, 1 - middle) >= SLACK * POOL_BELOW
        square = (p - base) ** 2 * (n * m / (n + m)) / np.maximum(noise, 1e-12)
        found: Bools = (usable & (square >= (SLACK * self.root[part]) ** 2)).any(axis=(1, 2))
        return found

    def _chi_square(self, p: npt.NDArray[np.float32], q: F64, rows: F64, part: slice) -> Bools:
        inflation = self.inflation
        n, _ = credited(rows[:, None], inflation.peak[part], inflation.peak_dof[part], inflation.block_rows)
        m = self.base_peak[part]
        least = np.minimum(n, m)[..., None] * q
        own = least >= POOL_BELOW * 0.9999
        sure = (least >= POOL_BELOW * 1.0001).sum(axis=-1) - 1
        harmonic = n * m / (n + m)
        middle = ((n / (n + m))[..., None] * p + (m / (n + m))[..., None] * q).astype(np.float32)
        pearson = harmonic * np.where(own, (p - q.astype(np.float32)) ** 2 / np.maximum(middle, 1e-12), 0).sum(axis=-1)
        rest_p, rest_q = np.where(own, 0, p).sum(axis=-1), np.where(own, 0, q).sum(axis=-1)
        rest = (n * rest_p + m * rest_q) / (n + m)
        pearson += np.where(rest > 0, harmonic * (rest_p - rest_q) ** 2 / np.maximum(rest, 1e-12), 0)
        limit = np.take_along_axis(self.chi[part], np.maximum(sure - 1, 0).T, axis=1).T
        able = own.sum(axis=-1) + (rest > 0) >= 2
        found: Bools = (able & (pearson >= SLACK * limit)).any(axis=-1)
        return found


def _solve(tail: Callable[[F64], F64], level: float, shape: tuple[int, ...]) -> F64:
    """x with tail(x) = level, from below, elementwise; infinite where the tail never gets so small."""
    low, high = np.zeros(shape), np.full(shape, 4.0)
    for _ in range(60):
        short = tail(high) > level
        if not short.any():
            break
        low, high = np.where(short, high, low), np.where(short, high * 2, high)
    for _ in range(24):
        middle = 0.5 * (low + high)
        short = tail(middle) > level
        low, high = np.where(short, middle, low), np.where(short, high, middle)
    return np.where(tail(high) > level, np.inf, low)


def _hits(n: F64, m: F64, share: F64, dof: F64, level: float) -> F64:
    """Fewest deflated hits that could reach `level` in a rare cell: [F, C]."""
    hits = np.arange(1, MOST_HITS)
    before = np.ceil(share * m[:, None] - 1e-9)[..., None]
    chance = (n / (n + m))[:, None, None]
    surprise = -log_binomial_sf(hits, hits + before, chance)
    freedom = np.minimum(dof, 1e9)[:, None, None]
    enough = -0.5 * freedom * np.log1p(2 * surprise / freedom) <= np.log(level)
    rare = n[:, None, None] * (hits + before) / (n[:, None, None] + m[:, None, None]) < POOL_BELOW * 1.5
    good = enough & rare
    return np.where(good.any(axis=-1), hits[good.argmax(axis=-1)], np.inf) * SLACK
