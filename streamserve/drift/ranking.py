"""Columns of a look in the order in which a person should read them, and what a report says of each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from streamserve.batch import F64, I64
from streamserve.config.drift_settings import EffectSettings
from streamserve.drift.decision import FLOORS, Verdict
from streamserve.drift.events import Report
from streamserve.drift.reference import Reference
from streamserve.drift.version_watch import Look, VersionWatch

LEAST_IMPORTANCE = 0.1
"""A column that the model hardly uses is ranked by this part of its effect."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effects:
    """The effect that stands for each column: that over its floor, else the usual one of its kind.

    Attributes:
        kind: `wasserstein`, `share` or `js`, F of them.
        value, floor: float64[F], in the unit of the kind.
    """

    kind: list[str]
    value: F64
    floor: F64


def effects_of(verdict: Verdict, reference: Reference, settings: EffectSettings) -> Effects:
    """The effects of a verdict in their own units."""
    kind = np.where(verdict.floor > 0, verdict.floor, np.where(reference.ordered, 1, 2))
    zeros = np.zeros(len(kind))
    values = np.stack([zeros, verdict.wasserstein, verdict.share_change, verdict.js])
    floors = np.array([0.0, settings.wasserstein, settings.share, settings.js])
    return Effects(
        kind=[FLOORS[i] for i in kind.tolist()], value=values[kind, np.arange(len(kind))], floor=floors[kind]
    )


def ranked(look: Look, reference: Reference) -> I64:
    """Columns by drift, the worst first: drifted ones, then by effect, times importance where that is known."""
    badness = strength(look.verdict, reference)
    return np.lexsort((np.arange(len(badness)), -badness, ~look.verdict.drifted))


def strength(verdict: Verdict, reference: Reference) -> F64:
    """Effect in multiples of its floor, times the column's importance relative to the mean one."""
    importance = reference.importance
    if importance is None or importance.mean() <= 0:
        return verdict.severity
    weighed: F64 = verdict.severity * np.maximum(importance / importance.mean(), LEAST_IMPORTANCE)
    return weighed


def report_columns(look: Look, reference: Reference, settings: EffectSettings) -> dict[str, list[object]]:
    """The columns of a report, ranked."""
    verdict, order = look.verdict, ranked(look, reference)
    effects = effects_of(verdict, reference, settings)
    return {
        "name": [reference.names[i] for i in order],
        "drifted": verdict.drifted[order].tolist(),
        "p": plain(verdict.p[order]),
        "effect_kind": [effects.kind[i] for i in order],
        "effect": plain(effects.value[order]),
        "floor": plain(effects.floor[order]),
        "severity": plain(verdict.severity[order]),
        "wasserstein": plain(verdict.wasserstein[order]),
        "psi": plain(verdict.psi[order]),
        "js": plain(verdict.js[order]),
        "ks": plain(verdict.ks[order]),
        "missing": plain(look.missing[order]),
    }


def report_of(watch: VersionWatch, look: Look, settings: EffectSettings) -> Report:
    """The report of a look."""
    reference, due, pane = watch.reference, look.due, look.pane
    if reference is None:
        raise ValueError("a look without a reference")
    columns = report_columns(look, reference, settings)
    drifted = [str(name) for name, is_so in zip(columns["name"], columns["drifted"], strict=True) if is_so]
    return Report(
        pipeline=watch.identity.pipeline,
        model=watch.identity.model,
        version=watch.identity.version,
        segment=due.segment,
        window_s=due.window_s,
        start_ms=due.end_ms - round(due.window_s * 1000),
        end_ms=due.end_ms,
        rows=pane.profile.rows,
        sampled_share=pane.profile.rows / max(pane.profile.weight, 1),
        n_effective=pane.profile.n_effective,
        reference=reference.hash,
        provisional=reference.provisional,
        decided=look.verdict.decided,
        drifted=drifted,
        columns=columns,
        span=pane.span_document(),
    )


def plain(values: F64) -> list[object]:
    """Six digits; null where there is no finite number, which JSON cannot hold."""
    finite = np.isfinite(values)
    return [
        float(f"{value:.6g}") if is_finite else None
        for value, is_finite in zip(values.tolist(), finite.tolist(), strict=True)
    ]
