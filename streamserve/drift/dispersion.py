"""How much more a real stream varies than independent rows would: the reason why tests divide their rows by a factor.

Rows of a stream depend on each other, from row to row and from minute to minute, and a share over a window then varies
more than n independent rows allow. The factor, the inflation, is measured on the panes of a reference in time order:
for every contrast of a column (`contrasts`), and for the direction over a column's cells that varies most, the variance
of sums over 1, 2, 4, ... panes, in units of the variance of independent rows. Windows longer than a fortieth of the
reference are extrapolated along the correlation of neighbouring blocks. Every factor carries the degrees of freedom it
is known with, so that tests use t and F distributions: a factor that was underestimated by chance must not page, and
with too few panes a test says nothing. It decides nothing and reads no clock.

Sources: Rao, J.N.K. & Scott, A.J. (1984), Annals of Statistics 12, 46-60 (deflated chi-square); Thomas, D.R. & Rao,
J.N.K. (1987), JASA 82, 630-636 (F reference distribution); Kuensch, H.R. (1989), Annals of Statistics 17, 1217-1241
(overlapping blocks).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np

from streamserve.batch import F64, I64, Bools
from streamserve.drift.schema import BINS

BLOCKS: Final = 40
"""Blocks of the reference that a variance is measured on at least; longer windows are extrapolated."""
MOST_CORRELATION: Final = 0.97
LEAST_DOF: Final = 60.0
"""Rows beyond the reference's density are credited while so many degrees of freedom remain."""
COLUMNS_AT_ONCE: Final = 16


def contrasts(counts: F64 | I64, ordered: Bools) -> F64:
    """The counts that are tested one by one: of a number up to each bin, of anything else in each cell.

    Args:
        counts: [..., F, C], or [..., C] with `ordered` of the leading shape.
        ordered: whether a column is a number, broadcast against the shape before the cells.

    Returns:
        float64 of the shape of `counts`: cumulative over the bins where ordered, OTHER, UNSEEN and MISSING alone.
    """
    values = np.asarray(counts, np.float64)
    up_to = np.concatenate([np.cumsum(values[..., :BINS], axis=-1), values[..., BINS:]], axis=-1)
    return np.where(np.asarray(ordered)[..., None], up_to, values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Effective:
    """So many independent rows a sample is worth.

    Attributes:
        sampled: F64[..., 1], the rows themselves.
        rows: F64[..., F, C], per contrast.
        dof: F64[..., F, C], degrees of freedom that `rows` is known with.
        peak_rows: F64[..., F], for the direction that varies most: never more than `rows`, about.
        peak_dof: F64[..., F].
    """

    sampled: F64
    rows: F64
    dof: F64
    peak_rows: F64
    peak_dof: F64


@dataclass(frozen=True, slots=True, kw_only=True)
class Inflation:
    """The factors for one window length.

    Attributes:
        factor: F64[F, C], variance of a contrast in units of independent rows, at least 1.
        dof: F64[F, C], degrees of freedom it is known with; 0: unknown.
        peak: F64[F], the same for the direction over the cells that varies most.
        peak_dof: F64[F].
        block_rows: rows that the reference holds in this length on average.
    """

    factor: F64
    dof: F64
    peak: F64
    peak_dof: F64
    block_rows: float

    def effective(self, rows: float | F64) -> Effective:
        """What `rows` rows are worth.

        Up to `block_rows` it is rows / factor. The reference cannot know how a stream varies on a scale finer than
        its own rows show, so rows beyond `block_rows` are credited only as far as their variance stays known with at
        least 60 degrees of freedom.

        Args:
            rows: of the sample, at its coarsest level: a number, or F64[...].
        """
        count = np.asarray(rows, np.float64)[..., None]
        peak_rows, peak_dof = credited(count, self.peak, self.peak_dof, self.block_rows)
        contrast_rows, dof = credited(count[..., None], self.factor, self.dof, self.block_rows)
        return Effective(sampled=count, rows=contrast_rows, dof=dof, peak_rows=peak_rows, peak_dof=peak_dof)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispersion:
    """Measured variance of a reference's panes, for all columns.

    Attributes:
        panes: G, how many panes it was measured on.
        rows_per_pane: rows of the reference in a pane on average.
        curve: F64[S + 1, F, C]: variance of a contrast over blocks of 2^s panes, s = 0 ... S, over that of
            independent rows.
        peak: F64[S, F]: largest variance of any direction over the cells, blocks of 2^s panes.
        peak_next: F64[S, F]: variance of that same direction over blocks twice as long.
        spread: F64[F, C]: share times its complement, of a contrast.
    """

    panes: int
    rows_per_pane: float
    curve: F64
    peak: F64
    peak_next: F64
    spread: F64

    @classmethod
    def fit(cls, pane_counts: I64, ordered: Bools) -> Self:
        """Measure on panes in time order.

        Args:
            pane_counts: I64[G, F, C], of consecutive panes; panes without rows stay in as zeros. Rows that are not in
                time order (a shuffled file) look independent, which they are not: use `unknown` for those.
            ordered: bool[F], which columns are numbers.
        """
        panes, columns, cells = pane_counts.shape
        rows = pane_counts[:, 0, :].sum(axis=-1).astype(np.float64) if columns else np.zeros(panes)
        if panes < 4 or rows.sum() <= 0:
            return cls.unknown(columns, cells)
        scales = int(np.log2(max(panes // BLOCKS, 1))) + 1
        parts = [
            _measure(pane_counts[:, first : first + COLUMNS_AT_ONCE], ordered[first : first + COLUMNS_AT_ONCE], scales)
            for first in range(0, columns, COLUMNS_AT_ONCE)
        ]
        return cls(
            panes=panes,
            rows_per_pane=float(rows.mean()),
            curve=np.concatenate([part.curve for part in parts], axis=1),
            peak=np.concatenate([part.peak for part in parts], axis=1),
            peak_next=np.concatenate([part.peak_next for part in parts], axis=1),
            spread=np.concatenate([part.spread for part in parts]),
        )

    @classmethod
    def unknown(cls, columns: int, cells: int) -> Self:
        """Nothing is known: tests with it never reject. Fit one on live panes instead."""
        return cls(
            panes=0,
            rows_per_pane=0.0,
            curve=np.ones((2, columns, cells)),
            peak=np.ones((1, columns)),
            peak_next=np.ones((1, columns)),
            spread=np.full((columns, cells), 0.25),
        )

    @classmethod
    def independent(cls, columns: int, cells: int) -> Self:
        """Rows are taken to be independent, without evidence: for tests, and for data that are known to be so."""
        return cls(
            panes=-1,
            rows_per_pane=0.0,
            curve=np.ones((2, columns, cells)),
            peak=np.ones((1, columns)),
            peak_next=np.ones((1, columns)),
            spread=np.full((columns, cells), 0.25),
        )

    def inflation(self, window_panes: float) -> Inflation:
        """The factors for windows of `window_panes` panes (at least 1; whole panes but for a reference's own length).

        Measured on blocks of the largest power of two that the window and a fortieth of the reference hold, and
        carried from there to the window's length by a first-order autoregression of blocks. No bin or category has a
        factor under the column's mean, weighed by spread. The autoregression is
        f(r, k) = (1 + r) / (1 - r) - 2 r (1 - r^k) / (k (1 - r)^2), k = window over block, r = correlation of
        neighbouring blocks, corrected for its bias -(1 + 3 r) / blocks and at least 0.
        """
        if self.panes <= 0:
            known = np.inf if self.panes < 0 else 0.0
            return Inflation(
                factor=self.curve[0],
                dof=np.full_like(self.spread, known),
                peak=self.peak[0],
                peak_dof=np.full_like(self.peak[0], known),
                block_rows=np.inf,
            )
        scale = min(int(np.log2(max(window_panes, 1.0))), len(self.peak) - 1)
        block = 2.0**scale
        blocks, length = self.panes / block, max(window_panes, 1.0) / block
        events = np.maximum(self.rows_per_pane * block * self.spread, 1e-12)
        factor, dof = _extrapolated(self.curve[scale], self.curve[scale + 1], blocks, length, events)
        peak, peak_dof = _extrapolated(self.peak[scale], self.peak_next[scale], blocks, length, np.array(np.inf))
        # a swing that moves a centre in proportion multiplies a tail, and what the tail did at rest does not show it
        usual = (self.spread * factor).sum(axis=-1, keepdims=True) / np.maximum(
            self.spread.sum(axis=-1, keepdims=True), 1e-12
        )
        factor = np.concatenate([np.maximum(factor[:, :BINS], usual), factor[:, BINS:]], axis=-1)
        # a contrast with few or no events in the reference knows little of itself: the column's peak bounds it
        unsure = dof < 0.5 * peak_dof[:, None]
        return Inflation(
            factor=np.where(unsure, np.maximum(factor, peak[:, None]), factor),
            dof=np.where(unsure, peak_dof[:, None], dof),
            peak=peak,
            peak_dof=peak_dof,
            block_rows=self.rows_per_pane * max(window_panes, 1.0),
        )

    def own(self, rows: float) -> Inflation:
        """The factors for a sample that lies beside the panes: as long as it takes to collect `rows` rows."""
        return self.inflation(rows / self.rows_per_pane if self.rows_per_pane > 0 else 1.0)

    def to_document(self) -> dict[str, Any]:
        """JSON; four digits are kept."""
        return {
            "panes": self.panes,
            "rows_per_pane": self.rows_per_pane,
            "curve": _rounded(self.curve),
            "peak": _rounded(self.peak),
            "peak_next": _rounded(self.peak_next),
            "spread": _rounded(self.spread),
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """What `to_document` wrote."""
        return cls(
            panes=int(document["panes"]),
            rows_per_pane=float(document["rows_per_pane"]),
            curve=np.array(document["curve"], np.float64),
            peak=np.array(document["peak"], np.float64),
            peak_next=np.array(document["peak_next"], np.float64),
            spread=np.array(document["spread"], np.float64),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    curve: F64
    peak: F64
    peak_next: F64
    spread: F64


def _measure(pane_counts: I64, ordered: Bools, scales: int) -> _Part:
    """Variances of some columns, blocks of 2^0 ... 2^scales panes for contrasts, one fewer for directions."""
    panes = pane_counts.shape[0]
    rows = np.concatenate([[0.0], np.cumsum(pane_counts[:, 0, :].sum(axis=-1), dtype=np.float64)])
    cells = np.zeros((panes + 1, *pane_counts.shape[1:]))
    np.cumsum(pane_counts, axis=0, dtype=np.float64, out=cells[1:])
    share = cells[-1] / rows[-1]
    cells -= rows[:, None, None] * share  # cumulative deviation from the reference's own shares
    reached = contrasts(share, ordered)
    spread = reached * (1.0 - reached)
    scale_of_cell = np.where(share > 0, 1.0 / np.sqrt(np.where(share > 0, share, 1.0)), 0.0)
    curve, peak, peak_next = [], [], []
    directions: F64 | None = None
    for scale in range(scales + 1):
        block = 2**scale
        starts = np.arange(0, panes - block + 1, max(block // 2, 1))
        sums = cells[starts + block] - cells[starts]
        unit = (rows[starts + block] - rows[starts]).mean() * (1.0 - block / panes)  # its own mean was taken off
        moved = (contrasts(sums, ordered) ** 2).mean(axis=0)
        curve.append(np.where(spread > 1e-12, moved / np.where(spread > 1e-12, spread * unit, 1.0), 1.0))
        white = np.ascontiguousarray((sums * scale_of_cell).transpose(1, 2, 0))
        covariance = white @ white.transpose(0, 2, 1) / (len(starts) * unit)
        if directions is not None:
            peak_next.append(np.einsum("fc,fcd,fd->f", directions, covariance, directions))
        if scale < scales:
            values, vectors = np.linalg.eigh(covariance)
            peak.append(values[:, -1])
            directions = vectors[:, :, -1]
    return _Part(curve=np.stack(curve), peak=np.stack(peak), peak_next=np.stack(peak_next), spread=spread)


def _extrapolated(variance: F64, twice: F64, blocks: float, length: float, events: F64) -> tuple[F64, F64]:
    """Factor and degrees of freedom at `length` blocks, from the variances over one block and over two.

    The relative variance of the factor is that of the measured variance, 2 / blocks (1 + r^2) / (1 - r^2) and more
    where a block holds few events (1 / events more kurtosis), plus that of the extrapolation through the error of r,
    (1 - r^2) / blocks (delta method); twice its inverse is the degrees of freedom.
    """
    floor = np.maximum(variance, 1e-12)
    seen = np.clip(twice / floor - 1.0, 0.0, 1.0)
    r = np.clip(twice / floor - 1.0 + (1.0 + 3.0 * seen) / blocks, 0.0, MOST_CORRELATION)
    growth = _growth(r, length)
    step = 1e-4
    slope = np.log(_growth(r + step, length) / growth) / step
    whole = max(blocks - 1.0, 1e-9)
    measured = 2.0 / whole * (1.0 + r * r) / (1.0 - r * r) * (1.0 + 0.5 / events)
    return np.maximum(variance * growth, 1.0), 2.0 / (measured + slope * slope * (1.0 - r * r) / blocks)


def _growth(r: F64, length: float) -> F64:
    """Variance of the mean of `length` steps of an autoregression, over that of as many independent ones."""
    rest = 1.0 - r
    return (1.0 + r) / rest - 2.0 * r * (1.0 - r**length) / (length * rest * rest)


def credited(rows: F64, factor: F64, dof: F64, block_rows: float) -> tuple[F64, F64]:
    """Effective rows, and the degrees of freedom they are known with; `Inflation.effective` says how."""
    beyond = np.maximum(rows / block_rows, 1.0)
    credit = np.minimum(beyond, np.maximum(np.sqrt(dof / LEAST_DOF), 1.0))
    unit = 1.0 / credit + factor - 1.0
    known = np.isfinite(dof)
    return np.minimum(rows, block_rows) / unit, np.where(known, np.where(known, dof, 0.0) * (unit / factor) ** 2, dof)


def _rounded(values: F64) -> list[Any]:
    with np.errstate(divide="ignore"):
        power = np.where(values == 0, 0.0, 3.0 - np.floor(np.log10(np.abs(values))))
    return (np.round(values * 10.0**power) / 10.0**power).tolist()  # type: ignore[no-any-return]  # nested lists
