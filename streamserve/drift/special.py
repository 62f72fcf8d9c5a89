"""Tail probabilities for numpy arrays: chi-square, F, Student, binomial, hypergeometric, Kolmogorov, normal.

Decisions stand at probabilities of 1e-8 and below, and rank what lies far under that, so that every upper tail here
keeps its relative accuracy down to 1e-300, and the logarithm of a tail is there where a tail itself would be zero.
Prefactors are written with deviances and Stirling errors (Loader 2000), which lose nothing for large arguments; the
rest are continued fractions. It refuses nothing: outside of a distribution's support the limit is returned.

Sources: Loader, C. (2000), "Fast and accurate computation of binomial probabilities"; DiDonato & Morris (1992), ACM
TOMS 18(3), 360-373 (incomplete beta); Press et al. (2007), Numerical Recipes, sections 6.2 and 6.4; Abramowitz &
Stegun (1964), 26.2.23 (start of the normal quantile); Vrbik (2018), Pioneer J. Theor. Appl. Stat. 15, 35-47
(Kolmogorov).
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from streamserve.batch import F64

HALF_LOG_2PI: Final = 0.9189385332046727418
TINY: Final = 1e-300
EPSILON: Final = 1e-15
MOST_STEPS: Final = 20_000


def normal_sf(x: npt.ArrayLike) -> F64:
    """P(Z > x) of the standard normal distribution, elementwise."""
    z = np.asarray(x, np.float64)
    upper = 0.5 * gamma_sf(0.5, 0.5 * z * z)
    return np.where(z >= 0, upper, 1.0 - upper)


def chi2_sf(x: npt.ArrayLike, dof: npt.ArrayLike) -> F64:
    """P(X > x) for a chi-square variable with `dof` > 0 degrees of freedom, elementwise."""
    return gamma_sf(0.5 * np.asarray(dof, np.float64), 0.5 * np.asarray(x, np.float64))


def f_sf(x: npt.ArrayLike, dof_above: npt.ArrayLike, dof_below: npt.ArrayLike) -> F64:
    """P(X > x) for an F variable, elementwise. `dof_below` may be infinite: then it is chi-square over its dof."""
    value, above, below = np.broadcast_arrays(
        np.maximum(np.asarray(x, np.float64), 0.0),
        np.asarray(dof_above, np.float64),
        np.asarray(dof_below, np.float64),
    )
    limit = ~np.isfinite(below)
    finite = np.where(limit, 1.0, below)
    product = value * above
    tail = beta_cdf(finite / (finite + product), 0.5 * finite, 0.5 * above, product / (finite + product))
    return np.where(limit, chi2_sf(product, above), tail) if limit.any() else tail


def student_two_sided(t: npt.ArrayLike, dof: npt.ArrayLike) -> F64:
    """P(abs(T) > t) for Student's t with `dof` degrees of freedom; infinite: normal; none (0): 1."""
    value, freedom = np.broadcast_arrays(np.asarray(t, np.float64), np.asarray(dof, np.float64))
    tail = f_sf(value * value, 1.0, np.where(freedom > 0, freedom, 1.0))
    return np.where(freedom > 0, tail, 1.0)


def binomial_sf(k: npt.ArrayLike, n: npt.ArrayLike, p: npt.ArrayLike) -> F64:
    """P(K >= k) of `n` trials with chance `p`: I_p(k, n - k + 1). `n` may be real (deflated counts)."""
    return np.exp(log_binomial_sf(k, n, p))


def log_binomial_sf(k: npt.ArrayLike, n: npt.ArrayLike, p: npt.ArrayLike) -> F64:
    """Natural logarithm of P(K >= k), finite where the tail itself is no floating point number any more."""
    hits, trials, chance = np.broadcast_arrays(
        np.asarray(k, np.float64), np.asarray(n, np.float64), np.asarray(p, np.float64)
    )
    inside = (hits > 0) & (hits <= trials)
    tail = log_beta_cdf(chance, np.where(inside, hits, 1.0), np.where(inside, trials - hits + 1.0, 1.0))
    return np.where(hits <= 0, 0.0, np.where(hits > trials, -np.inf, tail))


def hypergeometric_sf(k: npt.ArrayLike, marked: npt.ArrayLike, unmarked: npt.ArrayLike, drawn: npt.ArrayLike) -> F64:
    """P(K >= k) marked ones among `drawn` from an urn, without putting back (Fisher's exact test, one-sided).

    Args:
        k: at least so many marked ones drawn.
        marked: marked ones in the urn.
        unmarked: the others in the urn.
        drawn: how many are drawn.
    """
    hits, good, bad, draws = np.broadcast_arrays(*(np.asarray(v, np.float64) for v in (k, marked, unmarked, drawn)))
    least, most = np.maximum(draws - bad, 0.0), np.minimum(draws, good)
    lower = hits <= np.floor(good * draws / np.maximum(good + bad, 1.0))
    start = np.clip(np.where(lower, hits - 1.0, hits), least, most)
    total = _sum_from(start, good, bad, draws, np.where(lower, -1.0, 1.0))
    tail = np.where(lower, 1.0 - total, total)
    return np.where(hits <= least, 1.0, np.where(hits > most, 0.0, np.clip(tail, 0.0, 1.0)))


def kolmogorov_sf(d: npt.ArrayLike, n: npt.ArrayLike) -> F64:
    """P(D >= d) of the two-sided Kolmogorov statistic of `n` values (two samples: n = n1 n2 / (n1 + n2)).

    Vrbik's (2018) correction of the limiting distribution where it is at least 1e-3; beyond it Massart's (1990) bound
    2 exp(-2 n d^2), which no sample size exceeds: never too small far out, too large there by under a half while
    d is under 0.1.
    """
    distance, size = np.broadcast_arrays(np.asarray(d, np.float64), np.asarray(n, np.float64))
    root = np.sqrt(size)
    scaled = np.maximum(distance * root, 0.0)
    bound = np.minimum(2.0 * np.exp(-2.0 * scaled * scaled), 1.0)
    x = np.where(scaled > 0, scaled + 1.0 / (6.0 * root) + (scaled - 1.0) / (4.0 * size), 0.0)
    term = np.arange(1, 12, dtype=np.float64)
    upper = 2.0 * np.sum((-1.0) ** (term - 1) * np.exp(-2.0 * (term * x[..., None]) ** 2), axis=-1)
    odd = 2.0 * term - 1.0
    safe = np.where(x > 0.2, x, 0.2)
    lower = np.sqrt(2 * np.pi) / safe * np.sum(np.exp(-((odd * np.pi / safe[..., None]) ** 2) / 8.0), axis=-1)
    body = np.where(x > 1.0, upper, 1.0 - np.where(x > 0.2, lower, 0.0))
    return np.where(body > 1e-3, np.minimum(body, 1.0), bound)


def normal_quantile(p: float) -> float:
    """Value x with P(Z <= x) = p, by Newton steps on the logarithm of the tail."""
    if not 0.0 < p < 1.0:
        return float("nan") if not 0.0 <= p <= 1.0 else (float("inf") if p else float("-inf"))
    if p > 0.5:
        return -normal_quantile(1.0 - p)
    x = np.sqrt(-2.0 * np.log(p))
    x -= (2.515517 + 0.802853 * x + 0.010328 * x * x) / (1 + 1.432788 * x + 0.189269 * x * x + 0.001308 * x**3)
    for _ in range(20):
        tail = float(normal_sf(x))
        density = np.exp(-0.5 * x * x - HALF_LOG_2PI)
        step = tail / density * np.log(tail / p)  # Newton on the logarithm of the tail: it is almost straight
        x += step
        if abs(step) < 1e-14 * max(1.0, abs(x)):
            break
    return -float(x)


def chi2_quantile(p: float, dof: npt.ArrayLike) -> F64:
    """Value x with P(X <= x) = p for chi-square variables with `dof` > 0 degrees of freedom, elementwise over `dof`.

    Wilson & Hilferty's (1931) cube root to start, then bisection of the tail.
    """
    freedom = np.asarray(dof, np.float64)
    low = np.zeros_like(freedom)
    spread = np.sqrt(2.0 / (9.0 * freedom))
    high = freedom * (1.0 + (abs(normal_quantile(p)) + 2.0) * spread) ** 3 + 10.0
    while np.any(chi2_sf(high, freedom) > 1.0 - p):
        high = high * 2.0
    for _ in range(100):
        middle = 0.5 * (low + high)
        over = chi2_sf(middle, freedom) < 1.0 - p
        low, high = np.where(over, low, middle), np.where(over, middle, high)
    return 0.5 * (low + high)


def gamma_sf(shape: npt.ArrayLike, x: npt.ArrayLike) -> F64:
    """Regularised upper incomplete gamma function Q(shape, x), elementwise: series under shape + 1, else a fraction."""
    a, value = np.broadcast_arrays(np.asarray(shape, np.float64), np.maximum(np.asarray(x, np.float64), 0.0))
    size = value.shape
    a, value = a.ravel(), value.ravel()
    out = np.ones(value.shape)
    series = (value > 0) & (value < a + 1.0)
    if series.any():
        out[series] = 1.0 - _gamma_series(a[series], value[series])
    fraction = (value >= a + 1.0) & np.isfinite(value)
    if fraction.any():
        out[fraction] = _gamma_fraction(a[fraction], value[fraction])
    out[np.isinf(value)] = 0.0
    return out.reshape(size)


def beta_cdf(x: npt.ArrayLike, a: npt.ArrayLike, b: npt.ArrayLike, complement: npt.ArrayLike | None = None) -> F64:
    """Regularised incomplete beta function I_x(a, b), elementwise, with the relative accuracy of its lower tail."""
    return np.exp(log_beta_cdf(x, a, b, complement))


def log_beta_cdf(x: npt.ArrayLike, a: npt.ArrayLike, b: npt.ArrayLike, complement: npt.ArrayLike | None = None) -> F64:
    """Natural logarithm of I_x(a, b), for a, b > 0.

    Args:
        x: upper limit, 0 to 1; under 1e-290 the result is not accurate.
        a: first shape.
        b: second shape.
        complement: 1 - x where the caller knows it better than a subtraction would.
    """
    limit = np.asarray(x, np.float64)
    rest = 1.0 - limit if complement is None else np.asarray(complement, np.float64)
    limit, rest, first, second = np.broadcast_arrays(limit, rest, np.asarray(a, np.float64), np.asarray(b, np.float64))
    size = limit.shape
    limit, rest, first, second = limit.ravel(), rest.ravel(), first.ravel(), second.ravel()
    out = np.zeros(limit.shape)
    out[limit <= 0] = -np.inf
    inside = np.flatnonzero((limit > 0) & (rest > 0))
    if inside.size:
        out[inside] = _log_beta_inside(limit[inside], rest[inside], first[inside], second[inside])
    return out.reshape(size)


def _log_beta_inside(x: F64, y: F64, a: F64, b: F64) -> F64:
    swap = x > (a + 1.0) / (a + b + 2.0)
    low, high = np.where(swap, y, x), np.where(swap, x, y)
    first, second = np.where(swap, b, a), np.where(swap, a, b)
    total = first + second
    front = (
        -_deviance(first, total * low)
        - _deviance(second, total * high)
        + 0.5 * (np.log(first) + np.log(second) - np.log(total))
        - HALF_LOG_2PI
        + _stirling_error(total)
        - _stirling_error(first)
        - _stirling_error(second)
        - np.log(first)
    )
    tail = front + np.log(_beta_fraction(low, first, second))
    result: F64 = np.where(swap, np.log1p(-np.exp(np.minimum(tail, -1e-17))), np.minimum(tail, 0.0))
    return result


def _beta_fraction(x: F64, a: F64, b: F64) -> F64:
    """Continued fraction of I_x(a, b) by Lentz's method, all elements at once; those that stand still leave."""
    out = np.empty_like(x)
    place = np.arange(x.size)
    c = np.ones_like(x)
    d = 1.0 / _away(1.0 - (a + b) * x / (a + 1.0))
    value = d.copy()
    for step in range(1, MOST_STEPS):
        even = step * (b - step) * x / ((a + 2 * step - 1.0) * (a + 2 * step))
        d = 1.0 / _away(1.0 + even * d)
        c = _away(1.0 + even / c)
        value = value * d * c
        odd = -(a + step) * (a + b + step) * x / ((a + 2 * step) * (a + 2 * step + 1.0))
        d = 1.0 / _away(1.0 + odd * d)
        c = _away(1.0 + odd / c)
        delta = d * c
        value = value * delta
        if step % 8 == 0 or step < 8:
            going = np.abs(delta - 1.0) > EPSILON
            out[place[~going]] = value[~going]
            if not going.any():
                return out
            if not going.all():
                place = place[going]
                x, a, b, c, d, value = (v[going] for v in (x, a, b, c, d, value))
    out[place] = value
    return out


def _gamma_front(a: F64, x: F64) -> F64:
    """x^a e^-x / Gamma(a), by deviance: exact for large a too."""
    return np.exp(0.5 * np.log(a) - HALF_LOG_2PI - _stirling_error(a) - _deviance(a, x))


def _gamma_series(a: F64, x: F64) -> F64:
    term = 1.0 / a
    total = term.copy()
    for step in range(1, MOST_STEPS):
        term = term * x / (a + step)
        total = total + term
        if np.all(term < total * EPSILON):
            break
    return np.minimum(total * _gamma_front(a, x), 1.0)


def _gamma_fraction(a: F64, x: F64) -> F64:
    b = x + 1.0 - a
    c = np.full_like(x, 1.0 / TINY)
    d = 1.0 / _away(b)
    value = d.copy()
    for step in range(1, MOST_STEPS):
        numerator = -step * (step - a)
        b = b + 2.0
        d = 1.0 / _away(numerator * d + b)
        c = _away(b + numerator / c)
        delta = d * c
        value = value * delta
        if np.all(np.abs(delta - 1.0) <= EPSILON):
            break
    return value * _gamma_front(a, x)


def _away(value: F64) -> F64:
    """`value`, moved off zero (Lentz)."""
    return np.where(np.abs(value) < TINY, TINY, value)


def _deviance(x: F64, mean: F64) -> F64:
    """Deviance x ln(x / mean) + mean - x without cancellation where x is near the mean (Loader's bd0), x > 0."""
    difference = x - mean
    total = x + mean
    near = np.abs(difference) < 0.1 * total
    ratio = np.where(near, difference / total, 0.0)
    square = ratio * ratio
    series = difference * ratio
    power = 2.0 * x * ratio
    for step in range(1, 12):
        power = power * square
        series = series + power / (2 * step + 1)
    plain = x * np.log(np.where(near, 1.0, x / np.maximum(mean, TINY))) - difference
    return np.where(near, series, plain)


def _stirling_error(x: F64) -> F64:
    """Error of Stirling's formula: ln Gamma(x) - (x - 1/2) ln x + x - ln(2 pi) / 2, x > 0 (series from 15 on)."""
    shift = np.zeros_like(x)
    value = x.astype(np.float64, copy=True)
    for _ in range(16):
        low = value < 15.0
        if not low.any():
            break
        # delta(v) = delta(v + 1) + (v + 1/2) ln(1 + 1/v) - 1
        base = np.where(low, value, 1.0)
        shift = shift + np.where(low, (base + 0.5) * np.log1p(1.0 / base) - 1.0, 0.0)
        value = np.where(low, value + 1.0, value)
    inverse = 1.0 / (value * value)
    series = (1 / 12 - (1 / 360 - (1 / 1260 - (1 / 1680 - inverse / 1188) * inverse) * inverse) * inverse) / value
    return series + shift


def _sum_from(start: F64, marked: F64, unmarked: F64, drawn: F64, way: F64) -> F64:
    """Sum of the hypergeometric probabilities at `start` and on, upwards (`way` 1) or downwards (-1)."""
    everything = marked + unmarked
    log_first = _log_choose(marked, start) + _log_choose(unmarked, drawn - start) - _log_choose(everything, drawn)
    k, term = start.copy(), np.ones_like(start)
    total = term.copy()
    for _ in range(MOST_STEPS):
        up = (marked - k) * (drawn - k) / np.maximum((k + 1.0) * (unmarked - drawn + k + 1.0), 1.0)
        down = k * (unmarked - drawn + k) / np.maximum((marked - k + 1.0) * (drawn - k + 1.0), 1.0)
        term = term * np.maximum(np.where(way > 0, up, down), 0.0)
        total = total + term
        k = k + way
        if np.all(term <= total * EPSILON):
            break
    return np.exp(log_first) * total


def _log_choose(n: F64, k: F64) -> F64:
    inner = (k > 0) & (k < n)
    part, rest = np.where(inner, k, 1.0), np.where(inner, n - k, 1.0)
    whole = part + rest
    value = (
        whole * np.log(whole)
        - part * np.log(part)
        - rest * np.log(rest)
        + 0.5 * (np.log(whole) - np.log(part) - np.log(rest))
        - HALF_LOG_2PI
        + _stirling_error(whole)
        - _stirling_error(part)
        - _stirling_error(rest)
    )
    return np.where(inner, value, 0.0)
