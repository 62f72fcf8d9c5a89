"""The rules for `drift`: windows, topics, personal values, segments and labels that fit the rest."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from math import isclose

from streamserve.config.drift_settings import DriftSettings
from streamserve.config.drift_topics import drift_topics
from streamserve.config.pii_key import HINT, has_key, needs_key
from streamserve.config.settings import PipelineSettings, VectorSettings
from streamserve.config.topic_documents import TopicDocument
from streamserve.config.wording import Finding, did_you_mean

RESERVED = "output."
"""Sampled outputs stand beside the features under this prefix."""


def drift_findings(settings: PipelineSettings) -> Iterator[Finding]:
    """Every contradiction within the `drift` block, and between it and the rest."""
    drift = settings.drift
    if drift is None:
        return
    for index, window_s in enumerate(drift.windows_s):
        panes = window_s / drift.pane_s
        if round(panes) < 1 or not isclose(panes, round(panes), rel_tol=1e-9):
            yield Finding(("drift", "windows_s", index), f"must be a multiple of pane_s ({drift.pane_s:g})")
    yield from _topics(settings)
    yield from _names(settings)
    yield from _personal(settings, drift, os.environ)
    yield from _segments(settings, drift)
    yield from _labels(settings, drift)


def drift_warnings(settings: PipelineSettings) -> Iterator[Finding]:
    """What may be meant."""
    drift, http = settings.drift, settings.http
    if drift is not None and 0 < http.port <= drift.http_port < http.port + settings.workers:
        message = f"is also the port of worker {drift.http_port - http.port}, if both are on one machine"
        yield Finding(("drift", "http_port"), message)


def drift_topic_warnings(settings: PipelineSettings, documents: Mapping[str, TopicDocument]) -> Iterator[Finding]:
    """What the documents in `topics/` lack or keep for too short a time."""
    if settings.drift is None:
        return
    longest_s = settings.drift.windows_s[-1]
    needed_s = {"samples": longest_s, "reports": longest_s, "alerts": 0.0}
    if settings.drift.labels is not None:
        needed_s["labels"] = settings.drift.labels.wait_s
    names = drift_topics(settings)
    for role, least_s in needed_s.items():
        name: str = getattr(names, role)
        path = ("drift", "labels", "topic") if role == "labels" else ("drift", f"{role}_topic")
        document = documents.get(name)
        if document is None or document.absent:
            yield Finding(path, f"no document in topics/ describes {name}")
            continue
        kept_ms = document.config.get("retention.ms", "")
        if kept_ms.isdigit() and int(kept_ms) < least_s * 1000:
            why = "a prediction waits for its label" if role == "labels" else "the longest window is"
            message = f"{name} is kept for {int(kept_ms) / 1000:g} s, {why} {least_s:g} s"
            yield Finding(path, message, "a longer retention.ms in topics/")


def _topics(settings: PipelineSettings) -> Iterator[Finding]:
    names = drift_topics(settings)
    taken = dict.fromkeys(settings.input.topics, "an input topic")
    taken |= {settings.output.topic: "the topic of the predictions", settings.dead_letter.topic: "the dead letters"}
    for role in ("samples", "reports", "alerts", "labels"):
        name: str | None = getattr(names, role)
        if name is None:
            continue
        path = ("drift", "labels", "topic") if role == "labels" else ("drift", f"{role}_topic")
        if name in taken:
            yield Finding(path, f"{name} is also {taken[name]}", "name another")
        taken.setdefault(name, f"the topic of the {role}")


def _names(settings: PipelineSettings) -> Iterator[Finding]:
    if isinstance(settings.features, VectorSettings):
        return
    for index, feature in enumerate(settings.features):
        if feature.name.startswith(RESERVED):
            message = f"begins with {RESERVED} like the sampled outputs"
            yield Finding(("features", index, "name"), message, "with a drift block it needs another name")
        sequence = feature.name.removesuffix(".length")
        if sequence != feature.name and sequence in _sequences(settings):
            message = f"is also the sampled length of {sequence}"
            yield Finding(("features", index, "name"), message, "with a drift block it needs another name")


def _personal(settings: PipelineSettings, drift: DriftSettings, environ: Mapping[str, str]) -> Iterator[Finding]:
    features = _feature_names(settings)
    vector = isinstance(settings.features, VectorSettings)
    for name, fate in drift.pii.items():
        path = ("drift", "pii", name)
        if name not in features and name not in {"id", "key"}:
            yield Finding(path, "is no feature", did_you_mean(name, [*features, "id", "key"]))
        elif vector and name in features and fate == "hash":
            yield Finding(path, "is a vector, which cannot be hashed", "drop")
        elif name in _sequences(settings) and fate == "hash":
            yield Finding(path, "is a sequence, which cannot be hashed", "drop")
    for role, field in (("id", settings.input.id), ("key", settings.input.key)):
        if field in drift.pii and role not in drift.pii and field not in {"id", "key"}:
            message = f"is also input.{role}, which stays in the samples as it is"
            yield Finding(("drift", "pii", str(field)), message, f"add {role}: {drift.pii[str(field)]}")
    if drift.labels is not None and drift.pii.get("id") == "drop":
        yield Finding(("drift", "pii", "id"), "without ids labels cannot be joined", "hash")
    if needs_key(drift) and not has_key(drift, environ):
        yield Finding(("drift", "pii"), "asks for hashes, but there is no key", HINT)


def _segments(settings: PipelineSettings, drift: DriftSettings) -> Iterator[Finding]:
    features = _feature_names(settings)
    counts = Counter(segment.feature for segment in drift.segments)
    for index, segment in enumerate(drift.segments):
        name, path = segment.feature, ("drift", "segments", index, "feature")
        if name not in features:
            yield Finding(path, f"{name} is no feature", did_you_mean(name, features))
        elif isinstance(settings.features, VectorSettings):
            yield Finding(path, f"{name} is a vector", "a segment needs a string feature, or a number with few values")
        elif name in _sequences(settings):
            yield Finding(
                path, f"{name} is a sequence", "a segment needs a string feature, or a number with few values"
            )
        elif drift.pii.get(name) == "drop":
            yield Finding(path, f"{name} is dropped by drift.pii")
        elif drift.pii.get(name) == "hash" and segment.values is not None:
            message = f"{name} is hashed by drift.pii: no row has one of these values"
            yield Finding((*path[:-1], "values"), message, "leave them out")
        if counts[name] > 1 and [other.feature for other in drift.segments].index(name) != index:
            yield Finding(path, f"{name} is given {counts[name]} times")


def _labels(settings: PipelineSettings, drift: DriftSettings) -> Iterator[Finding]:
    labels, outputs = drift.labels, settings.output.outputs
    if labels is None:
        if drift.retrain.performance_below is not None:
            yield Finding(("drift", "retrain", "performance_below"), "needs labels", "drift.labels says where they are")
        return
    if outputs:
        if labels.output is not None and labels.output not in outputs:
            hint = did_you_mean(labels.output, list(outputs))
            yield Finding(("drift", "labels", "output"), f"{labels.output} is no name in output.outputs", hint)
        elif labels.output is None and len(outputs) > 1:
            yield Finding(
                ("drift", "labels", "output"), "is needed: there are several outputs", f"{', '.join(outputs)}"
            )
    if labels.task == "regression" and labels.classes is not None:
        yield Finding(("drift", "labels", "classes"), "a regression has no classes", "leave it out")


def _feature_names(settings: PipelineSettings) -> list[str]:
    features = settings.features
    return [features.field] if isinstance(features, VectorSettings) else [feature.name for feature in features]


def _sequences(settings: PipelineSettings) -> set[str]:
    features = settings.features
    if isinstance(features, VectorSettings):
        return set()
    return {feature.name for feature in features if feature.sequence is not None}
