"""One model under watch, all its versions: chunks in, reports and alerts out.

The state is a function of the chunks alone, in the order of the samples topic: event time moves it, never the clock on
the wall. So a successor that reads the same chunks again from the resume point comes to the same counts, and with the
looks, incidents and marks of the last state goes on where its predecessor stopped, without a word twice.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from typing import Any, Protocol

import msgspec
import numpy as np

from streamserve.batch import I64
from streamserve.config.drift_settings import DriftSettings, LabelSettings
from streamserve.drift.alerts import SpanDocument, alert_of
from streamserve.drift.chunk import SampleChunk
from streamserve.drift.events import Event, ReferenceLearned, State
from streamserve.drift.gathered import Rows, Volume
from streamserve.drift.incidents import IncidentBook, IncidentEvent, Signal
from streamserve.drift.loops_back import LoopsBack
from streamserve.drift.marks import Marks, MarksDocument
from streamserve.drift.metrics import metrics
from streamserve.drift.outcomes import Outcomes
from streamserve.drift.quality import reject_signals
from streamserve.drift.ranking import report_of
from streamserve.drift.reference import Reference
from streamserve.drift.resume import Resume, ResumePoint
from streamserve.drift.segments import ALL
from streamserve.drift.tally import Tally
from streamserve.drift.timeline import Timeline
from streamserve.drift.traffic import Traffic
from streamserve.drift.version_watch import Beside, Identity, Look, VersionWatch, WindowKey

RESUME_POINTS = 500
MAX_UNKNOWN = 100
"""Unknown references that are remembered, so that each is counted once."""
LEARNING_HORIZONS = 4
"""While a version learns, a successor reads so many times the longest window again, to learn the same."""
MAX_TOLD = 50
"""Alerts that the page can show again after a restart."""
MAX_VERSIONS = 8
"""Versions watched at once; the one that was quiet longest leaves for a new one."""


class References(Protocol):
    """Where references come from."""

    def find(self, model: str, version: str) -> Reference | None:
        """The reference of a version, if it has one."""
        ...


@dataclass(slots=True)
class Counts:
    """What came in, for metrics and the page."""

    chunks: int = 0
    duplicates: int = 0
    unknown_reference: int = 0
    rows: int = 0


class StateDocument(msgspec.Struct, frozen=True, kw_only=True):
    """`State.state`: everything that cannot be had from the chunks again."""

    marks: MarksDocument
    newest_pane: int
    watermark_ms: int | None
    looked: dict[str, dict[str, int]]
    first_ms: dict[str, int | None]
    newest_ms: dict[str, int]
    recent: list[int]
    incidents: dict[str, dict[str, object]]
    told: list[dict[str, Any]]
    rows: int
    outcomes: dict[str, Any] | None
    retraining: dict[str, dict[str, int | None]]


class ModelMonitor:
    """Watches one model.

    Args:
        pipeline, model: who.
        settings: the drift block.
        references: where references come from.
    """

    def __init__(self, pipeline: str, model: str, settings: DriftSettings, references: References) -> None:
        self.pipeline = pipeline
        self.model = model
        self.settings = settings
        self._references = references
        self._pane_ms = round(settings.pane_s * 1000)
        lateness_s = settings.pane_s if settings.lateness_s is None else settings.lateness_s
        self._lateness_ms = round(lateness_s * 1000)
        self._horizon_ms = round(max(settings.windows_s) * 1000) + self._lateness_ms
        self.timeline = Timeline(horizon_ms=self._horizon_ms)
        self._marks = Marks()
        labels = settings.labels
        self._wait_ms = 0 if labels is None else round(labels.wait_s * 1000)
        self._resume = Resume(self._resume_step())
        self.outcomes = None if labels is None else Outcomes(settings, labels)
        self._loops = LoopsBack(settings)
        self.versions: dict[str, VersionWatch] = {}
        self.books: dict[str, IncidentBook] = {}
        self._looked: dict[str, dict[WindowKey, int]] = {}
        self._unknown: set[tuple[str, str]] = set()
        self._served_ms: dict[str, int] = {}
        self._first_ms: dict[str, int | None] = {}
        self._learned: dict[str, Reference] = {}
        self._stable = ""
        self.told: deque[dict[str, Any]] = deque(maxlen=MAX_TOLD)
        self.traffic = Traffic()
        self.counts = Counts()

    # -- an earlier life -----------------------------------------------------------------------------------------

    def restore(self, state: State, learned: Mapping[str, Reference]) -> int:
        """Take over from an earlier life. Returns: the samples offset from which to read again."""
        document = msgspec.convert(state.state, StateDocument)
        self._marks = Marks(document.marks)
        self.timeline.watermark_ms, self.timeline.recent = document.watermark_ms, list(document.recent)
        self.counts.rows = document.rows
        self._resume = Resume(
            self._resume_step(),
            ResumePoint(
                offset=state.resume,
                newest_pane=document.newest_pane,
                marks=document.marks,
                watermark_ms=document.watermark_ms,
                rows=document.rows,
                recent=document.recent,
            ),
        )
        self._served_ms = dict(document.newest_ms)
        if self.outcomes is not None and document.outcomes is not None:
            self.outcomes.restore(document.outcomes)
        self._loops.restore(document.retraining)
        self._first_ms = dict(document.first_ms)
        self._looked = {
            version: {_key(text): slot for text, slot in slots.items()} for version, slots in document.looked.items()
        }
        for version, book in document.incidents.items():
            self._book(version).restore(book)
        self.told.extend(document.told)
        self._learned = dict(learned)
        return state.resume

    def state(self) -> State | None:
        """What a successor needs; None before the first chunk."""
        newest = min(self._resume.newest_pane, (self.timeline.watermark_ms or 0) // self._pane_ms)
        panes = self._horizon_ms // self._pane_ms + 2
        if any(watch.reference is None for watch in self.versions.values()):
            panes *= LEARNING_HORIZONS
        point = self._resume.point(
            newest - panes,
            rather=newest - panes - self._wait_ms // self._pane_ms,
            rows=self.counts.rows,
            most_rows=0 if self.settings.labels is None else self.settings.labels.max_waiting,
        )
        if point is None:
            return None
        document = StateDocument(
            marks=point.marks,
            newest_pane=point.newest_pane,
            watermark_ms=point.watermark_ms,
            looked={
                version: {_text(key): slot for key, slot in watch.looked.items()}
                for version, watch in self.versions.items()
            },
            first_ms={version: watch.first_ms for version, watch in self.versions.items()},
            newest_ms=dict(self._served_ms),
            recent=point.recent,
            incidents={version: book.to_document() for version, book in self.books.items()},
            told=list(self.told),
            rows=point.rows,
            outcomes=None if self.outcomes is None else self.outcomes.to_document(),
            retraining=self._loops.to_document(),
        )
        return State(
            pipeline=self.pipeline,
            model=self.model,
            version="",
            resume=point.offset,
            state=msgspec.to_builtins(document),
        )

    # -- chunks --------------------------------------------------------------------------------------------------

    def chunk(self, chunk: SampleChunk, offset: int, wall_ms: int) -> list[Event]:
        """Merge a chunk, look at what is due. Returns: what there is to tell, to be published as one."""
        before = ResumePoint(
            offset=offset,
            newest_pane=self._resume.newest_pane,
            marks=self._marks.to_document(),
            watermark_ms=self.timeline.watermark_ms,
            rows=self.counts.rows,
            recent=list(self.timeline.recent),
        )
        fresh_rows, fresh_spans = self._marks.take(chunk)
        if not any(fresh_spans) and not fresh_rows.any():
            self.counts.duplicates += 1
            return []
        self.counts.chunks += 1
        in_time, went_back = self.timeline.accept(chunk.event_time_ms, chunk.written_ms)
        if went_back:
            for watch in self.versions.values():
                watch.clear()
            before = replace(before, newest_pane=-1, watermark_ms=None, recent=[])
            self._resume = Resume(self._resume_step())
            for book in self.books.values():
                book.went_back(self.timeline.watermark_ms or 0)
        watch = self._watch(chunk)
        rows = self._rows(chunk, np.flatnonzero(fresh_rows & in_time), watch.reference)
        self.counts.rows += len(rows)
        consumed = sum(span.consumed for span, new in zip(chunk.spans, fresh_spans, strict=True) if new)
        self.traffic.add(chunk, consumed, wall_ms)
        watermark_ms = self.timeline.watermark_ms
        if watermark_ms is None:
            return []
        newest = int(rows.event_time_ms.max()) // self._pane_ms if len(rows) else before.newest_pane
        self._resume.note(before, newest)
        events: list[Event] = []
        rejects: Counter[tuple[str, str]] = Counter()
        if all(fresh_spans):
            for each in chunk.rejects:
                rejects[each.feature, each.reason] += each.count
        learned = watch.add(rows, Volume(at_ms=watermark_ms, consumed=consumed, rejects=rejects), watermark_ms, wall_ms)
        self._served_ms[chunk.version] = max(self._served_ms.get(chunk.version, 0), watch.newest_ms)
        if learned is not None:
            events.append(self._learned_event(learned))
            self._set_beside()
        if self.outcomes is not None:
            self.outcomes.predicted(watch, rows, watermark_ms)
            self.outcomes.release(watermark_ms)
        self._loops.came(watch, rows)
        events += self._looks(watermark_ms - self._lateness_ms)
        events += self._retired(watermark_ms)
        if events:
            state = self.state()
            events += [state] if state is not None else []
        return events

    def _rows(self, chunk: SampleChunk, index: I64, reference: Reference | None) -> Rows:
        labels = self.settings.labels
        if labels is None and reference is not None and reference.document.derived_by:
            labels = LabelSettings.model_validate(reference.document.derived_by)
        return Rows.of(chunk, labels).take(index)

    def _watch(self, chunk: SampleChunk) -> VersionWatch:
        watch = self.versions.get(chunk.version)
        if watch is not None:
            self._follow_reference(watch, chunk.reference)
            changed = watch.identity.role != chunk.role
            if changed:
                watch.identity = replace(watch.identity, role=chunk.role)
            if changed or (chunk.role == "stable" and chunk.version != self._stable):
                self._set_beside(chunk)
            return watch
        if len(self.versions) >= MAX_VERSIONS:
            quiet = min(self.versions, key=lambda version: self.versions[version].newest_ms)
            del self.versions[quiet]
            self._marks.forget(quiet)
            self._loops.forget(quiet)
        identity = Identity(pipeline=self.pipeline, model=self.model, version=chunk.version, role=chunk.role)
        reference = self._references.find(self.model, chunk.version) or self._learned.get(chunk.version)
        watch = VersionWatch(identity, self.settings, reference, self._looked.get(chunk.version))
        self._follow_reference(watch, chunk.reference)
        if chunk.version in self._first_ms:
            watch.first_ms = self._first_ms[chunk.version]
        self.versions[chunk.version] = watch
        self._set_beside(chunk)
        return watch

    def _follow_reference(self, watch: VersionWatch, wanted: str) -> None:
        """A worker names another reference than the one in use: adopt it when it is there; each is counted once."""
        known = watch.reference.hash if watch.reference is not None else ""
        if wanted in {"", known}:
            return
        found = self._references.find(self.model, watch.identity.version)
        if found is not None and found.hash == wanted:
            watch.adopt(found)
            self._set_beside()
        elif (asked := (watch.identity.version, wanted)) not in self._unknown:
            self.counts.unknown_reference += 1
            if len(self._unknown) < MAX_UNKNOWN:
                self._unknown.add(asked)

    def _set_beside(self, chunk: SampleChunk | None = None) -> None:
        """Canaries are compared with the version that is stable by the newest chunk, if it has a reference."""
        if chunk is not None and chunk.role == "stable":
            self._stable = chunk.version
        stable = self.versions.get(self._stable)
        newest = stable if stable is not None and stable.reference is not None else None
        for watch in self.versions.values():
            if watch.identity.role != "canary" or newest is None:
                watch.beside = None
            elif watch.beside is None or not watch.beside.is_of(newest):
                watch.beside = Beside(newest, self.settings)

    # -- looks ---------------------------------------------------------------------------------------------------

    def _looks(self, up_to_ms: int) -> list[Event]:
        """Look at all windows that ended by then, in order of their ends."""
        due = [(each.end_ms, name, each) for name, watch in self.versions.items() for each in watch.due(up_to_ms)]
        events: list[Event] = []
        for end_ms, ending in groupby(sorted(due, key=itemgetter(0, 1)), key=itemgetter(0)):
            looks: dict[str, list[Look]] = {}
            for _, name, each in ending:
                look = self.versions[name].look(each)
                events.append(report_of(self.versions[name], look, self.settings.effects))
                looks.setdefault(name, []).append(look)
            for watch in self.versions.values():
                events += self._judge(watch, end_ms, looks)
        return events

    def _judge(self, watch: VersionWatch, end_ms: int, looks: Mapping[str, list[Look]]) -> list[Event]:
        """What the looks that end together make of a version's incident."""
        own = looks.get(watch.identity.version, [])
        signals = self._quality(watch, own)
        if self.outcomes is not None and own:
            signals += self.outcomes.signals(watch, [look.due for look in own if look.due.segment == ALL])
        if watch.beside is not None:
            signals += watch.beside.signals(looks.get(watch.beside.watch.identity.version, []))
        if not own and not signals:
            return []
        names = watch.reference.names if watch.reference is not None else ()
        book = self._book(watch.identity.version)
        told = book.update(end_ms, [look.verdict for look in own], names, signals)
        span = next((look.pane.span_document() for look in own if look.due.segment == ALL), {})
        events = self._alerts(watch.identity, told, span)
        if self.outcomes is not None:
            events += filter(None, [self.outcomes.report(watch, look) for look in own])
        longest = [look for look in own if look.due.segment == ALL][-1:]
        tally = self.tally(watch.identity.version, longest[0]) if longest else None
        newest = next((each for each in reversed(self.told) if each["incident"] == book.incident), None)
        return events + self._loops.looked(
            watch,
            end_ms,
            own,
            opened_ms=book.opened_ms,
            incident=newest,
            figures=metrics(tally.realised) if tally is not None else {},
        )

    def tally(self, version: str, look: Look) -> Tally | None:
        """Performance in the window of a look."""
        if self.outcomes is None:
            return None
        return self.outcomes.tally(version, look.due.window_s, look.due.segment, look.due.end_ms)

    def _retired(self, watermark_ms: int) -> list[Event]:
        """Incidents of versions that are not served any more are over."""
        gone = [name for name, served_ms in self._served_ms.items() if watermark_ms - served_ms > self._horizon_ms]
        events: list[Event] = []
        for version in gone:
            who = Identity(pipeline=self.pipeline, model=self.model, version=version)
            events += self._alerts(who, self._book(version).retire(watermark_ms), {})
            if version not in self.versions:
                del self.books[version], self._served_ms[version]
        return events

    def _alerts(self, who: Identity, told: Sequence[IncidentEvent], span: SpanDocument) -> list[Event]:
        alerts = [alert_of(who, each, self._sequence(each.incident), span) for each in told]
        self.told.extend(msgspec.to_builtins(alert) for alert in alerts)
        return list(alerts)

    # -- labels --------------------------------------------------------------------------------------------------

    def labels(self, records: Sequence[tuple[int, int, bytes | None]]) -> None:
        """Take in messages of the labels topic: partition, offset and value of each."""
        if self.outcomes is not None:
            now_ms = self.timeline.watermark_ms or 0
            self.outcomes.labelled(records, now_ms)
            self.outcomes.release(now_ms)

    def _resume_step(self) -> int:
        """Panes between two resume points, so that there are at most about `RESUME_POINTS`."""
        return max(1, (self._horizon_ms + self._wait_ms) // self._pane_ms // RESUME_POINTS)

    def _sequence(self, incident: str) -> int:
        """How many alerts of an incident there were."""
        before: int = max((each["sequence"] for each in self.told if each["incident"] == incident), default=-1)
        return before + 1

    def _quality(self, watch: VersionWatch, looks: list[Look]) -> list[Signal]:
        usual = watch.latest.get((self.settings.windows_s[-1], ALL))
        if usual is None:
            return []
        return [
            signal
            for look in looks
            if not look.due.segment and look.due.window_s != usual.due.window_s
            for signal in reject_signals(
                look.pane,
                usual.pane,
                window_s=look.due.window_s,
                floor=self.settings.effects.share,
                alpha=look.verdict.alpha,
            )
        ]

    def _book(self, version: str) -> IncidentBook:
        if version not in self.books:
            self.books[version] = IncidentBook(self.pipeline, self.model, version)
        return self.books[version]

    def _learned_event(self, reference: Reference) -> ReferenceLearned:
        return ReferenceLearned(
            pipeline=self.pipeline,
            model=self.model,
            version=reference.version,
            reference=reference.hash,
            document=msgspec.to_builtins(reference.document),
        )


def _text(key: WindowKey) -> str:
    return f"{key[0]!r}|{key[1]}"


def _key(text: str) -> WindowKey:
    window_s, _, segment = text.partition("|")
    return float(window_s), segment
