"""Where the bins of a number lie, and which categories are counted by name: both from the reference alone.

Edges never move after that, so counts over them can be added up over rows, workers and panes in any order and come
out the same to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from streamserve.batch import F64, I64
from streamserve.drift.schema import BINS

MAX_KNOWN = 10_000
"""Categories of a reference whose names are kept; with more of them an unknown name counts as OTHER, not as UNSEEN."""


def edges_of(values: F64, bins: int = BINS) -> F64:
    """Inner edges of at most `bins` bins of about equal mass; bin j is (edge[j-1], edge[j]], the outer ones are open.

    A value that holds more than its share of the rows (zero rain) gets a bin of its own, and what is left is divided
    evenly among the bins that are left; with no more than `bins` distinct values each has its own bin.

    Args:
        values: float64[n], finite.
        bins: most bins.

    Returns:
        float64[b - 1], ascending; empty when there is one distinct value or none.
    """
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) <= bins:
        return _between(distinct[:-1], distinct[1:])
    mass = np.concatenate([[0], np.cumsum(counts)])
    uppers: list[int] = []  # the last distinct value of each bin
    start = 0
    for left in range(bins, 1, -1):
        share = (mass[-1] - mass[start]) / left
        last = max(int(np.searchsorted(mass, mass[start] + share)) - 1, start)
        last = min(last, len(distinct) - left)  # each later bin needs a value of its own
        if last > start and counts[last] >= share:
            last -= 1  # a heavy value opens its own bin
        uppers.append(last)
        start = last + 1
    at = np.array(uppers)
    return _between(distinct[at], distinct[at + 1])


def _between(lower: F64, upper: F64) -> F64:
    """Edges that part each pair: the middle, or the lower value where rounding would put the middle on the upper."""
    middle = (lower + upper) / 2
    return np.where(middle < upper, middle, lower)


def centers_of(values: F64, edges: F64) -> F64:
    """Mean of the values in each bin, float64[BINS]; unused bins repeat the last used one."""
    used = len(edges) + 1
    centers = np.zeros(BINS)
    if not len(values):
        return centers
    place = np.searchsorted(edges, values)
    counts = np.bincount(place, minlength=used)
    sums = np.bincount(place, weights=values, minlength=used)
    filled = counts > 0
    centers[:used][filled] = sums[filled] / counts[filled]
    centers[used:] = centers[used - 1]
    return centers


def categories_of(counts: Mapping[str, int], bins: int = BINS) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The most frequent categories, and the further ones that are known by name (at most `MAX_KNOWN`).

    A name beyond the most frequent ones that occurs once is left out, and so counts as unseen: the share of such names
    is what one has to expect of new ones (Good, I.J., Biometrika 40, 1953), so that a long tail of names is no drift.
    """
    ranked = sorted(counts, key=lambda name: (-counts[name], name))
    return tuple(ranked[:bins]), tuple(name for name in ranked[bins : bins + MAX_KNOWN] if counts[name] > 1)


def all_known(counts: Mapping[str, int], bins: int = BINS) -> bool:
    """Whether every name that occurs more than once is known."""
    return sum(count > 1 for count in counts.values()) <= bins + MAX_KNOWN


def count_cells(codes: I64, columns: int, cells: int, weights: I64 | None = None) -> I64:
    """How often each cell occurs in each column.

    Args:
        codes: int[n, columns], the cell of every row and column.
        columns: how many columns.
        cells: how many cells each has.
        weights: int64[n], how many rows each stands for; None is 1.

    Returns:
        int64[columns, cells].
    """
    flat = (codes + np.arange(columns) * cells).ravel()
    if weights is None:
        return np.bincount(flat, minlength=columns * cells).reshape(columns, cells)
    # Sums of integers below 2^53 are exact in the float64 that bincount adds in.
    spread = np.repeat(weights.astype(np.float64), columns)
    return np.bincount(flat, weights=spread, minlength=columns * cells).astype(np.int64).reshape(columns, cells)
