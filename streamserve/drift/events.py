"""What the monitor tells: documents for the reports, alerts and samples topics.

Every event says its kind, has a key that makes it one of its kind, and is one JSON document. A reader of the topics
may rely on `incident` and `sequence` of an alert to tell it from every other one.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec
import orjson

TopicRole = Literal["reports", "alerts", "samples"]
AlertKind = Literal["opened", "worsened", "cleared"]


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Base: who it is about."""

    kind: ClassVar[str]
    topic_role: ClassVar[TopicRole]

    pipeline: str
    model: str
    version: str

    @property
    def key(self) -> bytes:
        """Key of the record: the model, so that its records stay in order."""
        return self.model.encode()

    def json(self) -> bytes:
        """The document."""
        return orjson.dumps(
            {"kind": self.kind, **msgspec.to_builtins(self)}, option=orjson.OPT_SERIALIZE_NUMPY, default=_plain
        )


def _plain(value: object) -> object:
    raise TypeError(f"{type(value).__name__} in an event")


class Report(Event, frozen=True, kw_only=True):
    """One look at one window of one segment, all columns in columns.

    Attributes:
        segment: empty for all rows.
        window_s, start_ms, end_ms: the slice of event time.
        rows, sampled_share: sampled rows, and their share of all rows.
        n_effective: rows that the tests counted on, before overdispersion.
        reference: hash of the reference.
        provisional: whether that was learned from live traffic.
        decided: whether there were enough rows to decide.
        drifted: names of the columns that drifted.
        columns: name -> one value per watched column, ranked by drift: `name`, `p`, `effect`, `effect_kind`, ...
        span: topic -> partition -> [first offset, position after the last], for a replay.
    """

    kind: ClassVar[str] = "report"
    topic_role: ClassVar[TopicRole] = "reports"

    segment: str
    window_s: float
    start_ms: int
    end_ms: int
    rows: int
    sampled_share: float
    n_effective: float
    reference: str
    provisional: bool
    decided: bool
    drifted: list[str]
    columns: dict[str, list[object]]
    span: dict[str, dict[str, list[int]]]


class PerformanceReport(Event, frozen=True, kw_only=True):
    """How well the model did, by labels and by estimate, in one window.

    Attributes:
        labels: rows with a label.
        realised, estimated: figure -> value, low, high, n.
        gap: realised less expected accuracy of the rows with labels, and its p-value.
        fairness: rates of the values of protected features against the most frequent value, with intervals.
    """

    kind: ClassVar[str] = "performance"
    topic_role: ClassVar[TopicRole] = "reports"

    segment: str
    window_s: float
    end_ms: int
    labels: int
    realised: dict[str, object]
    estimated: dict[str, object]
    gap: dict[str, object] | None
    fairness: list[dict[str, object]]


class Alert(Event, frozen=True, kw_only=True):
    """An incident opened, worsened or cleared. One that opened is a page.

    Attributes:
        incident: its id, the same for all alerts of an incident and for a repetition of the same run.
        sequence: 0 for `opened`, then counted.
        alert: what happened.
        at_ms: event time of the look.
        severity: `warning` or `critical`.
        title: one sentence.
        reasons: what speaks for it, the strongest first.
        span: topic -> partition -> [first offset, position after the last].
    """

    kind: ClassVar[str] = "alert"
    topic_role: ClassVar[TopicRole] = "alerts"

    incident: str
    sequence: int
    alert: AlertKind
    at_ms: int
    opened_ms: int
    severity: str
    title: str
    reasons: list[dict[str, object]]
    span: dict[str, dict[str, list[int]]]


class RetrainRequest(Event, frozen=True, kw_only=True):
    """Train anew, and why."""

    kind: ClassVar[str] = "retrain"
    topic_role: ClassVar[TopicRole] = "alerts"

    reason: str
    at_ms: int
    evidence: dict[str, object]


class LabelRequest(Event, frozen=True, kw_only=True):
    """A sample that is worth a label."""

    kind: ClassVar[str] = "label_request"
    topic_role: ClassVar[TopicRole] = "samples"

    id: str
    event_time_ms: int
    why: Literal["uncertain", "unlike"]
    score: float
    source: list[object]


class ReferenceLearned(Event, frozen=True, kw_only=True):
    """A provisional reference, as its file would say it."""

    kind: ClassVar[str] = "reference"
    topic_role: ClassVar[TopicRole] = "reports"

    reference: str
    document: dict[str, object]


class State(Event, frozen=True, kw_only=True):
    """What a successor needs to go on: marks, looks done, open incidents, detectors.

    Attributes:
        partition: of the samples topic.
        resume: offset in it from which the panes can be rebuilt.
        state: the monitor's own document.
    """

    kind: ClassVar[str] = "state"
    topic_role: ClassVar[TopicRole] = "reports"

    resume: int
    state: dict[str, object]
