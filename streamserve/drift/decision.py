"""Is it drift? A change that cannot be chance, under one budget of false alarms, and that is large enough to matter.

The budget is a number of false pages a week for a model version. Detectors on labels keep a share of it; the rest is
split evenly over the windows, over the looks at each window in a week, and over the streams of looks (the whole
model, each segment, a canary's comparison). Within a look Holm's method (1979) keeps the chance of any false rejection
under the look's part, over all features and outputs. Long windows are looked at less often, and so each look at them
costs less. The expected number of false looks a week is then at most the budget whatever the dependence between
looks, and a page joins many of them.

A rejection is drift when an effect is over its floor as well. Too few rows: no decision here, the next longer window
takes over. It is told counts and times; state over looks is `incidents`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np

from streamserve.batch import F64, I64, Bools
from streamserve.drift import scores
from streamserve.drift.dispersion import Effective
from streamserve.drift.scores import ReferenceSample
from streamserve.drift.significance import Significance, significance
from streamserve.drift.special import chi2_sf
from streamserve.drift.windows import stride_panes

WEEK_S: Final = 604_800.0
QUIET_FACTOR: Final = 1000.0
"""A column is quiet again when its p-value is so many times over what drift takes (at most 1e-3)."""
QUIET_EFFECT: Final = 0.8
"""... or its effect under this part of the floor."""

PSI_CHANCE: Final = 0.01

Floor = Literal["", "wasserstein", "share", "js"]
FLOORS: Final[tuple[Floor, ...]] = ("", "wasserstein", "share", "js")


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectFloors:
    """How large a change must be to matter; one of them is enough.

    Attributes:
        wasserstein: distance in standard deviations of the reference, numbers only.
        share: change of the share of missing, unseen or other values, or of one category.
        js: Jensen-Shannon distance (base 2); only with a PSI that chance reaches in under 1 % of looks:
            PSI / (1/n + 1/m) is about chi-square with cells - 1 degrees of freedom.
    """

    wasserstein: float = 0.05
    share: float = 0.005
    js: float = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How often the monitor may be wrong, and over what that is spread.

    Attributes:
        false_alarms_per_week: false pages a week of one model version, at most, expected.
        pane_s: seconds of a pane.
        windows_s: seconds of every window.
        streams: streams of looks: 1 for the whole model, 1 a segment, 1 for a comparison of two versions.
        detectors: share of the budget that detectors on labels keep, 0 to 1.
    """

    false_alarms_per_week: float = 1.0
    pane_s: float = 10.0
    windows_s: tuple[float, ...] = (60.0, 600.0, 3600.0)
    streams: int = 1
    detectors: float = 0.1

    def panes(self, window_s: float) -> int:
        """Whole panes of a window, at least one."""
        return max(round(window_s / self.pane_s), 1)

    def stride_panes(self, window_s: float) -> int:
        """Panes between two looks at a window: a tenth of it, at least one."""
        return stride_panes(window_s, self.pane_s)

    def looks_per_week(self, window_s: float) -> float:
        """How often a window is looked at in a week."""
        return WEEK_S / (self.stride_panes(window_s) * self.pane_s)

    def alpha(self, window_s: float) -> float:
        """Chance of any false rejection that one look may take."""
        spent = self.false_alarms_per_week * (1.0 - self.detectors) / (len(self.windows_s) * self.streams)
        return min(spent / self.looks_per_week(window_s), 0.05)

    def detectors_per_week(self) -> float:
        """False alarms a week that the detectors on labels may give together."""
        return self.false_alarms_per_week * self.detectors


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What one look found; all arrays are over the F columns.

    Attributes:
        window_s: seconds of the window.
        segment: name of the segment, empty for the whole model.
        rows: sampled rows in the window, at its coarsest level.
        decided: whether there were rows enough; else nothing is drifted and nothing is quiet.
        alpha: the look's part of the budget.
        p: p-value before Holm's method.
        significance: the p-values that it is made of.
        chi_square, ks, psi, js, hellinger, total_variation, l_infinity, wasserstein, share_change: see `scores`;
            wasserstein and ks are 0 for categories.
        severity: the largest effect in multiples of its floor.
        floor: index into `FLOORS` of that effect; 0: none is over its floor.
        effective_rows: independent rows that the window is worth, in the direction that varies most.
        drifted: cannot be chance, and matters.
        quiet: neither drifted nor near it: what an incident waits for before it clears.
    """

    window_s: float
    segment: str
    rows: float
    decided: bool
    alpha: float
    p: F64
    significance: Significance
    chi_square: F64
    ks: F64
    psi: F64
    js: F64
    hellinger: F64
    total_variation: F64
    l_infinity: F64
    wasserstein: F64
    share_change: F64
    severity: F64
    floor: I64
    effective_rows: F64
    drifted: Bools
    quiet: Bools

    def floor_name(self, column: int) -> Floor:
        """Name of the effect that is over its floor."""
        return FLOORS[int(self.floor[column])]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decider:
    """Decides looks, one model version's, under its budget. It keeps no state.

    Attributes:
        budget: how often it may be wrong.
        floors: what matters.
        least_rows: rows (at the coarsest level) that a window needs for a decision.
    """

    budget: Budget = field(default_factory=Budget)
    floors: EffectFloors = field(default_factory=EffectFloors)
    least_rows: int = 100

    def look(
        self, reference: ReferenceSample, counts: I64, *, window_s: float, level: int = 0, segment: str = ""
    ) -> Verdict:
        """Compare a window with its reference.

        Args:
            reference: frozen counts, and how much the stream varies.
            counts: I64[F, C] of the window; rows sampled at level k count 2^k.
            window_s: seconds of the window, one of the budget's.
            level: the coarsest sampling level in it.
            segment: name of the segment that `reference` and `counts` are of.
        """
        observed = counts / 2.0**level
        expected = np.asarray(reference.counts, np.float64)
        rows, base_rows = _rows(observed), _rows(expected)
        window = reference.dispersion.inflation(self.budget.panes(window_s)).effective(rows)
        base = reference.dispersion.own(base_rows).effective(base_rows)
        return self._verdict(reference, observed, expected, window, base, window_s, segment)

    def compare(
        self,
        reference: ReferenceSample,
        stable: I64,
        counts: I64,
        *,
        window_s: float,
        levels: tuple[int, int] = (0, 0),
        segment: str = "canary",
    ) -> Verdict:
        """Compare two live profiles over the same window: a canary's with the stable version's.

        Args:
            reference: gives the layout of the cells, and how much the stream varies.
            stable: I64[F, C], the sample that counts as expected.
            counts: I64[F, C], the sample that is judged.
            window_s: seconds of the window that both are of.
            levels: coarsest sampling level of `stable` and of `counts`.
            segment: name of this stream of looks in the verdict.
        """
        observed, expected = counts / 2.0 ** levels[1], stable / 2.0 ** levels[0]
        inflation = reference.dispersion.inflation(self.budget.panes(window_s))
        window, base = inflation.effective(_rows(observed)), inflation.effective(_rows(expected))
        return self._verdict(reference, observed, expected, window, base, window_s, segment)

    def _verdict(
        self,
        reference: ReferenceSample,
        observed: F64,
        expected: F64,
        window: Effective,
        base: Effective,
        window_s: float,
        segment: str,
    ) -> Verdict:
        ordered, alpha = reference.ordered, self.budget.alpha(window_s)
        rows = _rows(observed)
        decided = min(rows, _rows(expected)) >= self.least_rows
        tested = significance(observed, expected, ordered, window, base)
        effects = _Effects.measure(observed, expected, reference, self.floors)
        significant = holm(tested.p, alpha)
        drifted = significant & (effects.severity >= 1.0) & decided
        near = (tested.p <= min(QUIET_FACTOR * alpha / max(len(tested.p), 1), 1e-3)) & (
            effects.severity >= QUIET_EFFECT
        )
        return Verdict(
            window_s=window_s,
            segment=segment,
            rows=rows,
            decided=bool(decided),
            alpha=alpha,
            p=tested.p,
            significance=tested,
            chi_square=scores.chi_square(observed, expected)[0],
            ks=np.where(ordered, scores.kolmogorov_smirnov(observed, expected), 0.0),
            psi=effects.psi,
            js=effects.js,
            hellinger=scores.hellinger(observed, expected),
            total_variation=scores.total_variation(observed, expected),
            l_infinity=scores.l_infinity(observed, expected),
            wasserstein=effects.wasserstein,
            share_change=effects.share_change,
            severity=effects.severity,
            floor=effects.floor,
            effective_rows=window.peak_rows,
            drifted=drifted,
            quiet=~drifted & ~near & decided,
        )


def holm(p: F64, alpha: float) -> Bools:
    """Which hypotheses are rejected so that the chance of any false rejection is at most alpha.

    The i-th smallest of F p-values is rejected while it is at most alpha / (F - i + 1) and those before it are.

    Args:
        p: F64[F].
        alpha: family-wise error rate.

    Returns:
        bool[F].

    Source: Holm, S. (1979), Scandinavian Journal of Statistics 6, 65-70.
    """
    order = np.argsort(p, kind="stable")
    passed = np.logical_and.accumulate(p[order] * np.arange(len(p), 0, -1) <= alpha)
    rejected = np.zeros(len(p), np.bool_)
    rejected[order] = passed
    return rejected


@dataclass(frozen=True, slots=True, kw_only=True)
class _Effects:
    psi: F64
    js: F64
    wasserstein: F64
    share_change: F64
    severity: F64
    floor: I64

    @classmethod
    def measure(cls, observed: F64, expected: F64, reference: ReferenceSample, floors: EffectFloors) -> _Effects:
        ordered = reference.ordered
        psi, js = scores.population_stability(observed, expected), scores.jensen_shannon(observed, expected)
        distance = scores.wasserstein(observed, expected, reference.centers, reference.std)
        moved = np.where(ordered, distance, 0.0)
        share = scores.share_change(observed, expected, ordered)
        cells = ((observed > 0) | (expected > 0)).sum(axis=-1)
        unit = 1.0 / max(_rows(observed), 1.0) + 1.0 / max(_rows(expected), 1.0)
        shape = np.where(chi2_sf(psi / unit, np.maximum(cells - 1.0, 1.0)) < PSI_CHANCE, js, 0.0)
        multiples = np.stack([_multiple(moved, floors.wasserstein), _multiple(share, floors.share)])
        multiples = np.concatenate([multiples, _multiple(shape, floors.js)[None]])
        severity = multiples.max(axis=0)
        floor = np.where(severity >= 1.0, multiples.argmax(axis=0) + 1, 0).astype(np.int64)
        return cls(psi=psi, js=js, wasserstein=moved, share_change=share, severity=severity, floor=floor)


def _multiple(effect: F64, floor: float) -> F64:
    return effect / floor if floor > 0 else np.where(effect > 0, np.inf, 0.0)


def _rows(counts: F64) -> float:
    """Rows of a sample: every row has one cell in every column."""
    return float(counts[0].sum()) if len(counts) else 0.0
