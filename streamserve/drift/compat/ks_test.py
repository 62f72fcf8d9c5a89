"""The two-sample Kolmogorov-Smirnov test as scipy, and so Evidently and Frouros, computes it.

Owns the statistic on raw rows and its p-value by scipy's choice of method: exact over all orderings up to 10,000
rows a sample, beyond that the one-sample distribution at `n * m / (n + m)` rows. Monitoring itself has its own test on
the frozen bins (`streamserve.drift.scores`); this one is scalar and slow, and exists to agree digit by digit.
"""

from __future__ import annotations

from math import ceil, exp, gcd, isfinite, lcm, log, pi, sqrt
from typing import Final

import numpy as np

from streamserve.batch import F64
from streamserve.drift.tables import Numbers

EXACT_UP_TO_ROWS: Final = 10_000
_SMALL: Final = 140
"""Rows up to which scipy is exact (Simard, L'Ecuyer 2011); beyond, Pelz and Good's expansion errs by 2e-5 at worst."""


def ks_two_sample(a: Numbers, b: Numbers) -> tuple[float, float]:
    """Statistic and two-sided p-value of two samples.

    `D = max |F_a(x) - F_b(x)|` over all rows. The p-value is exact when neither sample has more than 10,000 rows.

    Args:
        a: [n], finite, not empty.
        b: [m], finite, not empty.

    Source: Hodges, Arkiv för Matematik 3 (1958) 469-486; `scipy.stats.ks_2samp` with `method="auto"`.
    """
    pooled = np.concatenate((a, b))
    gaps = np.sort(a).searchsorted(pooled, "right") / a.size - np.sort(b).searchsorted(pooled, "right") / b.size
    distance = float(np.abs(gaps).max())
    if max(a.size, b.size) <= EXACT_UP_TO_ROWS:
        steps = lcm(a.size, b.size)
        return round(distance * steps) / steps, exact_tail(distance, a.size, b.size)
    return distance, one_sample_tail(distance, round(a.size * b.size / (a.size + b.size)))


def exact_tail(distance: float, n: int, m: int) -> float:
    """P(D >= distance) when both samples are drawn from one continuous distribution.

    An ordering of the pooled rows is a lattice path from (0, 0) to (n, m), all equally likely; counted are those
    that somewhere leave `|x/n - y/m| < distance`. Going backwards, the last step into (x, y) came from the left
    with probability x / (x + y); the recursion runs over the diagonals x + y = constant, inside the band only.

    Args:
        distance: the statistic.
        n: rows of one sample, at least 1.
        m: rows of the other, at least 1.

    Source: Hodges (1958), as above.
    """
    divisor = gcd(n, m)
    a, b = n // divisor, m // divisor
    limit = round(distance * a * m)  # |x/n - y/m| = |x*b - y*a| / lcm(n, m)
    if limit <= 0:
        return 1.0
    escaped = np.zeros(n + 1, dtype=np.float64)
    """By x, on the current diagonal: the share of paths to this point that have left the band."""
    for total in range(1, n + m + 1):
        low, high = max(0, total - m), min(n, total)
        # |x*b - (total - x)*a| < limit holds between these two
        inner_low = max(low, (total * a - limit) // (a + b) + 1)
        inner_high = min(high, -((-total * a - limit) // (a + b)) - 1)
        if inner_high < inner_low:
            return 1.0
        x = np.arange(inner_low, inner_high + 1)
        left = np.where(x > 0, escaped[x - 1], 0.0)
        below = np.where(total - x > 0, escaped[x], 0.0)
        inside = (x * left + (total - x) * below) / total
        escaped[inner_low : inner_high + 1] = inside
        # points outside the band have escaped for certain; one beyond each edge is all that the next diagonal reads
        if inner_low > low:
            escaped[inner_low - 1] = 1.0
        if inner_high < high:
            escaped[inner_high + 1] = 1.0
    return float(min(escaped[n], 1.0))


def one_sample_tail(distance: float, n: int) -> float:
    """P(D_n >= distance) of the one-sample two-sided statistic.

    Args:
        distance: in [0, 1].
        n: rows, at least 1.

    Source: Simard, L'Ecuyer: Computing the two-sided Kolmogorov-Smirnov distribution, J. Stat. Softw. 39 (2011) 11;
    `scipy.stats.kstwo.sf`.
    """
    if n * distance <= 0.5:
        return 1.0
    if distance >= 1.0:
        return 0.0
    if distance >= 0.5 or n * distance**2 >= (4.0 if n <= _SMALL else 2.2):
        return min(1.0, 2.0 * _one_sided_tail(distance, n))
    if n <= _SMALL or (n <= 100_000 and n * distance**1.5 <= 1.4):
        return 1.0 - _matrix_power(distance, n)
    return min(1.0, max(0.0, 1.0 - _expansion(distance, n)))


def _one_sided_tail(distance: float, n: int) -> float:
    """P(D_n+ >= d) = d * sum_j C(n, j) * (d + j/n)^(j-1) * (1 - d - j/n)^(n-j), Birnbaum and Tingey (1951)."""
    j = np.arange(int(n * (1.0 - distance)) + 1, dtype=np.float64)
    rest = 1.0 - distance - j / n
    j, rest = j[rest > 0], rest[rest > 0]
    log_choose = np.concatenate(([0.0], np.cumsum(np.log((n - j[:-1]) / (j[:-1] + 1)))))
    terms = log_choose + (j - 1) * np.log(distance + j / n) + (n - j) * np.log(rest)
    return distance * float(np.sum(np.exp(terms)))


def _matrix_power(distance: float, n: int) -> float:
    """P(D_n < d), exact, as an element of a matrix to the power n: Marsaglia, Tsang, Wang (2003)."""
    k = ceil(n * distance)
    size, rest = 2 * k - 1, k - n * distance
    inverse_factorial = np.concatenate(([1.0], 1.0 / np.cumprod(np.arange(1, size + 1, dtype=np.float64))))
    order = np.arange(size)[:, None] - np.arange(size)[None, :] + 1
    matrix = np.where(order >= 0, inverse_factorial[np.clip(order, 0, size)], 0.0)
    powers = rest ** np.arange(1, size + 1)
    edge = (1.0 - powers) * inverse_factorial[1:]
    matrix[:, 0] = edge
    matrix[-1, :] = edge[::-1]
    corner = 1.0 - 2.0 * rest**size + max(0.0, 2.0 * rest - 1.0) ** size
    matrix[-1, 0] = corner * inverse_factorial[size]
    power, scale = _scaled_power(matrix, n)
    log_factorial = float(np.sum(np.log(np.arange(1, n + 1) / n)))
    value = float(power[k - 1, k - 1])
    return value * exp(scale + log_factorial) if value > 0 else 0.0


def _scaled_power(matrix: F64, n: int) -> tuple[F64, float]:
    """`matrix ** n` as a matrix and the logarithm of its factor, so that nothing overflows."""
    result, result_scale, scale = np.eye(len(matrix)), 0.0, 0.0
    while n:
        if n & 1:
            result, result_scale = result @ matrix, result_scale + scale
            top = float(result.max())
            result, result_scale = result / top, result_scale + log(top)
        matrix, scale = matrix @ matrix, 2.0 * scale
        top = float(matrix.max())
        matrix, scale = matrix / top, scale + log(top)
        n >>= 1
    return result, result_scale


def _expansion(distance: float, n: int) -> float:
    """P(D_n < d) to the order n^(-3/2): Pelz, Good, J. R. Stat. Soc. B 38 (1976) 152-156."""
    z = distance * sqrt(n)
    rate = -(pi**2) / (2.0 * z**2)
    terms = np.arange(1, ceil(16.0 * z / pi) + 2, dtype=np.float64)
    odd, even = (terms - 0.5) ** 2, terms**2  # (k + 1/2)^2 and k^2
    at_odd, at_even = np.exp(rate * odd), np.exp(rate * even)
    p2 = pi**2
    first = np.sum(at_odd)
    second = np.sum((p2 * odd - z**2) * at_odd)
    third = np.sum((6 * z**6 + 2 * z**4 + p2 * (2 * z**4 - 5 * z**2) * odd + p2**2 * (1 - 2 * z**2) * odd**2) * at_odd)
    third_even = np.sum(p2 * even * at_even)
    fourth = np.sum(
        (
            p2**3 * odd**3 * (5 - 30 * z**2)
            + p2**2 * odd**2 * (-60 * z**2 + 212 * z**4)
            + p2 * odd * (135 * z**4 - 96 * z**6)
            - 30 * z**6
            - 90 * z**8
        )
        * at_odd
    )
    fourth_even = np.sum((3 * p2 * z**2 * even - p2**2 * even**2) * at_even)
    root = sqrt(2.0 * pi)
    half = sqrt(pi / 2.0)
    value = (
        root / z * first
        + root / (6.0 * z**4) * second / sqrt(n)
        + (root / (72.0 * z**7) * third - half / (18.0 * z**3) * third_even) / n
        + (root / (6480.0 * z**10) * fourth + half / (108.0 * z**6) * fourth_even) / n**1.5
    )
    return float(value) if isfinite(value) else 0.0
