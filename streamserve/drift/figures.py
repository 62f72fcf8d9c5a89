"""What the monitor says in numbers, for Prometheus: counts of messages, and the newest look at every window."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec

from streamserve.drift.model_monitor import ModelMonitor
from streamserve.drift.ranking import ranked
from streamserve.drift.segments import ALL
from streamserve.drift.version_watch import Look, VersionWatch

SHOWN_COLUMNS = 200
"""Columns of a version that have series of their own: the worst ones."""


class ChunkCounts(msgspec.Struct, kw_only=True):
    """Messages of the samples topic by what became of them."""

    merged: int = 0
    duplicate: int = 0
    broken: int = 0
    foreign: int = 0


def figures(models: Sequence[ModelMonitor], counts: ChunkCounts) -> dict[str, object]:
    """All figures.

    Returns:
        `chunks` and `labels`: outcome -> count. `rows`: outcome -> count. `open_incidents`. `versions`: per model
        version `model`, `version`, `reference` (hash, or empty), `provisional`, `columns` (names, the worst first)
        and `windows`, each with `window_s`, `rows`, `scores` (statistic -> value per column) and `drifted` per column.
    """
    labels: Counter[str] = Counter()
    for model in models:
        if model.outcomes is not None:
            labels.update({str(outcome): count for outcome, count in model.outcomes.join.counts.items()})
    return {
        "chunks": {
            **msgspec.to_builtins(counts),
            "unknown_reference": sum(model.counts.unknown_reference for model in models),
        },
        "rows": {
            "merged": sum(model.counts.rows for model in models),
            "late": sum(model.timeline.late for model in models),
            "future": sum(model.timeline.future for model in models),
        },
        "labels": dict(labels),
        "open_incidents": sum(book.incident is not None for model in models for book in model.books.values()),
        "versions": [_version(watch) for model in models for watch in model.versions.values()],
    }


def _version(watch: VersionWatch) -> dict[str, object]:
    reference = watch.reference
    looks = [look for (_, segment), look in sorted(watch.latest.items()) if segment == ALL]
    names: list[str] = []
    windows: list[dict[str, object]] = []
    if reference is not None and looks:
        order = ranked(looks[-1], reference)[:SHOWN_COLUMNS].tolist()
        names = [reference.names[i] for i in order]
        windows = [_window(look, order) for look in looks]
    return {
        "model": watch.identity.model,
        "version": watch.identity.version,
        "reference": "" if reference is None else reference.hash,
        "provisional": reference is not None and reference.provisional,
        "columns": names,
        "windows": windows,
    }


def _window(look: Look, order: list[int]) -> dict[str, object]:
    verdict = look.verdict
    scores = {"severity": verdict.severity, "psi": verdict.psi, "js": verdict.js, "wasserstein": verdict.wasserstein}
    return {
        "window_s": look.due.window_s,
        "rows": look.pane.profile.rows,
        "scores": {name: values[order].tolist() for name, values in scores.items()},
        "drifted": verdict.drifted[order].tolist(),
    }
