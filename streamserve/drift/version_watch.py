"""One model version under watch: rows in, looks at windows out; without a reference it learns one first."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from streamserve.batch import F64, Bools
from streamserve.config.drift_settings import DriftSettings
from streamserve.drift.baseline import BaselineOptions, build
from streamserve.drift.decision import Budget, Decider, EffectFloors, Verdict
from streamserve.drift.gathered import Gathered, Rows, Volume
from streamserve.drift.incidents import Signal, drift_signals
from streamserve.drift.learner import Learner
from streamserve.drift.panes import Pane
from streamserve.drift.reference import Reference
from streamserve.drift.schema import MISSING
from streamserve.drift.scores import ReferenceSample
from streamserve.drift.segments import ALL, Segments

HISTORY_LOOKS = 90
DETECTORS_SHARE = 0.1
"""Part of the budget that the detectors on labels keep, where there are labels."""

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
    severity: deque[F64] = field(default_factory=lambda: deque(maxlen=HISTORY_LOOKS))
    p: deque[F64] = field(default_factory=lambda: deque(maxlen=HISTORY_LOOKS))
    missing: deque[F64] = field(default_factory=lambda: deque(maxlen=HISTORY_LOOKS))
    drifted: deque[Bools] = field(default_factory=lambda: deque(maxlen=HISTORY_LOOKS))

    def add(self, look: Look) -> None:
        """Note a look."""
        self.end_ms.append(look.due.end_ms)
        self.severity.append(look.verdict.severity)
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
        self.first_ms: int | None = None
        self.reference: Reference | None = None
        self.segments = Segments((), ())
        self.gathered: Gathered | None = None
        self._samples: dict[str, ReferenceSample | None] = {}
        self.decider = Decider()
        self.beside: Beside | None = None
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
        self.history = {window_s: History() for window_s in settings.windows_s}
        self.first_ms = reference.document.last_ms if reference.provisional else None  # windows are full from here on
        self._samples = {ALL: reference, **{name: reference.segment(name) for name in self.segments.names[1:]}}
        self.decider = Decider(
            budget=Budget(
                false_alarms_per_week=settings.budget.false_alarms_per_week,
                pane_s=settings.pane_s,
                windows_s=tuple(settings.windows_s),
                streams=len(self.segments.names) + 2,  # the comparison with another version, and the rejects
                detectors=DETECTORS_SHARE if settings.labels is not None else 0.0,
            ),
            floors=EffectFloors(**settings.effects.model_dump()),
        )
        self.latest.clear()

    def add(self, rows: Rows, volume: Volume, newest_ms: int, wall_ms: int) -> Reference | None:
        """Take in rows. Returns: a reference that was learned with them."""
        if len(rows):
            self.newest_ms = max(self.newest_ms, int(rows.event_time_ms.max()))
            if self.first_ms is None:
                self.first_ms = int(np.median(rows.event_time_ms))
        if self.beside is not None:
            self.beside.gathered.add(rows, newest_ms)
        if self.gathered is None or self.reference is None:
            return self._learn(rows, wall_ms)
        if self.reference.provisional:
            rows = rows.take(np.flatnonzero(rows.event_time_ms > self.reference.document.last_ms))
        self.gathered.add(rows, newest_ms)
        self.gathered.add_volume(volume, newest_ms)
        return None

    def due(self, up_to_ms: int) -> list[Due]:
        """Windows that ended by then and were not looked at, in order of their ends, the shortest first.

        A window that began before the first rows came is not full: what is known of how such windows vary does not
        hold for it, and it is passed over.
        """
        if self.first_ms is None:
            return []
        found = []
        for key, ring in self.gathered.rings.items() if self.gathered is not None else ():
            window_s, segment = key
            if self._samples[segment] is None:
                continue  # the reference was made without this segment
            up_to = up_to_ms // ring.stride_ms - 1
            found += [
                Due(window_s=window_s, segment=segment, slot=slot, end_ms=(slot + 1) * ring.stride_ms)
                for slot in ring.filled(max(self.looked.get(key, -1), ring.first_full(self.first_ms) - 1), up_to)
            ]
        return sorted(found, key=lambda due: (due.end_ms, due.window_s, due.segment))

    def look(self, due: Due) -> Look:
        """Decide about a window."""
        sample = self._samples.get(due.segment)
        if self.gathered is None or sample is None:
            raise ValueError(f"{self.identity.model} {self.identity.version} has no reference for {due.segment!r}")
        key = due.window_s, due.segment
        pane = self.gathered.window(due.window_s, due.segment, due.slot)
        profile = pane.profile
        verdict = self.decider.look(
            sample, profile.counts, window_s=due.window_s, level=profile.level, segment=due.segment
        )
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
        self.history = {window_s: History() for window_s in self._settings.windows_s}
        if self.beside is not None:
            self.beside.gathered.clear()
        self.newest_ms = -1
        self.first_ms = None

    def _learn(self, rows: Rows, wall_ms: int) -> Reference | None:
        enough = self._learner.add(rows) if rows.columns else None
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
                segments=self._settings.segments,
            ),
        )
        self._learner = Learner(self._settings.learn_rows, self._settings.pane_s)
        self.adopt(reference)
        return reference


class Beside:
    """A canary's rows in the cells of the stable version, for a comparison of the two over the same windows."""

    def __init__(self, watch: VersionWatch, settings: DriftSettings) -> None:
        if watch.reference is None:
            raise ValueError("the stable version has no reference")
        self.watch = watch
        self._reference = watch.reference
        self.gathered = Gathered(watch.reference, Segments((), ()), settings.pane_s, settings.windows_s)

    def is_of(self, stable: VersionWatch) -> bool:
        """Whether it compares with that version by the reference it has now."""
        return self.watch is stable and self._reference is stable.reference

    def signals(self, looks: Sequence[Look]) -> list[Signal]:
        """Columns in which the canary differs, in the windows that the stable version was looked at."""
        if self.watch.reference is not self._reference:
            return []  # the stable version counts by another reference by now
        return [
            replace(signal, source="canary")
            for look in looks
            if look.due.segment == ALL
            for signal in drift_signals(self._compare(look), self._reference.names, frozenset())
        ]

    def _compare(self, look: Look) -> Verdict:
        stable, mine = look.pane.profile, self.gathered.window(look.due.window_s, ALL, look.due.slot).profile
        return self.watch.decider.compare(
            self._reference,
            stable.counts,
            mine.counts,
            window_s=look.due.window_s,
            levels=(stable.level, mine.level),
        )
