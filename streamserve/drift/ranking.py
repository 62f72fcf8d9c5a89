"""Columns of a look in the order in which a person should read them, and what a report says of each."""

from __future__ import annotations

import numpy as np

from streamserve.batch import F64, I64
from streamserve.drift.reference import Reference
from streamserve.drift.version_watch import Look

TINY = 1e-12


def ranked(look: Look, reference: Reference) -> I64:
    """Columns by drift, the worst first: drifted ones, then by effect over its floor, times importance if known."""
    verdict = look.verdict
    badness = strength(look, reference)
    return np.lexsort((np.arange(len(badness)), -badness, ~verdict.drifted))


def strength(look: Look, reference: Reference) -> F64:
    """Effect over its floor per column, times its importance relative to the mean one where these are known."""
    relative: F64 = look.verdict.effect / np.maximum(look.verdict.floor, TINY)
    importance = reference.importance
    if importance is not None and importance.mean() > 0:
        relative = relative * (0.1 + importance / importance.mean())
    return relative


def report_columns(look: Look, reference: Reference) -> dict[str, list[object]]:
    """The columns of a report, ranked."""
    verdict, order = look.verdict, ranked(look, reference)
    scores = verdict.scores
    return {
        "name": [reference.names[i] for i in order],
        "p": _plain(verdict.p[order]),
        "effect": _plain(verdict.effect[order]),
        "effect_kind": [str(verdict.effect_kind[i]) for i in order],
        "floor": _plain(verdict.floor[order]),
        "drifted": verdict.drifted[order].tolist(),
        "wasserstein": _plain(scores.wasserstein[order]),
        "psi": _plain(scores.psi[order]),
        "js": _plain(scores.js[order]),
        "ks": _plain(scores.ks[order]),
        "missing": _plain(look.missing[order]),
    }


def _plain(values: F64) -> list[object]:
    """JSON has no NaN: null instead."""
    return [None if value != value else float(f"{value:.6g}") for value in values.tolist()]  # noqa: PLR0124
