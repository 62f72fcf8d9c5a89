"""One page for what is one event: the incidents of a model version, opened, worsened, cleared.

Verdicts of all columns, windows and segments, and reasons of other sources (detectors on labels, quality, staleness),
join the incident that is open. It clears when nothing that belongs to it was near drift for as long as the longest
window that raised it. The book is a pure state machine over event time: it reads no clock, its identifiers follow from
what it is told, and its state is JSON, so that a process that starts again goes on where the last one stopped and pages
nobody twice. It does not decide what drift is (`decision`) and sends nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal

import numpy as np

from streamserve.drift.decision import Verdict

IncidentKind = Literal["opened", "worsened", "cleared"]
DRIFT: Final = "drift"
"""Source of the reasons that come of verdicts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """A reason of any source, at one moment.

    Attributes:
        source: who says so: `drift`, `labels`, `quality`, `stale`, `canary`.
        subject: of what: a column, a metric, a topic.
        severity: how bad, in multiples of what would be told at all; at least 1 when loud.
        hold_s: it must have been quiet for so long before its incident may clear.
        loud: true: it is there; false: it is known to be quiet (a signal that is not sent is neither).
        opens: whether it may open an incident; else it only keeps an open one from clearing.
        window_s: seconds of the window, 0 where there is none.
        segment: name of the segment, empty for the whole model.
        detail: one line for people.
    """

    source: str
    subject: str
    severity: float = 1.0
    hold_s: float = 0.0
    loud: bool = True
    opens: bool = True
    window_s: float = 0.0
    segment: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why an incident is open: one source and subject, over all windows and segments.

    Attributes:
        source: who said so.
        subject: of what.
        segment: where it was worst.
        window_s: seconds of the window in which it was worst, 0 where there is none.
        severity: the worst so far, in multiples of what would be told at all.
        first_ms: event time of the first time.
        last_ms: event time of the last time.
        detail: one line for people, of the worst time.
    """

    source: str
    subject: str
    segment: str
    window_s: float
    severity: float
    first_ms: int
    last_ms: int
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IncidentEvent:
    """Something to tell.

    Attributes:
        kind: opened (a page), worsened or cleared.
        incident: identifier, the same for all events of an incident and after a restart.
        at_ms: event time: end of the pane.
        opened_ms: event time at which it opened.
        reasons: all so far, the worst first.
        news: subjects that are new or much worse since the last event.
    """

    kind: IncidentKind
    incident: str
    at_ms: int
    opened_ms: int
    reasons: tuple[Reason, ...]
    news: tuple[str, ...]


class IncidentBook:
    """The open incident of one model version, if any.

    Args:
        pipeline: name of the pipeline, part of the identifiers.
        model: name of the model.
        version: version of the model.
        worsen_every_s: seconds between two events `worsened`, at least.
        worsen_factor: a reason is news again when it is so many times as bad as it was told.
    """

    def __init__(
        self, pipeline: str, model: str, version: str, *, worsen_every_s: float = 600.0, worsen_factor: float = 2.0
    ) -> None:
        self._name = (pipeline, model, version)
        self._worsen_every_ms = round(worsen_every_s * 1000)
        self._worsen_factor = worsen_factor
        self._open: _Open | None = None
        self._seen_ms = -1

    @property
    def incident(self) -> str | None:
        """Identifier of the open incident."""
        return self._open.identifier if self._open else None

    @property
    def opened_ms(self) -> int | None:
        """Event time since when it is open."""
        return self._open.opened_ms if self._open else None

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """Why it is open, the worst first."""
        return self._open.ranked() if self._open else ()

    def update(
        self,
        pane_end_ms: int,
        verdicts: Iterable[Verdict],
        columns: Sequence[str],
        signals: Iterable[Signal] = (),
    ) -> list[IncidentEvent]:
        """Take in all that was found at the end of a pane; at most one event comes of it.

        A pane that is not later than one seen before says nothing new: a replay pages nobody.

        Args:
            pane_end_ms: event time, growing.
            verdicts: of every window and segment that was looked at.
            columns: names of the verdicts' columns.
            signals: of other sources.
        """
        if pane_end_ms <= self._seen_ms:
            return []
        self._seen_ms = pane_end_ms
        known = self._open.subjects() if self._open else frozenset()
        looked = list(verdicts)
        found = [signal for verdict in looked for signal in drift_signals(verdict, columns, known)]
        found.extend(signals)
        loud = [signal for signal in found if signal.loud]
        if self._open is None:
            raised = [signal for signal in loud if signal.opens]
            return [self._opened(pane_end_ms, raised)] if raised else []
        blind = any(source == DRIFT for source, _ in known) and not any(verdict.decided for verdict in looked)
        return self._went_on(self._open, pane_end_ms, loud, blind=blind)

    def went_back(self, at_ms: int) -> None:
        """Event time starts again from here: the time of before was a wrong clock's."""
        self._seen_ms = -1
        if self._open is not None:
            self._open.loud_ms = min(self._open.loud_ms, at_ms)
            self._open.told_ms = min(self._open.told_ms, at_ms)

    def retire(self, at_ms: int) -> list[IncidentEvent]:
        """The version is not served any more: an open incident is over."""
        if self._open is None:
            return []
        event = self._event("cleared", self._open, at_ms)
        self._open = None
        return [event]

    def to_document(self) -> dict[str, Any]:
        """The state, as JSON."""
        current = self._open
        return {
            "seen_ms": self._seen_ms,
            "open": None
            if current is None
            else {
                "identifier": current.identifier,
                "opened_ms": current.opened_ms,
                "loud_ms": current.loud_ms,
                "told_ms": current.told_ms,
                "hold_ms": current.hold_ms,
                "reasons": [asdict(reason) for reason in current.reasons.values()],
                "told": [[source, subject, severity] for (source, subject), severity in current.told.items()],
            },
        }

    def restore(self, document: Mapping[str, Any]) -> None:
        """Go on from a state that `to_document` gave."""
        self._seen_ms = int(document["seen_ms"])
        current = document["open"]
        if current is None:
            self._open = None
            return
        reasons = [Reason(**reason) for reason in current["reasons"]]
        self._open = _Open(
            identifier=current["identifier"],
            opened_ms=current["opened_ms"],
            loud_ms=current["loud_ms"],
            told_ms=current["told_ms"],
            hold_ms=current["hold_ms"],
            reasons={(reason.source, reason.subject): reason for reason in reasons},
            told={(source, subject): severity for source, subject, severity in current["told"]},
        )

    def _opened(self, at_ms: int, raised: list[Signal]) -> IncidentEvent:
        identifier = hashlib.blake2b("\0".join([*self._name, str(at_ms)]).encode(), digest_size=8).hexdigest()
        self._open = _Open(
            identifier=identifier, opened_ms=at_ms, loud_ms=at_ms, told_ms=at_ms, hold_ms=0, reasons={}, told={}
        )
        self._open.join(at_ms, raised)
        return self._event("opened", self._open, at_ms)

    def _went_on(self, current: _Open, at_ms: int, loud: list[Signal], *, blind: bool) -> list[IncidentEvent]:
        current.join(at_ms, loud)
        if loud:
            if at_ms - current.told_ms >= self._worsen_every_ms and current.news(self._worsen_factor):
                return [self._event("worsened", current, at_ms)]
            return []
        if blind or at_ms - current.loud_ms < current.hold_ms:  # without a decision nothing is known to be quiet
            return []
        event = self._event("cleared", current, at_ms)
        self._open = None
        return [event]

    def _event(self, kind: IncidentKind, current: _Open, at_ms: int) -> IncidentEvent:
        news = () if kind == "cleared" else current.news(self._worsen_factor)
        current.told = {key: reason.severity for key, reason in current.reasons.items()}
        current.told_ms = at_ms
        return IncidentEvent(
            kind=kind,
            incident=current.identifier,
            at_ms=at_ms,
            opened_ms=current.opened_ms,
            reasons=current.ranked(),
            news=news,
        )


def drift_signals(verdict: Verdict, columns: Sequence[str], known: frozenset[tuple[str, str]]) -> list[Signal]:
    """A verdict in the book's words: columns that drifted, and columns of the open incident that are not quiet yet.

    Args:
        verdict: of one window and segment.
        columns: names of its columns.
        known: (source, subject) of the open incident's reasons.
    """
    waiting = np.array([(DRIFT, name) in known for name in columns], np.bool_)
    loud = np.flatnonzero(verdict.drifted | (waiting & verdict.decided & ~verdict.quiet))
    return [
        Signal(
            source=DRIFT,
            subject=columns[index],
            severity=float(verdict.severity[index]),
            hold_s=verdict.window_s if verdict.drifted[index] else 0.0,
            opens=bool(verdict.drifted[index]),
            window_s=verdict.window_s,
            segment=verdict.segment,
            detail=f"{verdict.floor_name(int(index))}, p {verdict.p[index]:.1e}",
        )
        for index in loud.tolist()
    ]


@dataclass(slots=True, kw_only=True)
class _Open:
    """The open incident. Mutable, of the book alone."""

    identifier: str
    opened_ms: int
    loud_ms: int
    told_ms: int
    hold_ms: int
    reasons: dict[tuple[str, str], Reason]
    told: dict[tuple[str, str], float]

    def subjects(self) -> frozenset[tuple[str, str]]:
        return frozenset(self.reasons)

    def ranked(self) -> tuple[Reason, ...]:
        return tuple(
            sorted(self.reasons.values(), key=lambda reason: (-reason.severity, reason.source, reason.subject))
        )

    def join(self, at_ms: int, loud: list[Signal]) -> None:
        for signal in loud:
            self.loud_ms = at_ms
            self.hold_ms = max(self.hold_ms, round(signal.hold_s * 1000))
            key = signal.source, signal.subject
            before = self.reasons.get(key)
            if before is not None and (not signal.opens or signal.severity <= before.severity):
                self.reasons[key] = replace(before, last_ms=at_ms)
                continue
            self.reasons[key] = Reason(
                source=signal.source,
                subject=signal.subject,
                segment=signal.segment,
                window_s=signal.window_s,
                severity=signal.severity,
                first_ms=before.first_ms if before else at_ms,
                last_ms=at_ms,
                detail=signal.detail,
            )

    def news(self, factor: float) -> tuple[str, ...]:
        """Subjects that were not told, or not as that bad, the worst first."""
        return tuple(
            reason.subject
            for reason in self.ranked()
            if (reason.source, reason.subject) not in self.told
            or reason.severity >= factor * self.told[reason.source, reason.subject]
        )
