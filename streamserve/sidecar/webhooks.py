"""What a webhook is sent for an alert: Alertmanager's API (v2) or the alert as it stands on its topic.

Alertmanager closes an alert that nobody repeats, so an open incident is given an end far ahead. It tells alerts apart
by their labels; severity is one of them, so an incident that worsens ends the alert of the other severity.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

import orjson

OPEN_FOR = timedelta(days=30)
SEVERITIES = ("warning", "critical")
LAST_MS = 200_000_000_000_000
"""In the year 8307; calendars end in 9999."""
JSON_TYPE = "application/json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """The fields of an alert that a webhook needs.

    Attributes:
        incident, sequence: tell it from every other alert.
        value: the whole record.
    """

    incident: str
    sequence: int
    what: Literal["opened", "worsened", "cleared"]
    pipeline: str
    model: str
    version: str
    severity: str
    title: str
    at_ms: int
    opened_ms: int
    value: bytes

    @property
    def idempotency_key(self) -> str:
        """The same whenever the same alert is sent again."""
        return f"{self.incident}.{self.sequence}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is posted."""

    body: bytes
    idempotency_key: str


def read_alert(value: bytes) -> Alert | None:
    """An incident's alert out of a record of the alerts topic; None for other records."""
    try:
        document = orjson.loads(value)
        what = document["alert"]
        if document["kind"] != "alert" or what not in {"opened", "worsened", "cleared"}:
            return None
        texts = {name: str(document[name]) for name in ("pipeline", "model", "version", "severity", "title")}
        return Alert(
            incident=str(document["incident"]),
            sequence=int(document["sequence"]),
            what=what,
            at_ms=_time(document["at_ms"]),
            opened_ms=_time(document["opened_ms"]),
            value=value,
            **texts,
        )
    except (KeyError, TypeError, ValueError):  # a JSON error is a ValueError
        return None


def _time(value: object) -> int:
    """Epoch milliseconds that a calendar knows. Raises: TypeError, ValueError."""
    if not isinstance(value, int) or not 0 <= value <= LAST_MS:
        raise ValueError(f"{value!r} is no time")
    return value


def request_for(value: bytes, place: str, style: Literal["alertmanager", "json"], dashboard: str) -> Request | None:
    """What to post for a record of the alerts topic; None when there is nothing to say.

    Args:
        value: the record's value.
        place: topic, partition and offset, which tell apart records that are no incident's alert.
        style: the webhook's format.
        dashboard: address of the page.
    """
    alert = read_alert(value)
    if style == "alertmanager":
        if alert is None:
            return None
        return Request(body=alertmanager_body(alert, dashboard), idempotency_key=alert.idempotency_key)
    if alert is None and not _is_document(value):
        return None
    return Request(body=value, idempotency_key=alert.idempotency_key if alert is not None else place)


def alertmanager_body(alert: Alert, dashboard: str) -> bytes:
    """The body for `POST /api/v2/alerts`."""
    starts = datetime.fromtimestamp(alert.opened_ms / 1000, UTC)
    now = max(starts, datetime.fromtimestamp(alert.at_ms / 1000, UTC))
    cleared = alert.what == "cleared"
    alerts = [_entry(alert, alert.severity, starts, now if cleared else now + OPEN_FOR, dashboard)]
    if alert.what != "opened":
        alerts += [_entry(alert, other, starts, now, dashboard) for other in SEVERITIES if other != alert.severity]
    return orjson.dumps(alerts)


def _entry(alert: Alert, severity: str, starts: datetime, ends: datetime, dashboard: str) -> Mapping[str, object]:
    return {
        "labels": {
            "alertname": "StreamserveDrift",
            "pipeline": alert.pipeline,
            "model": alert.model,
            "version": alert.version,
            "incident": alert.incident,
            "severity": severity,
        },
        "annotations": {"summary": alert.title, "dashboard": dashboard},
        "startsAt": starts.isoformat(timespec="milliseconds"),
        "endsAt": ends.isoformat(timespec="milliseconds"),
        "generatorURL": dashboard,
    }


def _is_document(value: bytes) -> bool:
    try:
        return isinstance(orjson.loads(value), dict)
    except orjson.JSONDecodeError:
        return False
