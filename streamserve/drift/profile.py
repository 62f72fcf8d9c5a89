"""A profile: what a set of rows looked like, in counts over frozen cells; those of parts add up to that of the whole.

Counts are integers, so the order of adding does not matter to the bit. A row kept at sampling level k stands for 2^k
rows and counts as much: counts are unbiased for the population whatever mix of levels they come from. For tests they
are divided by 2^level of the coarsest level in them: a sum of weighted Poisson counts has, for the same mean, a
lighter tail than 2^level times one Poisson count (convex order; Shaked and Shanthikumar, Stochastic Orders, 2007,
section 3.A), so a test on the quotient errs on the side of silence.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from streamserve.batch import F64, I64
from streamserve.drift.bins import count_cells
from streamserve.drift.schema import CELLS


@dataclass(slots=True)
class Moments:
    """Count, mean and sum of squared deviations per column, by Chan's parallel update.

    T. F. Chan, G. H. Golub, R. J. LeVeque, "Algorithms for computing the sample variance", The American Statistician
    37 (1983) 242-247. For display: merged in another order they differ in the last digits, and no decision uses them.
    """

    n: F64
    mean: F64
    m2: F64

    @classmethod
    def empty(cls, columns: int) -> Self:
        """No rows yet."""
        return cls(np.zeros(columns), np.zeros(columns), np.zeros(columns))

    @classmethod
    def of(cls, values: F64, weights: F64) -> Self:
        """Of float64[n, columns] (NaN left out), each row with its weight."""
        known = ~np.isnan(values)
        filled = np.where(known, values, 0.0)
        n = weights @ known
        mean = np.divide(weights @ filled, n, out=np.zeros_like(n), where=n > 0)
        off = np.where(known, values - mean, 0.0)
        return cls(n, mean, weights @ (off * off))

    def merge(self, other: Moments) -> None:
        """Take in another part."""
        n = self.n + other.n
        share = np.divide(other.n, n, out=np.zeros_like(n), where=n > 0)
        off = other.mean - self.mean
        self.m2 += other.m2 + off * off * self.n * share
        self.mean = self.mean + off * share
        self.n = n

    def copy(self) -> Self:
        """The same, to be merged into on its own."""
        return type(self)(self.n.copy(), self.mean.copy(), self.m2.copy())

    @property
    def std(self) -> F64:
        """Standard deviation per column; 0 without rows."""
        return np.sqrt(np.divide(self.m2, self.n, out=np.zeros_like(self.n), where=self.n > 0))


@dataclass(slots=True)
class Profile:
    """Counts of F columns.

    Attributes:
        counts: int64[F, CELLS], of the population (a row of level k counts 2^k).
        rows: sampled rows.
        weight: rows of the population.
        level: the coarsest sampling level among them.
    """

    counts: I64
    rows: int = 0
    weight: int = 0
    level: int = 0

    @classmethod
    def empty(cls, columns: int) -> Self:
        """No rows yet."""
        return cls(np.zeros((columns, CELLS), dtype=np.int64))

    @classmethod
    def of(cls, codes: I64, level: I64) -> Self:
        """Of int[n, F] cells and int64[n] levels."""
        weights = np.left_shift(1, level)
        mixed = level.any()
        counts = count_cells(codes, codes.shape[1], CELLS, weights if mixed else None)
        return cls(counts, len(codes), int(weights.sum()), int(level.max(initial=0)))

    def add(self, other: Profile) -> None:
        """Take in another part."""
        self.counts += other.counts
        self.rows += other.rows
        self.weight += other.weight
        self.level = max(self.level, other.level)

    def copy(self) -> Self:
        """The same counts, to be added to on their own."""
        return replace(self, counts=self.counts.copy())

    @property
    def n_effective(self) -> float:
        """Rows that a test may count on."""
        return self.weight / (1 << self.level)
