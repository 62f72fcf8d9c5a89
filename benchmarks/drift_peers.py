"""Default rules of other tools, on the same counts: what they would have said.

Formulas and thresholds are the ones in the tools' sources (Evidently 0.7, NannyML 0.13); the cells are ours, frozen
from the reference, where theirs move with the data. `docs/drift-compat.md` has the tools' own definitions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from benchmarks.drift_streams import FEATURES, FrozenReference
from streamserve.batch import F64, I64, Bools
from streamserve.drift import scores
from streamserve.drift.decision import Budget
from streamserve.drift.special import kolmogorov_sf

Rules = Callable[[F64], dict[str, Bools]]


@dataclass
class PeerCount:
    """Looks and alarms per rule."""

    looks: Counter[str] = field(default_factory=Counter)
    features: Counter[str] = field(default_factory=Counter)
    any_feature: Counter[str] = field(default_factory=Counter)

    def add(self, rule: str, flags: Bools) -> None:
        """Take in flags, bool[K, F]."""
        self.looks[rule] += len(flags)
        self.features[rule] += int(flags.sum())
        self.any_feature[rule] += int(flags.any(axis=1).sum())

    def show(self, window_s: float, weeks: int) -> None:
        """Print rows of the table."""
        for rule in self.looks:
            alarms, looks = self.any_feature[rule], self.looks[rule]
            share = self.features[rule] / looks / FEATURES
            print(f"| {rule} | {window_s:g} s | {alarms / weeks:,.0f} | {alarms / looks:.1%} | {share:.2%} |")


def peer_flags(reference: FrozenReference, panes: I64, budget: Budget) -> dict[float, Rules]:
    """Rules per window; NannyML's thresholds come from the reference's own chunks of that length."""
    return {window_s: _rules(reference, panes, budget.panes(window_s)) for window_s in budget.windows_s}


def _rules(reference: FrozenReference, panes: I64, length: int) -> Rules:
    expected = reference.counts.astype(np.float64)
    ordered = reference.ordered
    rows = expected[0].sum()
    whole = len(panes) // length * length
    chunks = panes[:whole].reshape(-1, length, *panes.shape[1:]).sum(axis=1).astype(np.float64)
    own = scores.jensen_shannon(chunks, expected)
    limit = own.mean(axis=0) + 3 * own.std(axis=0)

    def flags(windows: F64) -> dict[str, Bools]:
        n = windows[:, :1].sum(axis=-1)
        distance = scores.jensen_shannon(windows, expected)
        ks = scores.kolmogorov_smirnov(windows, expected)
        moved = scores.wasserstein(windows, expected, reference.centers, reference.std)
        return {
            "Evidently PSI >= 0.1": scores.population_stability(windows, expected) >= 0.1,
            "Evidently JS (nats) >= 0.1": distance * np.sqrt(np.log(2)) >= 0.1,
            "Evidently Wasserstein / std >= 0.1": ordered & (moved >= 0.1),
            "Evidently KS p <= 0.05": ordered & (kolmogorov_sf(ks, n * rows / (n + rows)) <= 0.05),
            "NannyML JS > mean + 3 std of reference chunks": distance > limit,
        }

    return flags
