"""What the sidecar has told, read from its topics as any consumer would: looks, drifted columns, incidents."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from streamserve.config.drift_topics import DriftTopics
from streamserve.kafka.clients import Properties
from streamserve.kafka.reading import read_topic

NAMED = 4
"""So many columns are named in a line."""


class _Report(msgspec.Struct, tag_field="kind", tag="report"):
    drifted: list[str]


class _Reason(msgspec.Struct):
    column: str


class _Alert(msgspec.Struct, tag_field="kind", tag="alert"):
    alert: str
    reasons: list[_Reason]


class _Kind(msgspec.Struct):
    kind: str


_kinds = msgspec.json.Decoder(_Kind)
_reports = msgspec.json.Decoder(_Report)
_alerts = msgspec.json.Decoder(_Alert)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What stands in the reports and alerts topics.

    Attributes:
        looks: looks at a window that were reported.
        drifted: columns that drifted in a look, sorted.
        incidents: incidents that were opened.
        named: what the alerts name, the newest alert's strongest reason first.
    """

    looks: int = 0
    drifted: tuple[str, ...] = ()
    incidents: int = 0
    named: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftFigures:
    """The drift part of a summary.

    Attributes:
        told: what the sidecar told.
        labels: labels published.
        joined: labels that found their predictions.
        dashboard: address of the page.
    """

    told: Told
    labels: int
    joined: int
    dashboard: str

    def document(self) -> dict[str, object]:
        """For `--format json`."""
        return {
            "looks": self.told.looks,
            "drifted": list(self.told.drifted),
            "incidents": self.told.incidents,
            "named": list(self.told.named),
            "labels": self.labels,
            "labels_joined": self.joined,
            "dashboard": self.dashboard,
        }

    def rows(self) -> list[tuple[str, str, str]]:
        """For people: name, figure, remark."""
        found = self.told
        columns = "1 column" if len(found.drifted) == 1 else f"{len(found.drifted)} columns"
        incidents = "1 incident" if found.incidents == 1 else f"{found.incidents or 'no'} incidents"
        about = f" about {_few(found.named)}" if found.named else ""
        return [
            ("drift looks", f"{found.looks:,}", f"{columns} drifted; {incidents}{about}"),
            ("labels", f"{self.labels:,}", f"{self.joined:,} joined with their predictions"),
        ]


def read_drift(properties: Properties, topics: DriftTopics) -> Told:
    """Both topics from beginning to end.

    Raises:
        BrokerUnavailable, SourceError: the topics cannot be read.
    """
    reports, alerts = (
        [record.value for record in read_topic(properties, topic) if record.value is not None]
        for topic in (topics.reports, topics.alerts)
    )
    return told(reports, alerts)


def told(reports: Iterable[bytes], alerts: Iterable[bytes]) -> Told:
    """Counted from the records' values; other kinds than reports and alerts are passed over."""
    looks = [_reports.decode(value) for value in reports if _kinds.decode(value).kind == "report"]
    pages = [_alerts.decode(value) for value in alerts if _kinds.decode(value).kind == "alert"]
    return Told(
        looks=len(looks),
        drifted=tuple(sorted({name for look in looks for name in look.drifted})),
        incidents=sum(page.alert == "opened" for page in pages),
        named=tuple(dict.fromkeys(reason.column for page in reversed(pages) for reason in page.reasons)),
    )


def _few(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
