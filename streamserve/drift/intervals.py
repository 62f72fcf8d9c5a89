"""Confidence intervals of proportions, their differences, and means."""

from __future__ import annotations

import math
from statistics import NormalDist

Interval = tuple[float, float]
"""Lower and upper end."""


def normal_quantile(level: float) -> float:
    """How far a standard normal number lies from 0 at most, with probability `level`, 0 < level < 1."""
    return NormalDist().inv_cdf((1 + level) / 2)


def wilson(share: float, n: float, level: float = 0.95) -> Interval:
    """Interval of a proportion, by inverting the score test.

        (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)

    Source: E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 22, 1927; in
    R. G. Newcombe, "Two-sided confidence intervals for the single proportion", Statistics in Medicine 17, 1998, it is
    method 3.

    Args:
        share: the observed proportion p, in [0, 1].
        n: of how many observations, > 0; an effective number when they are weighted.
        level: confidence.
    """
    z = normal_quantile(level)
    spread = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    middle, scale = share + z**2 / (2 * n), 1 + z**2 / n
    return max((middle - spread) / scale, 0.0), min((middle + spread) / scale, 1.0)


def newcombe(share: float, n: float, other: float, other_n: float, level: float = 0.95) -> Interval:
    """Interval of the difference `share - other` of two independent proportions, from their Wilson intervals.

        d - sqrt((p1-l1)^2 + (u2-p2)^2),  d + sqrt((u1-p1)^2 + (p2-l2)^2)

    Source: R. G. Newcombe, "Interval estimation for the difference between independent proportions: comparison of
    eleven methods", Statistics in Medicine 17, 1998, method 10.

    Args:
        share: the first proportion, p1.
        n: of how many observations, > 0.
        other: the second, p2.
        other_n: of how many.
        level: confidence.
    """
    low, high = wilson(share, n, level)
    other_low, other_high = wilson(other, other_n, level)
    difference = share - other
    return (
        difference - math.hypot(share - low, other_high - other),
        difference + math.hypot(high - share, other - other_low),
    )


def of_mean(mean: float, variance: float, n: float, level: float = 0.95) -> Interval:
    """Interval of a mean of n observations by the normal approximation, mean -+ z sqrt(variance / n)."""
    half = normal_quantile(level) * math.sqrt(max(variance, 0.0) / n)
    return mean - half, mean + half
