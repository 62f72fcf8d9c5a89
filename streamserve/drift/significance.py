"""Could a distance be chance? p-values that hold far out, for dependent rows, cells with few rows and small references.

Three tests of each column, all between two samples (a reference is a sample too), all on rows deflated by the measured
inflation (`dispersion`), all with t or F distributions for what the inflation is not known:

- contrasts: a number's distribution function at every edge of the grid (Kolmogorov-Smirnov with every point weighed by
  its own variance), the share of every category, of missing, unseen and other values. Signed root of the likelihood
  ratio of two binomials, whose normal approximation holds far out where that of (p - q) / s.e. does not; Bonferroni.
- chi-square over the cells, for changes spread over many of them, deflated by the direction that varies most: a sum of
  chi-square variables of unequal weights has the far tail of its largest weight.
- rare cells, expected to hold fewer than ten rows: the exact binomial test given both counts.

Where a stream varies more than its rows explain, its shares swing, and swings multiply: a missing share of 2 % that
doubles and halves comes to 12 % far more often than rows divided by the inflation would. So contrasts and rare cells
are also tested with log-odds that are normal around the reference's, with the variance that was measured, and the less
significant answer counts.

p = 3 x the smallest. It says nothing about what matters; that is `decision`.

Sources: Rao & Scott (1984) and Thomas & Rao (1987), see `dispersion`; Przyborowski, J. & Wilenski, H. (1940),
Biometrika 31, 313-323 (the conditional test); Barndorff-Nielsen, O.E. & Cox, D.R. (1994), Inference and Asymptotics,
section 6.6 (the signed root).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from streamserve.batch import F64, I64, Bools
from streamserve.drift.dispersion import Effective, contrasts
from streamserve.drift.schema import BINS
from streamserve.drift.scores import POOL_BELOW, pooled, shares, two_sample_terms
from streamserve.drift.special import f_sf, log_binomial_sf, student_two_sided

NO_ROWS: Final = 1e-300
NEWTON_STEPS: Final = 15
SWINGS_FROM: Final = 3.0
"""Roots under this are no finding either way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Significance:
    """p-values, each F64[..., F].

    Attributes:
        p: 3 x the smallest of the others, at most 1.
        contrasts: of the largest contrast, for all contrasts of the column.
        chi_square: of the cells together.
        rare: of the most surprising rare cell, for all cells of the column.
    """

    p: F64
    contrasts: F64
    chi_square: F64
    rare: F64


def significance(
    observed: F64 | I64, expected: F64 | I64, ordered: Bools, window: Effective, base: Effective
) -> Significance:
    """Test every column.

    Args:
        observed: counts of the window, [..., F, C], at their coarsest level (sum over cells = sampled rows).
        expected: counts of the reference, [..., F, C].
        ordered: bool[..., F], whether a column is a number.
        window: what the window's rows are worth.
        base: what the reference's rows are worth.
    """
    p, q = shares(observed), shares(expected)
    largest = p_contrasts(contrasts(p, ordered), contrasts(q, ordered), window, base)
    whole = p_chi_square(p, q, window, base)
    rare = p_rare(p, q, ordered, window, base)
    least = np.minimum(np.minimum(largest, whole), rare)
    return Significance(p=np.minimum(3.0 * least, 1.0), contrasts=largest, chi_square=whole, rare=rare)


def p_contrasts(p: F64, q: F64, window: Effective, base: Effective) -> F64:
    """p-value of the largest contrast, times their number.

    r^2 = 2 n KL(p, mid) + 2 m KL(q, mid), KL of two binomials, n and m effective rows, mid the pooled share; r is
    Student's t with the degrees of freedom that n and m are known with. Where r is over 3 it is at most the root for
    swinging shares (`swing_root`). A contrast takes part where both samples expect ten rows on either side of it.

    Args:
        p: shares of the contrasts in the window, [..., C].
        q: the same in the reference.
        window: what the window's rows are worth.
        base: what the reference's rows are worth.
    """
    root, dof = np.broadcast_arrays(*signed_root(p, q, window, base))
    # t as a normal deviate (Wallace 1959), only to find the largest: its p-value is Student's own
    square = root * root
    known = np.isfinite(dof) & (dof > 1.0)
    freedom = np.where(known, dof, 1.0)
    rank = np.where(known, freedom * np.log1p(square / freedom), np.where(dof > 1.0, square, 0.0))
    best = np.expand_dims(rank.argmax(axis=-1), -1)
    chosen, chosen_dof = (np.take_along_axis(values, best, axis=-1)[..., 0] for values in (root, dof))
    result: F64 = np.minimum(student_two_sided(chosen, chosen_dof) * p.shape[-1], 1.0)
    return result


def signed_root(p: F64, q: F64, window: Effective, base: Effective) -> tuple[F64, F64]:
    """Root of the likelihood ratio of every contrast, without its sign and 0 where one may not be tested, and dof."""
    n, m = window.rows, base.rows
    middle = np.clip((n * p + m * q) / np.maximum(n + m, NO_ROWS), 0.0, 1.0)
    enough = np.minimum(n, m) * np.minimum(middle, 1.0 - middle) >= POOL_BELOW
    safe = np.where(enough, middle, 0.5)
    ratio = 2.0 * (n * _divergence(p, safe) + m * _divergence(q, safe))
    root = np.sqrt(np.where(enough, np.maximum(ratio, 0.0), 0.0))
    far = root > SWINGS_FROM
    if far.any():
        p, q, safe = (np.broadcast_to(values, root.shape)[far] for values in (p, q, safe))
        rows = [np.broadcast_to(sample.sampled[..., None], root.shape)[far] for sample in (window, base)]
        swing = sum(1.0 / np.broadcast_to(sample.rows, root.shape)[far] for sample in (window, base))
        swing = (swing - 1.0 / rows[0] - 1.0 / rows[1]) / (safe * (1.0 - safe))
        root[far] = np.minimum(root[far], swing_root(p, q, rows[0], rows[1], swing))
    return root, combined_dof(n, window.dof, m, base.dof)


def swing_root(p: F64, q: F64, n: F64, m: F64, swing: F64) -> F64:
    """Root of the likelihood ratio of two binomials whose log-odds differ by a normal variable of variance `swing`.

    r^2 = min over x, y of 2 n KL(p, s(x)) + 2 m KL(q, s(y)) + (x - y)^2 / swing, s the logistic function: the large
    deviation exponent of binomials with normal log-odds. A convex problem, by Newton's method.

    Args:
        p: shares in the window.
        q: shares in the reference.
        n: rows of the window, not deflated.
        m: rows of the reference, not deflated.
        swing: variance of the difference of log-odds between samples, beyond that of n and m rows.
    """
    middle = np.clip((n * p + m * q) / (n + m), 1e-9, 1.0 - 1e-9)
    x = np.log(middle / (1.0 - middle))
    y = x.copy()
    stiff = 1.0 / np.maximum(swing, 1e-3 / (n * middle * (1.0 - middle)))
    for _ in range(NEWTON_STEPS):
        s, t = 1.0 / (1.0 + np.exp(-x)), 1.0 / (1.0 + np.exp(-y))
        pull = stiff * (x - y)
        first, second = n * (s - p) + pull, m * (t - q) - pull
        a, b = n * s * (1.0 - s), m * t * (1.0 - t)
        both = a * b + (a + b) * stiff
        x = x - np.clip(((b + stiff) * first + stiff * second) / both, -1.0, 1.0)
        y = y - np.clip((stiff * first + (a + stiff) * second) / both, -1.0, 1.0)
    s, t = 1.0 / (1.0 + np.exp(-x)), 1.0 / (1.0 + np.exp(-y))
    result: F64 = np.sqrt(np.maximum(2.0 * (n * _divergence(p, s) + m * _divergence(q, t)) + stiff * (x - y) ** 2, 0.0))
    return result


def p_chi_square(p: F64, q: F64, window: Effective, base: Effective) -> F64:
    """p-value of the cells together, by F with (cells - 1, dof of the inflation) degrees of freedom.

    Every cell adds the smaller of Pearson's term and the deviance's: Pearson's is too large for an excess in a small
    cell, the deviance's for a lack, and at 1e-8 either shows. Cells are pooled by what the reference expects, so that
    the window does not choose its own test.

    Args:
        p: shares of the cells in the window, [..., C].
        q: the same in the reference.
        window: what the window's rows are worth.
        base: what the reference's rows are worth.
    """
    n, m = window.peak_rows[..., None], base.peak_rows[..., None]
    observed, expected, kept = pooled(p * n, q * m, q * np.minimum(n, m))
    pearson, deviance = two_sample_terms(observed, expected)
    statistic = np.where(kept, np.minimum(pearson, deviance), 0.0).sum(axis=-1)
    cells = kept.sum(axis=-1) - 1.0
    cells, dof = np.broadcast_arrays(
        cells, combined_dof(window.peak_rows, window.peak_dof, base.peak_rows, base.peak_dof)
    )
    able = (cells > 0) & (dof > 0)
    above = np.where(able, cells, 1.0)
    return np.where(able, f_sf(statistic / above, above, np.where(able, dof, 1.0)), 1.0)


def p_rare(p: F64, q: F64, ordered: Bools, window: Effective, base: Effective) -> F64:
    """p-value of the largest excess in a rare cell, times the number of cells.

    Given k rows of the window and l of the reference in a cell, k is binomial of k + l with chance n / (n + m) when
    the shares are equal: an exact tail for any share. With an inflation that is only known with v degrees of freedom,
    a tail exp(-E) becomes (1 + 2 E / v)^(-v / 2), its mean over chi-square/v. Of a cell that the reference holds, the
    odds may have swung: E is the smallest of E(odds x e^d) + d^2 / (2 swing) over d.

    Args:
        p: shares of the cells in the window, [..., F, C].
        q: the same in the reference.
        ordered: bool[..., F], whether a column is a number.
        window: what the window's rows are worth.
        base: what the reference's rows are worth.
    """
    n, m = window.peak_rows[..., None], base.peak_rows[..., None]
    dof = combined_dof(window.peak_rows, window.peak_dof, base.peak_rows, base.peak_dof)
    chance = n / np.maximum(n + m, NO_ROWS)
    hits, before = np.floor(p * n + 1e-9), np.ceil(q * m - 1e-9)
    rare = (hits > 0) & (p > q) & (chance * (hits + before) < POOL_BELOW) & (dof[..., None] > 0)
    surprises = np.zeros(rare.shape)
    if rare.any():
        alone = np.asarray(ordered)[..., None] & (np.arange(p.shape[-1]) < BINS)  # a bin is no contrast by itself
        swing = sum(
            1.0 / np.maximum(np.where(alone, peak, sample.rows), 1e-9)
            - 1.0 / np.maximum(sample.sampled, 1.0)[..., None]
            for sample, peak in ((window, n), (base, m))
        )
        share = np.maximum(q, 1e-9)
        swing = np.where(before > 0, np.maximum(swing, 0.0) / (share * (1.0 - np.minimum(share, 0.5))), 0.0)
        picked = (np.broadcast_to(values, rare.shape)[rare] for values in (hits, before, chance, swing))
        surprises[rare] = _swung(*picked)
    surprise = surprises.max(axis=-1)
    freedom = np.where(dof > 0, np.minimum(dof, 1e9), 1.0)
    tail = np.exp(-0.5 * freedom * np.log1p(2.0 * surprise / freedom))
    result: F64 = np.minimum(tail * p.shape[-1], 1.0)
    return result


def _swung(hits: F64, before: F64, chance: F64, swing: F64) -> F64:
    """Smallest exponent of the binomial tail with odds that have swung, and of the swing: all [k]."""
    step = np.linspace(0.0, 4.0, 65)
    swung = chance[:, None] * np.exp(step)
    tail = -log_binomial_sf(hits[:, None], (hits + before)[:, None], swung / (1.0 - chance[:, None] + swung))
    total = tail + 0.5 * step * step / np.maximum(swing, 1e-12)[:, None]
    result: F64 = total.min(axis=-1)
    return result


def combined_dof(n: F64, n_dof: F64, m: F64, m_dof: F64) -> F64:
    """Degrees of freedom of 1/n + 1/m when both are estimates, and the same luck may be in both (they share panes).

    (1/n + 1/m)^2 / (1 / (n sqrt(n_dof)) + 1 / (m sqrt(m_dof)))^2: the errors add, as if they were fully correlated.
    """
    first, second = 1.0 / np.maximum(n, 1e-300), 1.0 / np.maximum(m, 1e-300)
    with np.errstate(divide="ignore"):
        error = first / np.sqrt(n_dof) + second / np.sqrt(m_dof)
        result: F64 = ((first + second) / error) ** 2
    return result


def _divergence(p: F64, q: F64) -> F64:
    """Kullback-Leibler divergence of two binomial shares, in nats; 0 < q < 1."""
    share = np.clip(p, 0.0, 1.0)
    rest = 1.0 - share
    hit = np.where(share > 0, share * np.log(np.where(share > 0, share, 1.0) / q), 0.0)
    miss = np.where(rest > 0, rest * np.log(np.where(rest > 0, rest, 1.0) / (1.0 - q)), 0.0)
    return hit + miss
