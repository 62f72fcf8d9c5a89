"""Streams that never drift, for `benchmarks.false_alarms`: 200 features whose rows are drawn one by one.

Every feature is a sequence of 16-bit codes; a reference's own rows choose its bins and categories (the product's
`edges_of`, `centers_of`, `categories_of`), and a table then takes codes to cells. Rows in a pane are Poisson.

| features | kind |
|---|---|
| 60 | independent numbers |
| 20 | skewed numbers: 60 % zeros and a long tail; small integers; one value 98 % of the time |
| 30 | categories: six, one of them 0.1 % of rows; two, one of them 3 %; many, by Zipf's law; 3,000 rare ones |
| 40 | every row leans on the one before: AR(1), 0.9 |
| 40 | the mean of every pane leans on the one before: AR(1), 0.9, as much variance as the pane's own 100 rows |
| 10 | a category that stays with chance 0.9 from row to row |

Every third feature lacks 0.2 % of its values.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import Literal

import numpy as np
import numpy.typing as npt

from streamserve.batch import F64, I64, Bools
from streamserve.drift.bins import categories_of, centers_of, edges_of
from streamserve.drift.dispersion import Dispersion
from streamserve.drift.schema import BINS, CELLS, MISSING, OTHER, UNSEEN

Codes = npt.NDArray[np.uint16]
Kind = Literal["iid", "skewed", "categories", "event AR", "pane AR", "sticky"]

FEATURES = 200
RHO = 0.9
ABSENT = 65_535
"""The code of a missing value."""
BLOCK = 64
SCALE = 6000.0
"""Codes of a standard deviation, for features that are drawn as normal numbers."""


def kind_of(feature: int) -> Kind:
    """Which kind a feature of the population is."""
    limits: tuple[tuple[int, Kind], ...] = (
        (60, "iid"),
        (80, "skewed"),
        (110, "categories"),
        (150, "event AR"),
        (190, "pane AR"),
    )
    return next((kind for limit, kind in limits if feature < limit), "sticky")


@dataclass(frozen=True, kw_only=True)
class FrozenReference:
    """The product's `ReferenceSample`, with the tables that take codes to cells."""

    counts: I64
    centers: F64
    std: F64
    ordered: Bools
    dispersion: Dispersion
    tables: npt.NDArray[np.uint8]


class StationaryStream:
    """Rows of all features, pane by pane, from one seed.

    Args:
        seed: of everything.
        rows_per_pane: on average.
    """

    def __init__(self, seed: int, rows_per_pane: float = 100.0) -> None:
        self._random = np.random.Generator(np.random.SFC64(seed))
        self._rows_per_pane = rows_per_pane
        self._values = np.stack([_values_of(feature) for feature in range(FEATURES)])
        steps = np.arange(BLOCK)
        lag = steps[None, :] - steps[:, None]
        self._respond = np.where(lag >= 0, RHO ** np.maximum(lag, 0), 0.0).astype(np.float32) * np.float32(
            np.sqrt(1 - RHO * RHO)
        )
        self._fade = (RHO ** (steps + 1)).astype(np.float32)
        self._level = self._random.standard_normal(FEATURES)
        self._last = self._random.standard_normal(FEATURES).astype(np.float32)
        self._stay = self._random.integers(0, ABSENT, FEATURES, dtype=np.uint16)

    def rows(self, panes: int) -> I64:
        """Rows of the next panes: int64[panes]."""
        return self._random.poisson(self._rows_per_pane, panes)

    def codes(self, feature: int, rows: I64) -> Codes:
        """The next rows of one feature; call for every feature with the same `rows`."""
        count = int(rows.sum())
        kind = kind_of(feature)
        if kind == "event AR":
            codes = _normal_codes(self._row_by_row(feature, count))
        elif kind == "pane AR":
            weight = 1.0 / np.sqrt(1.0 + self._rows_per_pane)
            noise = self._random.standard_normal(count, dtype=np.float32)
            mean = np.repeat(self._pane_by_pane(feature, len(rows)).astype(np.float32) * np.float32(weight), rows)
            codes = _normal_codes(mean + np.float32(np.sqrt(1 - weight * weight)) * noise)
        else:
            codes = self._random.integers(0, ABSENT, count, dtype=np.uint16)
            if kind == "sticky":
                codes = self._sticky(feature, codes)
        if feature % 3 == 0:
            lacking = self._random.integers(0, count, self._random.binomial(count, 0.002))
            codes[lacking] = ABSENT
        return codes

    def reference(self, panes: int) -> FrozenReference:
        """Freeze a reference on the next panes, and fit its dispersion."""
        return self.reference_with_panes(panes)[0]

    def reference_with_panes(self, panes: int) -> tuple[FrozenReference, I64]:
        """The same, and the counts of its panes, int64[panes, F, C]."""
        rows = self.rows(panes)
        pane = np.repeat(np.arange(panes), rows) * CELLS
        counts = np.zeros((panes, FEATURES, CELLS), np.int64)
        tables = np.zeros((FEATURES, 65_536), np.uint8)
        centers, std = np.zeros((FEATURES, BINS)), np.ones(FEATURES)
        ordered = np.array([is_number(feature) for feature in range(FEATURES)])
        once = np.zeros(FEATURES, np.int64)
        for feature in range(FEATURES):
            codes = self.codes(feature, rows)
            present = self._values[feature][codes[codes != ABSENT]]
            if ordered[feature]:
                edges = edges_of(present)
                centers[feature], std[feature] = centers_of(present, edges), max(present.std(), 1e-12)
                tables[feature] = np.searchsorted(edges, self._values[feature])
            else:
                tables[feature], once[feature] = _category_table(self._values[feature], present)
            tables[feature, ABSENT] = MISSING
            counts[:, feature] = place(codes, tables[feature], pane, panes)
        total = counts.sum(axis=0)
        total[:, UNSEEN] += once  # a category that occurred once was unseen to all other rows
        total[:, OTHER] -= once
        dispersion = Dispersion.fit(counts, ordered)
        frozen = FrozenReference(
            counts=total, centers=centers, std=std, ordered=ordered, dispersion=dispersion, tables=tables
        )
        return frozen, counts

    def counts(self, panes: int, tables: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
        """Counts of the next panes: int32[panes, F, C]."""
        rows = self.rows(panes)
        pane = np.repeat(np.arange(panes), rows) * CELLS
        counts = np.empty((panes, FEATURES, CELLS), np.int32)
        for feature in range(FEATURES):
            counts[:, feature] = place(self.codes(feature, rows), tables[feature], pane, panes)
        return counts

    def _row_by_row(self, feature: int, count: int) -> npt.NDArray[np.float32]:
        """AR(1) over rows: responses within blocks of 64 by a product of matrices, carried over three blocks."""
        blocks = count // BLOCK + 1
        noise = self._random.standard_normal((blocks, BLOCK), dtype=np.float32)
        inside = noise @ self._respond
        ends = inside[:, -1]
        fade = self._fade[-1]
        carry = np.empty(blocks, np.float32)
        carry[0] = self._last[feature]
        carry[1:] = ends[:-1]
        carry[1:] += fade * np.concatenate([[self._last[feature]], ends[:-2]])
        carry[2:] += fade * fade * np.concatenate([[self._last[feature]], ends[:-3]])
        values = (inside + carry[:, None] * self._fade).ravel()[:count]
        self._last[feature] = values[-1]
        return values

    def _pane_by_pane(self, feature: int, panes: int) -> F64:
        noise = self._random.standard_normal(panes) * np.sqrt(1 - RHO * RHO)
        level = float(self._level[feature])
        levels = []
        for step in noise.tolist():
            level = RHO * level + step
            levels.append(level)
        self._level[feature] = level
        return np.array(levels)

    def _sticky(self, feature: int, fresh: Codes) -> Codes:
        stays = self._random.integers(0, 65_536, len(fresh), dtype=np.uint16) < np.uint16(RHO * 65_536)
        stays[0] = False
        source = np.maximum.accumulate(np.where(stays, 0, np.arange(len(fresh))))
        codes = fresh[source]
        first = int(np.argmin(stays[1:])) + 1 if len(fresh) > 1 else 1
        codes[:first] = self._stay[feature]
        self._stay[feature] = codes[-1]
        return codes


def place(codes: Codes, table: npt.NDArray[np.uint8], pane: I64, panes: int) -> I64:
    """Codes to counts per pane: int64[panes, C]."""
    return np.bincount(pane + table[codes], minlength=panes * CELLS).reshape(panes, CELLS)


def is_number(feature: int) -> bool:
    """Whether a feature of the population is a number."""
    return kind_of(feature) in {"iid", "skewed", "event AR", "pane AR"}


def _normal_codes(values: npt.NDArray[np.float32]) -> Codes:
    return np.clip(values * np.float32(SCALE) + np.float32(32_767.5), 0, ABSENT - 1).astype(np.uint16)


@cache
def _values_of(feature: int) -> F64:
    """The number that a code stands for, or the number of its category: float64[65536]."""
    codes = np.arange(65_536)
    share = np.minimum((codes + 0.5) / ABSENT, 1 - 1e-9)
    kind = kind_of(feature)
    if kind in {"event AR", "pane AR"}:
        return (codes - 32_767.5) / SCALE
    if kind == "sticky":
        return np.floor(share * 8)
    if kind == "iid":
        return _normal_values()
    if kind == "skewed":
        forms = [
            np.where(share < 0.6, 0.0, np.exp(4.0 * (share - 0.6)) - 1.0 + (share > 0.99) * 50.0 * (share - 0.99)),
            np.floor(np.log1p(-share) / np.log(0.6)),
            np.where(share < 0.98, 1.0, 1.0 + 100.0 * (share - 0.98)),
        ]
        return forms[feature % 3]
    return _categories_of(feature, codes, share)


@cache
def _normal_values() -> F64:
    normal = NormalDist()
    return np.array([normal.inv_cdf((code + 0.5) / (ABSENT + 1)) for code in range(ABSENT + 1)])


def _categories_of(feature: int, codes: I64, share: F64) -> F64:
    form = feature % 4
    if form == 0:
        return np.searchsorted([0.4, 0.7, 0.85, 0.95, 0.999], share).astype(np.float64)
    if form == 1:
        return (share > 0.97).astype(np.float64)
    if form == 2:
        mass = np.arange(1, 2001) ** -1.3
        return np.minimum(np.searchsorted(np.cumsum(mass / mass.sum()), share), 1999).astype(np.float64)
    return np.where(share < 0.95, np.floor(share * 10.5), 100.0 + codes)


def _category_table(values: F64, present: F64) -> tuple[npt.NDArray[np.uint8], int]:
    """Codes to cells, and how many categories beyond the most frequent ones occurred once."""
    counted = Counter(
        {f"{value:.0f}": count for value, count in zip(*np.unique(present, return_counts=True), strict=True)}
    )
    top, known = categories_of(counted)
    cells = {name: cell for cell, name in enumerate(top)} | dict.fromkeys(known, OTHER)
    distinct, which = np.unique(values, return_inverse=True)
    table = np.array([cells.get(f"{value:.0f}", UNSEEN) for value in distinct.tolist()], np.uint8)[which]
    return table, sum(1 for name in known if counted[name] == 1)
