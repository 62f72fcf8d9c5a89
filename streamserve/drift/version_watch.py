"""One model version under watch: rows in, looks at windows out; without a reference it learns one first."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from streamserve.batch import F64, Bools
from streamserve.config.drift_settings import DriftSettings
from streamserve.drift.baseline import BaselineOptions, build
from streamserve.drift.decision import Decider, Verdict
from streamserve.drift.gathered import Gathered, Rows, Volume
from streamserve.drift.learner import Learner
from streamserve.drift.panes import Pane
from streamserve.drift.reference import Reference
from streamserve.drift.schema import MISSING
from streamserve.drift.segments import ALL, Segments

HISTORY_LOOKS = 90

WindowKey = tuple[float, str]
"""Window in seconds, segment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who is watched."""

    pipeline: str
    model: str
    version: str
    role: str = "stable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """A window that may be looked at: it ends with `slot`, at `end_ms`."""

    window_s: float
    segment: str
    slot: int
    end_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One look: what was in the window, and what was decided."""

    due: Due
    pane: Pane
    verdict: Verdict

    @property
    def missing(self) -> F64:
        """Share of missing values per column, float64[F]."""
        counts = self.pane.profile.counts
        share: F64 = counts[:, MISSING] / max(self.pane.profile.weight, 1)
        return share


@dataclass(slots=True)
class History:
    """The last looks at one window, one row a look."""

    end_ms: deque[int] = field(default_factory=lambda: deque(maxlen=HISTORY_LOOKS))
    effect: deque[F64] = field(default_factory=lambda: deque(maxlen=HISTORY_LOOKS))
    p: deque[F64] = field(default_factory=lambda: deque(maxlen=HISTORY_LOOKS))
    missing: deque[F64] = field(default_factory=lambda: deque(maxlen=HISTORY_LOOKS))
    drifted: deque[Bools] = field(default_factory=lambda: deque(maxlen=HISTORY_LOOKS))

    def add(self, look: Look) -> None:
        """Note a look."""
        self.end_ms.append(look.due.end_ms)
        self.effect.append(look.verdict.effect)
        self.p.append(look.verdict.p)
        self.missing.append(look.missing)
        self.drifted.append(look.verdict.drifted)


class VersionWatch:
    """Watches one model version.

    Args:
        identity: who.
        settings: the drift block.
        reference: its baseline; None: the first rows become one.
        looked: the last slot looked at, per window and segment, of an earlier life.
    """

    def __init__(
        self,
        identity: Identity,
        settings: DriftSettings,
        reference: Reference | None,
        looked: Mapping[WindowKey, int] | None = None,
    ) -> None:
        self.identity = identity
        self._settings = settings
        self.looked: dict[WindowKey, int] = dict(looked or {})
        self.latest: dict[WindowKey, Look] = {}
        self.history: dict[float, History] = {window_s: History() for window_s in settings.windows_s}
        self.newest_ms = -1
        self.reference: Reference | None = None
        self.segments = Segments((), ())
        self.gathered: Gathered | None = None
        self._learner = Learner(settings.learn_rows, settings.pane_s)
        if reference is not None:
            self.adopt(reference)

    @property
    def learned_rows(self) -> int:
        """Rows gathered for a provisional reference."""
        return self._learner.rows

    def adopt(self, reference: Reference) -> None:
        """Watch by this reference from now on; what was gathered by another one is dropped."""
        settings = self._settings
        self.reference = reference
        self.segments = Segments(settings.segments, reference.columns)
        self.gathered = Gathered(reference, self.segments, settings.pane_s, settings.windows_s)
        self._decider = Decider(
            settings.budget,
            pane_s=settings.pane_s,
            windows_s=settings.windows_s,
            segments=len(self.segments.names),
            effects=settings.effects,
            detectors=settings.labels is not None,
        )
        self.latest.clear()

    def add(self, rows: Rows, volume: Volume, newest_ms: int, wall_ms: int) -> Reference | None:
        """Take in rows. Returns: a reference that was learned with them."""
        if len(rows):
            self.newest_ms = max(self.newest_ms, int(rows.event_time_ms.max()))
        if self.gathered is None or self.reference is None:
            return self._learn(rows, wall_ms)
        if self.reference.provisional:
            rows = rows.take(np.flatnonzero(rows.event_time_ms > self.reference.document.last_ms))
        self.gathered.add(rows, newest_ms)
        self.gathered.add_volume(volume, newest_ms)
        return None

    def due(self, up_to_ms: int) -> list[Due]:
        """Windows that ended by then and were not looked at, in order of their ends, the shortest first."""
        found = []
        for key, ring in self.gathered.rings.items() if self.gathered is not None else ():
            window_s, segment = key
            up_to = up_to_ms // ring.stride_ms - 1
            found += [
                Due(window_s=window_s, segment=segment, slot=slot, end_ms=(slot + 1) * ring.stride_ms)
                for slot in ring.filled(self.looked.get(key, -1), up_to)
            ]
        return sorted(found, key=lambda due: (due.end_ms, due.window_s, due.segment))

    def look(self, due: Due) -> Look:
        """Decide about a window."""
        if self.gathered is None or self.reference is None:
            raise ValueError(f"{self.identity.model} {self.identity.version} has no reference yet")
        key = due.window_s, due.segment
        pane = self.gathered.window(due.window_s, due.segment, due.slot)
        verdict = self._decider.look(self.reference, pane.profile.counts, pane.profile.level, due.window_s)
        look = Look(due=due, pane=pane, verdict=verdict)
        self.looked[key] = due.slot
        self.latest[key] = look
        if due.segment == ALL:
            self.history[due.window_s].add(look)
        return look

    def clear(self) -> None:
        """The stream went back in time: what was gathered is of another one."""
        if self.gathered is not None:
            self.gathered.clear()
        self.looked.clear()
        self.latest.clear()
        self.newest_ms = -1

    def _learn(self, rows: Rows, wall_ms: int) -> Reference | None:
        enough = self._learner.add(rows)
        if enough is None:
            return None
        who = self.identity
        reference = build(
            enough.columns,
            enough.event_time_ms,
            BaselineOptions(
                model=who.model,
                version=who.version,
                pane_s=self._settings.pane_s,
                created_ms=wall_ms,
                source="the first live rows",
                provisional=True,
            ),
        )
        self._learner = Learner(self._settings.learn_rows, self._settings.pane_s)
        self.adopt(reference)
        return reference
