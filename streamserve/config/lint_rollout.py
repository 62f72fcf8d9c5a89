"""The rules for `rollout` and `retrain`: topics that keep what they must, and a loop that can do what it is told to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from streamserve.config.drift_topics import drift_topics
from streamserve.config.recorded import why_not_recorded
from streamserve.config.rollout_topics import rollout_topics
from streamserve.config.settings import PipelineSettings
from streamserve.config.topic_documents import TopicDocument
from streamserve.config.wording import Finding

INSYNC = "min.insync.replicas"
_KEYS = {"control": ("rollout", "topic"), "shadow": ("rollout", "shadow_topic")}


def rollout_findings(settings: PipelineSettings) -> Iterator[Finding]:
    """Every contradiction within the two blocks, and between them and the rest."""
    retrain = settings.retrain
    if settings.rollout is not None:
        yield from _topics(settings)
    elif retrain is not None and retrain.then != "nothing":
        hint = "add a rollout block, or then: nothing"
        yield Finding(("retrain", "then"), f"{retrain.then} needs rollouts, which are off", hint)
    why = why_not_recorded(settings)
    if retrain is not None and settings.drift is not None and why:
        message = f"would train in vain, for new versions are tried on recorded rows: {why}"
        hint = "leave it out, and try versions with `streamserve replay`; or leave out drift, and set retrain.every_s"
        yield Finding(("retrain",), message, hint)


def rollout_warnings(settings: PipelineSettings) -> Iterator[Finding]:
    """What may be meant."""
    rollout = settings.rollout
    if rollout is not None and rollout.guard is not None and rollout.guard.drift and settings.drift is None:
        written = "guard" in rollout.model_fields_set and "drift" in rollout.guard.model_fields_set
        if written:
            yield Finding(("rollout", "guard", "drift"), "has no effect: there is no drift block")
    retrain = settings.retrain
    if retrain is not None and settings.drift is None and retrain.every_s is None:
        hint = "a drift block, or retrain.every_s"
        yield Finding(("retrain",), "nobody asks for it: no drift monitor, no schedule", hint)


def rollout_topic_warnings(settings: PipelineSettings, documents: Mapping[str, TopicDocument]) -> Iterator[Finding]:
    """What the documents in `topics/` lack, or would lose."""
    if settings.rollout is None:
        return
    names = rollout_topics(settings)
    for role, path in _KEYS.items():
        name: str = getattr(names, role)
        document = documents.get(name)
        if document is None or document.absent:
            yield Finding(path, f"no document in topics/ describes {name}")
    control, shadow = documents.get(names.control), documents.get(names.shadow)
    output = documents.get(settings.output.topic)
    if control is not None and control.partitions != 1:
        yield Finding(_KEYS["control"], f"{names.control} must have one partition: its order is that of the commands")
    if control is not None and control.config.get("cleanup.policy") != "compact":
        message = f"{names.control} would forget its commands"
        yield Finding(_KEYS["control"], message, "cleanup.policy: compact in topics/")
    if control is not None and output is not None:
        yield from _not_as_durable(control, output)
    if shadow is not None and output is not None and shadow.partitions != output.partitions:
        message = f"{shadow.name} and {output.name} have different numbers of partitions and cannot be joined"
        yield Finding(_KEYS["shadow"], message, "give both the same count in topics/")


def _not_as_durable(control: TopicDocument, output: TopicDocument) -> Iterator[Finding]:
    """Workers write switch points in the transactions of their predictions: where the one is away, neither commits."""
    hint = "give both the same in topics/"
    together = f"{control.name} is committed together with {output.name}, which has"
    if control.replicas is not None and output.replicas is not None and control.replicas < output.replicas:
        yield Finding(_KEYS["control"], f"{together} {output.replicas} replicas, not {control.replicas}", hint)
    own, other = control.config.get(INSYNC), output.config.get(INSYNC)
    if own is not None and other is not None and own != other:
        yield Finding(_KEYS["control"], f"{together} {INSYNC}={other}, not {own}", hint)


def _topics(settings: PipelineSettings) -> Iterator[Finding]:
    taken = dict.fromkeys(settings.input.topics, "an input topic")
    taken |= {settings.output.topic: "the topic of the predictions", settings.dead_letter.topic: "the dead letters"}
    if settings.drift is not None:
        drift = drift_topics(settings)
        taken |= {drift.samples: "the topic of the samples", drift.reports: "the topic of the reports"}
        taken |= {drift.alerts: "the topic of the alerts"}
        taken |= {drift.labels: "the topic of the labels"} if drift.labels is not None else {}
    names = rollout_topics(settings)
    for role, path in _KEYS.items():
        name: str = getattr(names, role)
        if name in taken:
            yield Finding(path, f"{name} is also {taken[name]}", "name another")
        taken.setdefault(name, "the topic of the rollouts")
