"""What the page shows, as plain values: one document for everything, one for a column."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from operator import itemgetter

import numpy as np

from streamserve.batch import F64
from streamserve.config.drift_settings import DriftSettings
from streamserve.config.settings import PipelineSettings
from streamserve.drift.figures import ChunkCounts
from streamserve.drift.metrics import metrics
from streamserve.drift.model_monitor import ModelMonitor
from streamserve.drift.ranking import Effects, effects_of, strength
from streamserve.drift.reference import ColumnReference, Reference
from streamserve.drift.retrain import main_metric
from streamserve.drift.schema import MISSING, OTHER, UNSEEN
from streamserve.drift.segments import ALL
from streamserve.drift.traffic import joined_traffic
from streamserve.drift.version_watch import Look, VersionWatch

MAX_INCIDENTS = 50
MAX_REJECTS = 20
REPLAY_MS = 86_400_000
"""A stream that is so far behind the clock is a replay: ages go by its own time."""
Document = dict[str, object]


def overview(models: Sequence[ModelMonitor], counts: ChunkCounts, settings: PipelineSettings, wall_ms: int) -> Document:
    """Everything but the details of columns; what only the service knows is left out."""
    drift = settings.drift or DriftSettings()
    state, since_ms, message = state_of(models, drift, wall_ms)
    return {
        "pipeline": settings.pipeline,
        "wall_ms": wall_ms,
        "now_ms": event_now_ms(models, wall_ms),
        "state": state,
        "state_since_ms": since_ms,
        "message": message,
        "budget": {
            "false_alarms_per_week": drift.budget.false_alarms_per_week,
            "windows_s": drift.windows_s,
            "pane_s": drift.pane_s,
        },
        "models": [document for model in models for document in model_documents(model)],
        "incidents": incident_documents(models),
        "traffic": joined_traffic([model.traffic for model in models]),
        "sidecar": {
            "chunks": counts.merged,
            "skipped": counts.duplicate,
            "bad": counts.broken + counts.foreign,
            "late_rows": sum(model.timeline.late for model in models),
            "future_rows": sum(model.timeline.future for model in models),
        },
    }


def event_now_ms(models: Sequence[ModelMonitor], wall_ms: int) -> int:
    """Now in event time: the clock, but for a replay, in which now is where the stream is."""
    newest_ms = max((each for model in models if (each := model.timeline.watermark_ms) is not None), default=wall_ms)
    return newest_ms if wall_ms - newest_ms > REPLAY_MS else wall_ms


def state_of(models: Sequence[ModelMonitor], settings: DriftSettings, wall_ms: int) -> tuple[str, int | None, str]:
    """The word for how things are, since when, and a sentence."""
    newest_ms = max((each for model in models if (each := model.traffic.newest_ms()) is not None), default=None)
    if newest_ms is None:
        return "empty", None, "No samples have come yet."
    if wall_ms - newest_ms > settings.stale_s * 1000:
        return "stale", newest_ms, f"No samples for {duration((wall_ms - newest_ms) / 1000)}."
    opened = [alert for model in models for alert in model.told if alert["incident"] in open_incidents(model)]
    if opened:
        first = min(opened, key=itemgetter("opened_ms"))
        newest = max((each for each in opened if each["incident"] == first["incident"]), key=itemgetter("sequence"))
        return "alarm", first["opened_ms"], newest["title"]
    watches = [watch for model in models for watch in model.versions.values()]
    if not any(watch.reference is not None for watch in watches):
        rows = max((watch.learned_rows for watch in watches), default=0)
        return "learning", None, f"Learning a provisional reference: {rows:,} of {settings.learn_rows:,} rows."
    return "ok", None, "Nothing drifts."


def open_incidents(model: ModelMonitor) -> set[str]:
    """Ids of the incidents that are open."""
    return {book.incident for book in model.books.values() if book.incident is not None}


def incident_documents(models: Sequence[ModelMonitor]) -> list[Document]:
    """Incidents by their last alert, the newest first."""
    found: dict[str, Document] = {}
    for model in models:
        for alert in model.told:
            found[alert["incident"]] = {
                "id": alert["incident"],
                "model": alert["model"],
                "version": alert["version"],
                "opened_ms": alert["opened_ms"],
                "cleared_ms": alert["at_ms"] if alert["alert"] == "cleared" else None,
                "severity": alert["severity"],
                "title": alert["title"],
                "reasons": [
                    {**reason, "effect": reason["severity"], "effect_kind": "times", "p": None}
                    for reason in alert["reasons"]
                ],
                "span": span_document(alert["span"]),
            }
    return sorted(found.values(), key=lambda incident: -int(str(incident["opened_ms"])))[:MAX_INCIDENTS]


def span_document(span: Mapping[str, Mapping[str, Sequence[int]]]) -> Document | None:
    """The first topic of a span and its partitions; a pipeline has one input topic as a rule."""
    for topic, partitions in span.items():
        return {"topic": topic, "partitions": dict(partitions)}
    return None


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    for unit, size in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"


def model_documents(model: ModelMonitor) -> list[Document]:
    """One document per version, the newest rows first."""
    watches = sorted(model.versions.values(), key=lambda watch: -watch.newest_ms)
    return [_version(model, watch) for watch in watches]


def _version(model: ModelMonitor, watch: VersionWatch) -> Document:
    reference = watch.reference
    windows = [watch.latest[key] for key in sorted(watch.latest) if key[1] == ALL]
    return {
        "model": model.model,
        "version": watch.identity.version,
        "role": watch.identity.role,
        "newest_ms": watch.newest_ms,
        "reference": None if reference is None else reference_document(reference),
        "windows": [
            {
                "window_s": look.due.window_s,
                "end_ms": look.due.end_ms,
                "rows": look.pane.profile.rows,
                "sampled_share": look.pane.profile.rows / max(look.pane.profile.weight, 1),
                "drifted": int(look.verdict.drifted.sum()),
            }
            for look in windows
        ],
        "columns": [] if reference is None else _columns(watch, reference, model.settings),
        "segments": [] if reference is None else _segments(watch, reference),
        "performance": _performance(model, watch),
        "labels": _labels(model),
        "quality": _quality(watch),
    }


def reference_document(reference: Reference) -> Document:
    """Which reference it is."""
    return {
        "hash": reference.hash,
        "rows": reference.rows,
        "provisional": reference.provisional,
        "created_ms": reference.document.created_ms,
        "source": reference.document.source,
    }


def _columns(watch: VersionWatch, reference: Reference, settings: DriftSettings) -> list[Document]:
    """Every column by its worst look, the worst column first."""
    looks = [watch.latest[key] for key in sorted(watch.latest, key=lambda key: (key[1] != ALL, key[0], key[1]))]
    if not looks:
        return []
    badness = np.array([strength(look.verdict, reference) * look.verdict.decided for look in looks])
    drifted = np.array([look.verdict.drifted for look in looks])
    worst = np.lexsort((badness, drifted), axis=0)[-1]
    columns = np.arange(len(reference.names))
    order = np.lexsort((columns, -badness[worst, columns], ~drifted[worst, columns]))
    effects = [effects_of(look.verdict, reference, settings.effects) for look in looks]
    return [
        _column_row(watch, reference, looks[worst[i]], effects[worst[i]], int(i)) | {"rank": rank}
        for rank, i in enumerate(order.tolist(), start=1)
    ]


def _column_row(watch: VersionWatch, reference: Reference, look: Look, effects: Effects, i: int) -> Document:
    verdict, column = look.verdict, reference.columns[i]
    history = watch.history[look.due.window_s]
    return {
        "name": column.name,
        "kind": column.kind,
        "origin": column.origin,
        "window_s": look.due.window_s,
        "segment": look.due.segment,
        "p": number(verdict.p[i]),
        "effect": number(effects.value[i]),
        "effect_kind": effects.kind[i],
        "floor": number(effects.floor[i]),
        "psi": number(verdict.psi[i]),
        "js": number(verdict.js[i]),
        "ks": number(verdict.ks[i]) if reference.ordered[i] else None,
        "drifted": bool(verdict.drifted[i]),
        "since_ms": _since(watch, look, i),
        "missing": number(look.missing[i]),
        "missing_reference": column.counts[MISSING] / max(reference.rows, 1),
        "spark": [number(severity[i] * effects.floor[i]) for severity in history.severity],
    }


def _since(watch: VersionWatch, look: Look, i: int) -> int | None:
    """The end of the first of the looks in a row that found the column drifted."""
    if not look.verdict.drifted[i]:
        return None
    history = watch.history[look.due.window_s]
    since = look.due.end_ms
    for end_ms, drifted in zip(reversed(history.end_ms), reversed(history.drifted), strict=True):
        if not drifted[i]:
            break
        since = end_ms
    return since


def _segments(watch: VersionWatch, reference: Reference) -> list[Document]:
    found: dict[str, Look] = {}
    for (window_s, segment), look in watch.latest.items():
        if segment != ALL and (segment not in found or window_s > found[segment].due.window_s):
            found[segment] = look
    return [
        {
            "segment": segment,
            "rows": look.pane.profile.rows,
            "drifted": int(look.verdict.drifted.sum()),
            "worst": reference.names[int(np.argmax(strength(look.verdict, reference)))],
        }
        for segment, look in sorted(found.items())
    ]


def _performance(model: ModelMonitor, watch: VersionWatch) -> Document | None:
    looks = [look for (_, segment), look in sorted(watch.latest.items()) if segment == ALL]
    windows, name = [], None
    for look in looks:
        tally = model.tally(watch.identity.version, look)
        if tally is None:
            continue
        realised = main_metric(metrics(tally.realised))
        estimated = main_metric(metrics(tally.estimated)) if tally.expected.sums["rows"] else None
        name = name or (realised or estimated or (None,))[0]
        windows.append(
            {
                "window_s": look.due.window_s,
                "realised": None if realised is None else realised[1].value,
                "low": None if realised is None else realised[1].low,
                "high": None if realised is None else realised[1].high,
                "estimated": None if estimated is None else estimated[1].value,
                "labels": round(tally.realised.sums["rows"]),
            }
        )
    if name is None:
        return None
    baseline = watch.reference.document.performance.get(name) if watch.reference is not None else None
    history = model.outcomes.history.get(watch.identity.version) if model.outcomes is not None else None
    return {
        "metric": name,
        "windows": windows,
        "history": {"end_ms": [], "realised": [], "estimated": []} if history is None else history.document(),
        "baseline": baseline,
    }


def _labels(model: ModelMonitor) -> Document | None:
    if model.outcomes is None:
        return None
    figures, counts = model.outcomes.join.figures(), model.outcomes.join.counts
    return {
        "coverage": figures.coverage,
        "delay_p50_s": None if figures.delay_p50_ms is None else figures.delay_p50_ms / 1000,
        "delay_p90_s": None if figures.delay_p90_ms is None else figures.delay_p90_ms / 1000,
        "joined": counts["joined"],
        "waiting": figures.waiting,
        "duplicate": counts["duplicate"] + counts["contradicting"],
        "unmatched": counts["unmatched"],
        "malformed": counts["malformed"],
    }


def _quality(watch: VersionWatch) -> Document:
    looks = [look for (_, segment), look in sorted(watch.latest.items()) if segment == ALL]
    if not looks:
        return {"rejects": [], "volume_per_s": None, "volume_reference_per_s": None}
    look = looks[0]
    consumed = max(look.pane.consumed, 1)
    rejects = [
        {"feature": feature, "reason": reason, "share": count / consumed}
        for (feature, reason), count in look.pane.rejects.most_common(MAX_REJECTS)
    ]
    return {
        "rejects": rejects,
        "volume_per_s": look.pane.consumed / look.due.window_s,
        "volume_reference_per_s": None if watch.reference is None else watch.reference.document.rows_per_s,
    }


def column_document(model: ModelMonitor, version: str, window_s: float, segment: str, name: str) -> Document | None:
    """One column in one window and segment."""
    watch = model.versions.get(version)
    look = watch.latest.get((window_s, segment)) if watch is not None else None
    if watch is None or look is None or watch.reference is None or name not in watch.reference.names:
        return None
    reference, i = watch.reference, watch.reference.names.index(name)
    history, verdict = watch.history[window_s], look.verdict
    floor = float(effects_of(verdict, reference, model.settings.effects).floor[i])
    moments = look.pane.moments
    statistics = {
        "p": number(verdict.p[i]),
        "Wasserstein / std": number(verdict.wasserstein[i]) if reference.ordered[i] else None,
        "KS": number(verdict.ks[i]) if reference.ordered[i] else None,
        "PSI": number(verdict.psi[i]),
        "Jensen-Shannon": number(verdict.js[i]),
        "Hellinger": number(verdict.hellinger[i]),
        "total variation": number(verdict.total_variation[i]),
        "change of a share": number(verdict.share_change[i]),
        "effective rows": number(verdict.effective_rows[i]),
    }
    if moments is not None and reference.ordered[i]:
        statistics |= {
            "mean": number(moments.mean[i]),
            "mean of the reference": reference.columns[i].mean,
            "std": number(moments.std[i]),
            "std of the reference": reference.columns[i].std,
        }
    return {
        "name": name,
        "kind": reference.columns[i].kind,
        "origin": reference.columns[i].origin,
        "window_s": window_s,
        "segment": segment,
        "cells": _cells(reference, look, i),
        "history": {
            "end_ms": list(history.end_ms),
            "effect": [number(each[i] * floor) for each in history.severity],
            "floor": floor,
            "p": [number(each[i]) for each in history.p],
            "missing": [number(each[i]) for each in history.missing],
            "drifted": [bool(each[i]) for each in history.drifted],
        },
        "statistics": statistics,
        "rows": look.pane.profile.rows,
        "n_effective": look.pane.profile.n_effective,
        "span": span_document(look.pane.span_document()),
        "replay": replay_command(version, look),
    }


def replay_command(version: str, look: Look) -> str:
    """The command that computes a look again from the samples."""
    start_ms = look.due.end_ms - round(look.due.window_s * 1000)
    command = f"streamserve drift report --model-version {version} --since {start_ms} --until {look.due.end_ms}"
    return command + (f" --segment '{look.due.segment}'" if look.due.segment else "")


def _cells(reference: Reference, look: Look, i: int) -> list[Document]:
    column = reference.columns[i]
    before = reference.counts[i] / max(reference.counts[i].sum(), 1)
    counts = look.pane.profile.counts[i]
    now = counts / max(counts.sum(), 1)
    found: list[Document] = []
    for cell, (label, low, high) in enumerate(_cell_labels(column)):
        found.append({"label": label, "low": low, "high": high, "reference": before[cell], "current": now[cell]})
    unseen = "(not finite)" if column.kind == "numeric" else "(unseen)"
    for cell, label in ((OTHER, "(other)"), (UNSEEN, unseen), (MISSING, "(missing)")):
        if before[cell] > 0 or now[cell] > 0:
            found.append({"label": label, "low": None, "high": None, "reference": before[cell], "current": now[cell]})
    return found


def _cell_labels(column: ColumnReference) -> Iterable[tuple[str, float | None, float | None]]:
    if column.kind == "categorical":
        return [(name, None, None) for name in column.categories]
    bounds: list[float | None] = [None, *column.edges, None]
    return [(_bin_label(low, high), low, high) for low, high in pairwise(bounds)]


def _bin_label(low: float | None, high: float | None) -> str:
    if low is None and high is None:
        return "all"
    if low is None:
        return f"up to {high:.4g}"
    return f"above {low:.4g}" if high is None else f"{low:.4g} to {high:.4g}"


def number(value: float | F64) -> float | None:
    """JSON has no NaN."""
    found = float(value)
    return found if np.isfinite(found) else None
