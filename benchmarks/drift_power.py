"""How soon a real change is found, under the same budget that keeps false pages to one a week over 200 features.

    python -m benchmarks.drift_power [--trials 40] [--hours 2] [--seed 1] [--rates 10 100 1000]

Each trial has a reference of 1,000 panes (2.8 hours) of its own, an hour of unchanged stream, and then the change, at a
random pane; its delay is the time from there to the end of the first pane at which `Decider.look` finds drift, over all
windows. A changed column is one of 200, the others being as they were: it must pass Holm's first step, alpha / 200.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from benchmarks.drift_streams import FEATURES, SCALE, FrozenReference, StationaryStream, kind_of
from benchmarks.results import keep
from streamserve.batch import F64, I64
from streamserve.drift.decision import Budget, Decider
from streamserve.drift.dispersion import Dispersion
from streamserve.drift.schema import BINS, CELLS, MISSING, UNSEEN

REFERENCE_PANES = 1000
Cells = Callable[[], tuple[F64, F64, bool]]
"""Shares of the cells before and after a change, and whether they are of a number."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A `ReferenceSample` whose columns are trials."""

    counts: I64
    centers: F64
    std: F64
    ordered: np.ndarray[tuple[int], np.dtype[np.bool_]]
    dispersion: Dispersion


def main() -> None:
    """Print the table, keep its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rates", type=float, nargs="+", default=[10.0, 100.0, 1000.0])
    options = parser.parse_args()
    random = np.random.default_rng(options.seed)
    after = round(options.hours * 360)
    figures: dict[str, list[float]] = {}
    print("| change | " + " | ".join(f"{rate:g} events/s" for rate in options.rates) + " |")
    print("|---|" + "---|" * len(options.rates))
    for name, cells in CHANGES.items():
        shown = []
        for rate in options.rates:
            delays = independent(random, cells(), rate, options.trials, after)
            figures[f"drift_power.{name}.{rate:g}_per_s.delay_s"] = summary(delays)
            shown.append(text(delays, options.hours))
        print(f"| {name} | " + " | ".join(shown) + " |", flush=True)
    for kind in ("event AR", "pane AR"):
        for shift in (0.25, 0.5, 1.0):
            shown = []
            for rate in options.rates:
                if rate > 100:  # row by row, and rows are many
                    shown.append("")
                    continue
                delays = dependent(options.seed, kind, shift, rate, after)
                figures[f"drift_power.{kind}.mean {shift:g} sd.{rate:g}_per_s.delay_s"] = summary(delays)
                shown.append(text(delays, options.hours))
            print(f"| mean by {shift:g} sd, {kind} 0.9 | " + " | ".join(shown) + " |", flush=True)
    keep(figures)


def independent(random: np.random.Generator, cells: tuple[F64, F64, bool], rate: float, trials: int, after: int) -> F64:
    """Delays in seconds, infinite where nothing was found: float64[trials]."""
    before_share, after_share, number = cells
    rows = rate * Budget().pane_s
    panes = _drawn(random, before_share, rows, REFERENCE_PANES, trials)
    ordered = np.full(trials, number)
    reference = Sample(
        counts=panes.sum(axis=0),
        centers=np.tile(CENTERS, (trials, 1)),
        std=np.ones(trials),
        ordered=ordered,
        dispersion=Dispersion.fit(panes, ordered),
    )
    phase = int(random.integers(0, 36))
    live = [_drawn(random, before_share, rows, 360 + phase, trials), _drawn(random, after_share, rows, after, trials)]
    return delays_s(reference, np.concatenate(live), 360 + phase)


def dependent(seed: int, kind: str, shift: float, rate: float, after: int) -> F64:
    """The same for features of the population whose rows or panes lean on each other, moved by `shift` sd."""
    stream = StationaryStream(seed, rate * Budget().pane_s)
    frozen = stream.reference(REFERENCE_PANES)
    chosen = np.array([kind_of(feature) == kind for feature in range(FEATURES)])
    phase = seed % 36
    calm = stream.counts(360 + phase, frozen.tables)[:, chosen].astype(np.int64)
    moved = stream.counts(after, _moved(frozen, shift))[:, chosen].astype(np.int64)
    measured = frozen.dispersion
    dispersion = replace(
        measured,
        curve=measured.curve[:, chosen],
        peak=measured.peak[:, chosen],
        peak_next=measured.peak_next[:, chosen],
        spread=measured.spread[chosen],
    )
    reference = Sample(
        counts=frozen.counts[chosen],
        centers=frozen.centers[chosen],
        std=frozen.std[chosen],
        ordered=frozen.ordered[chosen],
        dispersion=dispersion,
    )
    return delays_s(reference, np.concatenate([calm, moved]), 360 + phase)


def delays_s(reference: Sample, live: I64, change: int) -> F64:
    """When each column is first found to have drifted, after the pane `change`."""
    budget = Budget()
    decider = Decider(budget=budget)
    sums = np.concatenate([np.zeros((1, *live.shape[1:]), np.int64), np.cumsum(live, axis=0)])
    found = np.full(live.shape[1], np.inf)
    for end in range(change + 1, len(sums)):
        for window_s in budget.windows_s:
            panes = budget.panes(window_s)
            if end % budget.stride_panes(window_s) or end < panes:
                continue
            verdict = decider.look(reference, sums[end] - sums[end - panes], window_s=window_s)
            drifted = (verdict.p <= verdict.alpha / FEATURES) & (verdict.severity >= 1.0) & verdict.decided
            found[drifted & np.isinf(found)] = (end - change) * budget.pane_s
        if np.isfinite(found).all():
            break
    return found


def summary(delays: F64) -> list[float]:
    """Median, 90 % quantile, and share found; -1 for what was not found."""
    quantiles = np.quantile(delays, [0.5, 0.9], method="higher")
    return [*np.where(np.isfinite(quantiles), quantiles, -1.0).tolist(), float(np.isfinite(delays).mean())]


def text(delays: F64, hours: float) -> str:
    """Median and 90 % quantile for people."""
    found = float(np.isfinite(delays).mean())
    if found < 0.5:
        return f"{found:.0%} within {hours:g} h"
    median, late, _ = summary(delays)
    return f"{_time(median)} ({_time(late) if late >= 0 else f'{found:.0%} found'})"


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _drawn(random: np.random.Generator, share: F64, rows: float, panes: int, trials: int) -> I64:
    """Counts of the panes, [panes, trials, C]: columns of one model share their rows."""
    return random.multinomial(random.poisson(rows, panes)[:, None], share, size=(panes, trials))


def _moved(frozen: FrozenReference, shift: float) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """Tables that take codes `shift` standard deviations higher; the code of missing values stays."""
    codes = np.minimum(np.arange(65_536) + round(shift * SCALE), 65_534)
    tables = frozen.tables[:, codes]
    tables[:, 65_535] = frozen.tables[:, 65_535]
    return tables


def _normal_bins() -> tuple[F64, F64]:
    normal = NormalDist()
    edges = np.array([normal.inv_cdf(step / BINS) for step in range(1, BINS)])
    density = np.concatenate([[0.0], [normal.pdf(edge) for edge in edges.tolist()], [0.0]])
    return edges, (density[:-1] - density[1:]) * BINS


EDGES, CENTERS = _normal_bins()


def _normal_cells(mean: float = 0.0, std: float = 1.0, missing: float = 0.0) -> F64:
    below = np.array([NormalDist(mean, std).cdf(edge) for edge in EDGES.tolist()])
    cells = np.zeros(CELLS)
    cells[:BINS] = np.diff(np.concatenate([[0.0], below, [1.0]])) * (1 - missing)
    cells[MISSING] = missing
    return cells


def _categories(new: float = 0.0) -> F64:
    cells = np.zeros(CELLS)
    cells[:6] = np.array([0.4, 0.3, 0.15, 0.1, 0.04, 0.01]) * (1 - new)
    cells[UNSEEN] = new
    return cells


CHANGES: dict[str, Cells] = {
    "mean by 0.1 sd": lambda: (_normal_cells(), _normal_cells(0.1), True),
    "mean by 0.25 sd": lambda: (_normal_cells(), _normal_cells(0.25), True),
    "mean by 0.5 sd": lambda: (_normal_cells(), _normal_cells(0.5), True),
    "mean by 1 sd": lambda: (_normal_cells(), _normal_cells(1.0), True),
    "deviation by 20 %": lambda: (_normal_cells(), _normal_cells(0.0, 1.2), True),
    "1 % missing": lambda: (_normal_cells(), _normal_cells(missing=0.01), True),
    "5 % missing": lambda: (_normal_cells(), _normal_cells(missing=0.05), True),
    "new category at 1 %": lambda: (_categories(), _categories(0.01), False),
}


if __name__ == "__main__":
    main()
