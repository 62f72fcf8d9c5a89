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
from streamserve.drift.dispersion import Inflation, credited
from streamserve.drift.schema import BINS, CELLS
from streamserve.drift.scores import POOL_BELOW
from streamserve.drift.special import f_sf, log_binomial_sf, student_two_sided

SLACK = 0.98
"""For the rounding of float32."""
MOST_HITS = 60
F32 = npt.NDArray[np.float32]
UP_TO: F32 = np.eye(CELLS, dtype=np.float32)
UP_TO[:BINS, :BINS] = np.triu(np.ones((BINS, BINS), np.float32))
"""Shares times this are `contrasts` of numbers."""


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
            counts: [K, f, C] of K windows and the columns from `first` on, all of them numbers or none.
            first: the first of the columns.
            rows: [K], of the windows.
        """
        part = slice(first, first + counts.shape[1])
        total = self.reference.counts[part].sum(axis=-1, keepdims=True)
        q = (self.reference.counts[part] / total).astype(np.float32)
        p = counts.astype(np.float32)
        found: Bools = (p >= (self.hits * self.peak[:, None])[part].astype(np.float32)).any(axis=(1, 2))
        p *= (1.0 / rows).astype(np.float32)[:, None, None]
        found |= self._chi_square(p, q, rows, part)
        if self.reference.ordered[first]:
            p, q = p @ UP_TO, q @ UP_TO
        return found | self._contrasts(p, q, rows, part)

    def _contrasts(self, p: F32, q: F32, rows: F64, part: slice) -> Bools:
        # with n = rows / factor, n m / (n + m) = rows m / (rows + factor m)
        m, factor = self.base_rows[part].astype(np.float32), self.factor[part].astype(np.float32)
        n = rows.astype(np.float32)[:, None, None]
        bottom = n + factor * m
        middle = n * p
        middle += factor * m * q
        middle /= bottom
        noise = np.minimum(p * (1 - p), q * (1 - q))
        side = np.minimum(middle, 1 - middle)
        np.maximum(noise, side * (1 - side) * np.float32(0.5), out=noise)
        usable = side * np.minimum(n, factor * m) >= np.float32(SLACK * POOL_BELOW) * factor
        p = p - q
        p *= p
        p *= n * m / bottom
        limit = ((SLACK * self.root[part]) ** 2).astype(np.float32)
        found: Bools = (usable & (p >= limit * np.maximum(noise, np.float32(1e-12)))).any(axis=(1, 2))
        return found

    def _chi_square(self, p: F32, q: F32, rows: F64, part: slice) -> Bools:
        inflation = self.inflation
        n, _ = credited(rows[:, None], inflation.peak[part], inflation.peak_dof[part], inflation.block_rows)
        m = self.base_peak[part]
        smaller = np.minimum(n, m).astype(np.float32)[..., None]
        # a cell is kept from so many rows on
        needed = np.where(q > 0, POOL_BELOW / np.maximum(q, np.float32(1e-12)), np.inf).astype(np.float32)
        own = smaller >= needed * np.float32(0.9999)
        sure = (smaller >= needed * np.float32(1.0001)).sum(axis=-1) - 1
        weight = (n / (n + m)).astype(np.float32)[..., None]
        gap = p - q
        middle = weight * gap
        middle += q
        np.maximum(middle, np.float32(1e-12), out=middle)
        gap *= gap
        gap /= middle
        gap *= own
        pearson = gap.sum(axis=-1)
        rest_p, rest_q = 1 - (p * own).sum(axis=-1), 1 - (own * q).sum(axis=-1)
        rest = np.maximum(weight[..., 0] * rest_p + (1 - weight[..., 0]) * rest_q, 0)
        pearson += np.where(rest > 1e-6, (rest_p - rest_q) ** 2 / np.maximum(rest, 1e-6), 0)
        limit = np.take_along_axis(self.chi[part], np.maximum(sure - 1, 0).T, axis=1).T
        able = own.sum(axis=-1) + (rest > 1e-6) >= 2
        found: Bools = (able & (pearson * (n * m / (n + m)) >= SLACK * limit)).any(axis=-1)
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
