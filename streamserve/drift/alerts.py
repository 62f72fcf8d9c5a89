"""An incident's events in words: severity, title, reasons."""

from __future__ import annotations

from streamserve.drift.events import Alert
from streamserve.drift.incidents import IncidentEvent, Reason
from streamserve.drift.schema import OUTPUT_PREFIX
from streamserve.drift.version_watch import Identity

MAX_REASONS = 30
"""Reasons that an alert names; of a wide model hundreds may move at once."""
SpanDocument = dict[str, dict[str, list[int]]]
"""Topic -> partition -> [first offset, position after the last]."""
CRITICAL_SEVERITY = 10.0
"""A reason so many times over its floor makes an incident critical; so does one about labels."""


def alert_of(identity: Identity, event: IncidentEvent, sequence: int, span: SpanDocument) -> Alert:
    """The alert of an event of the book, the `sequence`-th of its incident."""
    return Alert(
        pipeline=identity.pipeline,
        model=identity.model,
        version=identity.version,
        incident=event.incident,
        sequence=sequence,
        alert=event.kind,
        at_ms=event.at_ms,
        opened_ms=event.opened_ms,
        severity=severity_of(event.reasons),
        title=title_of(identity, event.reasons),
        reasons=[reason_document(reason) for reason in event.reasons[:MAX_REASONS]],
        span=span,
    )


def severity_of(reasons: tuple[Reason, ...]) -> str:
    """`critical` or `warning`."""
    bad = any(reason.severity >= CRITICAL_SEVERITY or reason.source == "labels" for reason in reasons)
    return "critical" if bad else "warning"


def title_of(identity: Identity, reasons: tuple[Reason, ...]) -> str:
    """One sentence: what, of which model version, and how much more."""
    if reasons and reasons[0].source == "labels":
        return f"{identity.model} {identity.version}: more errors than usual"
    subjects = list(dict.fromkeys(reason.subject for reason in reasons))
    shown = ", ".join(subjects[:3]) + (f" and {len(subjects) - 3} more" if len(subjects) > 3 else "")
    return f"{identity.model} {identity.version}: {_verb(reasons)} {shown}"


def _verb(reasons: tuple[Reason, ...]) -> str:
    match reasons[0].source if reasons else "":
        case "quality":
            return "more rejects of"
        case "canary":
            return "the canary differs in"
        case _:
            return "drift of"


def reason_document(reason: Reason) -> dict[str, object]:
    """JSON of a reason."""
    return {
        "kind": kind_of(reason),
        "column": reason.subject,
        "segment": reason.segment,
        "window_s": reason.window_s,
        "severity": round(reason.severity, 3),
        "since_ms": reason.first_ms,
        "last_ms": reason.last_ms,
        "detail": reason.detail,
    }


def kind_of(reason: Reason) -> str:
    """Which kind of drift it is."""
    if reason.source == "drift":
        if reason.segment:
            return "segment"
        return "prediction" if reason.subject.startswith(OUTPUT_PREFIX) else "data"
    return {"labels": "concept"}.get(reason.source, reason.source)
