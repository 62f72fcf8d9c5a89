"""What a report says, as plain values; how it looks is the business of `page` and of the command line."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from math import isfinite

import numpy as np

from streamserve.config.drift_settings import DriftSettings
from streamserve.drift.decision import Budget, Decider, EffectFloors, Verdict
from streamserve.drift.ranking import Effects, effects_of, strength
from streamserve.drift.reference import ColumnReference, Reference
from streamserve.drift.report.collected import Collected
from streamserve.drift.schema import BINS, MISSING, OTHER, UNSEEN
from streamserve.drift.scores import ReferenceSample, shares
from streamserve.drift.segments import ALL

Spans = dict[str, dict[str, list[int]]]
"""Topic -> partition -> [first offset, position after the last]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One cell of a column: its name, and its share of the reference's and of the range's rows."""

    label: str
    reference: float
    current: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnReport:
    """One column of a report.

    Attributes:
        name, kind, origin: which.
        drifted: cannot be chance, and matters.
        p: before Holm's method.
        effect_kind: `wasserstein`, `share` or `js`: the effect that stands for the column.
        effect, floor: in the unit of that kind.
        severity: the largest effect in multiples of its floor.
        wasserstein, share_change, psi, js, ks: see `scores`.
        missing, missing_reference: share of missing values.
        values: sampled rows that have a value.
        mean, mean_reference: of a number's finite values; None for categories and without values.
        importance: share of the model's attention, where it is known.
        bars: the cells that any row fell into.
    """

    name: str
    kind: str
    origin: str
    drifted: bool
    p: float
    effect_kind: str
    effect: float
    floor: float
    severity: float
    wasserstein: float
    share_change: float
    psi: float
    js: float
    ks: float
    missing: float
    missing_reference: float
    values: int
    mean: float | None
    mean_reference: float | None
    importance: float | None
    bars: tuple[Bar, ...]

    @property
    def finding(self) -> str:
        """In a word: large changes of a stream that varies as much by itself are not drift."""
        return "yes" if self.drifted else "maybe chance" if self.severity >= 1 else "no"


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeReport:
    """A report on a range.

    Attributes:
        pipeline, model, version: whose.
        segment: empty for all rows.
        first_ms, last_ms: event times of the rows.
        window_s: the length that counts for how much the stream varies over it.
        rows, weight: sampled rows, and how many rows they stand for.
        reference, reference_rows, reference_source, provisional: what it was compared with.
        varies_unknown: the reference cannot tell how much the stream varies, so that nothing is found to drift.
        decided: whether there were rows enough.
        least_rows: how many it takes.
        alpha: chance of any false finding in this report.
        columns: the worst first.
        span: where the rows are from, for a replay.
        rejects: (stage, reason, feature) and how many records workers rejected in the range.
        notes: what else is worth knowing.
    """

    pipeline: str
    model: str
    version: str
    segment: str
    first_ms: int
    last_ms: int
    window_s: float
    rows: int
    weight: int
    reference: str
    reference_rows: int
    reference_source: str
    provisional: bool
    varies_unknown: bool
    decided: bool
    least_rows: int
    alpha: float
    columns: tuple[ColumnReport, ...]
    span: Spans
    rejects: tuple[tuple[str, str, str, int], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def drifted(self) -> tuple[ColumnReport, ...]:
        """The columns that drifted."""
        return tuple(column for column in self.columns if column.drifted)

    def to_document(self) -> dict[str, object]:
        """JSON; null where a number is not finite."""
        document = asdict(self)
        document["columns"] = [
            {key: _finite(value) for key, value in asdict(column).items()} for column in self.columns
        ]
        document["drifted"] = [column.name for column in self.drifted]
        return document


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a report is about.

    Attributes:
        pipeline: its name.
        segment: empty for all rows.
        window_s: seconds between the ends asked for; None: as long as the rows last.
        rejects, notes: as in `RangeReport`.
    """

    pipeline: str
    segment: str = ALL
    window_s: float | None = None
    rejects: tuple[tuple[str, str, str, int], ...] = ()
    notes: tuple[str, ...] = ()


def decide(reference: Reference, collected: Collected, settings: DriftSettings, question: Question) -> RangeReport:
    """Look at the rows of a range as one window.

    Raises:
        ValueError: there are no rows, or the reference was made without that segment.
    """
    sample: ReferenceSample | None = reference.segment(question.segment) if question.segment else reference
    if sample is None:
        raise ValueError(f"the reference was made without the segment {question.segment}")
    if collected.first_ms is None or collected.last_ms is None:
        raise ValueError("there are no rows to report on")
    profile = collected.pane.profile
    pane_ms = settings.pane_s * 1000
    lasts = (collected.last_ms // pane_ms - collected.first_ms // pane_ms + 1) * settings.pane_s
    window_s = question.window_s or lasts
    decider = Decider(
        budget=Budget(
            false_alarms_per_week=settings.budget.false_alarms_per_week,
            pane_s=settings.pane_s,
            windows_s=(window_s,),
            detectors=0.0,
        ),
        floors=EffectFloors(**settings.effects.model_dump()),
    )
    verdict = decider.look(sample, profile.counts, window_s=window_s, level=profile.level, segment=question.segment)
    return RangeReport(
        pipeline=question.pipeline,
        model=reference.model,
        version=reference.version,
        segment=question.segment,
        first_ms=collected.first_ms,
        last_ms=collected.last_ms,
        window_s=window_s,
        rows=profile.rows,
        weight=profile.weight,
        reference=reference.hash,
        reference_rows=int(sample.counts[0].sum()),
        reference_source=reference.document.source,
        provisional=reference.provisional,
        varies_unknown=reference.dispersion.panes == 0,
        decided=verdict.decided,
        least_rows=decider.least_rows,
        alpha=verdict.alpha,
        columns=_columns(reference, sample, collected, verdict, effects_of(verdict, reference, settings.effects)),
        span=collected.pane.span_document(),
        rejects=question.rejects,
        notes=question.notes,
    )


def _columns(
    reference: Reference, sample: ReferenceSample, collected: Collected, verdict: Verdict, effects: Effects
) -> tuple[ColumnReport, ...]:
    counts, moments = collected.pane.profile.counts, collected.pane.moments
    before, now = shares(sample.counts), shares(counts)
    badness = strength(verdict, reference)
    order = np.lexsort((np.arange(len(badness)), -badness, ~verdict.drifted))
    level = collected.pane.profile.level
    return tuple(
        ColumnReport(
            name=column.name,
            kind=column.kind,
            origin=column.origin,
            drifted=bool(verdict.drifted[i]),
            p=float(verdict.p[i]),
            effect_kind=effects.kind[i],
            effect=float(effects.value[i]),
            floor=float(effects.floor[i]),
            severity=float(verdict.severity[i]),
            wasserstein=float(verdict.wasserstein[i]),
            share_change=float(verdict.share_change[i]),
            psi=float(verdict.psi[i]),
            js=float(verdict.js[i]),
            ks=float(verdict.ks[i]),
            missing=float(now[i, MISSING]),
            missing_reference=float(before[i, MISSING]),
            values=int(counts[i, :MISSING].sum()) >> level,
            mean=float(moments.mean[i]) if moments is not None and moments.n[i] > 0 and sample.ordered[i] else None,
            mean_reference=column.mean if sample.ordered[i] and sample is reference else None,
            importance=column.importance,
            bars=_bars(column, before[i].tolist(), now[i].tolist()),
        )
        for i, column in ((i, reference.columns[i]) for i in order.tolist())
    )


def _bars(column: ColumnReference, before: list[float], now: list[float]) -> tuple[Bar, ...]:
    """The cells of a column by name: its bins or categories, and of the rest those that hold anything."""
    if column.kind == "numeric":
        names = _bin_names(column)
    else:
        names = list(column.categories)
    cells = dict(enumerate(names))
    cells |= {OTHER: "other categories", UNSEEN: "never seen" if column.kind == "categorical" else "not finite"}
    cells[MISSING] = "missing"
    return tuple(
        Bar(label=name, reference=before[i], current=now[i])
        for i, name in cells.items()
        if i < BINS or before[i] > 0 or now[i] > 0
    )


def _bin_names(column: ColumnReference) -> list[str]:
    used = column.centers[: len(column.edges) + 1]
    if all(edge == (low + high) / 2 for edge, (low, high) in zip(column.edges, pairwise(used), strict=True)):
        return [f"{center:.6g}" for center in used]  # one value a bin
    edges = [f"{edge:.4g}" for edge in column.edges]
    return [f"up to {edges[0]}", *(f"{low} to {high}" for low, high in pairwise(edges)), f"over {edges[-1]}"]


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not isfinite(value) else value
