"""Which samples are worth a label: those the model was least sure of, and those least like the reference.

A budget an hour, spent pane by pane. Uncertain rows are taken by their confidence alone. Unlike rows are ranked by
how rare their rarest cell is in the reference, and of each such cell only one a pane is taken, so that a hundred rows
of one new category cost one label.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from streamserve.batch import F64, I64
from streamserve.config.drift_settings import LabellingSettings

MAX_CANDIDATES = 1000
Why = Literal["uncertain", "unlike"]


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Candidate:
    """A row, the better ones first.

    Attributes:
        score: 1 - confidence, or the surprise in nats of its rarest cell.
        cell: what makes it unlike, for one a pane.
    """

    score: float
    cell: int
    id: str
    event_time_ms: int
    source: tuple[str, int, int]


@dataclass(slots=True)
class Labelling:
    """Spends the budget.

    Attributes:
        settings: the budget and how it is divided.
        reference_counts: int64[F, C].
    """

    settings: LabellingSettings
    reference_counts: I64
    _kept: dict[Why, list[Candidate]] = field(default_factory=lambda: {"uncertain": [], "unlike": []})
    _left: dict[Why, float] = field(default_factory=lambda: {"uncertain": 0.0, "unlike": 0.0})

    def offer(
        self,
        codes: I64,
        confidence: F64 | None,
        ids: list[str],
        event_time_ms: I64,
        sources: list[tuple[str, int, int]],
    ) -> None:
        """Consider rows: their cells int64[n, F] and, where the model says it, its confidence float64[n]."""
        columns, cells = self.reference_counts.shape
        rarity = -np.log((self.reference_counts + 0.5) / (self.reference_counts.sum(axis=1, keepdims=True) + 1))
        surprise = rarity[np.arange(columns), codes]
        rarest = surprise.argmax(axis=1)
        at = np.arange(len(codes))
        self._consider("unlike", surprise[at, rarest], rarest * cells + codes[at, rarest], ids, event_time_ms, sources)
        if confidence is not None:
            self._consider("uncertain", 1 - confidence, at, ids, event_time_ms, sources)

    def spend(self, seconds: float) -> list[tuple[Why, Candidate]]:
        """The rows to be labelled of the pane that ends; `seconds` is its length. The others are forgotten."""
        chosen: list[tuple[Why, Candidate]] = []
        taken: set[str] = set()
        shares: dict[Why, float] = {"unlike": self.settings.diversity, "uncertain": 1 - self.settings.diversity}
        for why, share in shares.items():
            earned = self.settings.per_hour * share * seconds / 3600
            self._left[why] = min(self._left[why] + earned, max(1.0, self.settings.per_hour * share))
            cells: set[int] = set()
            for candidate in sorted(self._kept[why], reverse=True):
                if self._left[why] < 1:
                    break
                if candidate.id in taken or candidate.cell in cells:
                    continue
                cells.add(candidate.cell)
                taken.add(candidate.id)
                chosen.append((why, candidate))
                self._left[why] -= 1
            self._kept[why] = []
        return chosen

    def _consider(
        self,
        why: Why,
        score: F64,
        cell: I64,
        ids: list[str],
        event_time_ms: I64,
        sources: list[tuple[str, int, int]],
    ) -> None:
        kept = self._kept[why]
        floor = min(kept).score if len(kept) >= MAX_CANDIDATES else -np.inf
        best = np.argsort(-score, kind="stable")[:MAX_CANDIDATES]
        for i in best[np.isfinite(score[best]) & (score[best] > floor)].tolist():
            kept.append(
                Candidate(
                    score=float(score[i]),
                    cell=int(cell[i]),
                    id=ids[i],
                    event_time_ms=int(event_time_ms[i]),
                    source=sources[i],
                )
            )
        if len(kept) > 2 * MAX_CANDIDATES:
            kept.sort(reverse=True)
            del kept[MAX_CANDIDATES:]
