"""What goes back from the monitor to the model: requests to train anew, and rows to be labelled by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from streamserve.config.drift_settings import DriftSettings
from streamserve.drift.cells import CONFIDENCE, Cells
from streamserve.drift.events import Event, LabelRequest
from streamserve.drift.gathered import Rows
from streamserve.drift.labelling import Candidate, Labelling, Why
from streamserve.drift.metrics import Metric
from streamserve.drift.retrain import Retraining
from streamserve.drift.segments import ALL
from streamserve.drift.version_watch import Identity, Look, VersionWatch
from streamserve.drift.windows import stride_panes

MOST_OFFERED = 200
"""Rows of a chunk that are considered for labelling."""


class LoopsBack:
    """Of one model, for all its versions."""

    def __init__(self, settings: DriftSettings) -> None:
        self._settings = settings
        self._retraining: dict[str, Retraining] = {}
        self._labelling: dict[str, Labelling] = {}

    def came(self, watch: VersionWatch, rows: Rows) -> None:
        """Rows came: some of them may be worth a label."""
        if self._settings.labelling is None or watch.reference is None or not len(rows):
            return
        version = watch.identity.version
        if version not in self._labelling:
            self._labelling[version] = Labelling(self._settings.labelling, watch.reference.counts)
        some = rows.take(np.arange(0, len(rows), max(len(rows) // MOST_OFFERED, 1)))
        codes, _ = Cells(watch.reference.columns).of(some.columns, len(some))
        confidence = some.columns.get(CONFIDENCE)
        sources = [
            (some.spans[span].topic, some.spans[span].partition, offset)
            for span, offset in zip(some.span.tolist(), some.offset.tolist(), strict=True)
        ]
        self._labelling[version].offer(
            codes,
            confidence.astype(np.float64) if isinstance(confidence, np.ndarray) else None,
            list(some.id),
            some.event_time_ms,
            sources,
        )

    def looked(
        self,
        watch: VersionWatch,
        end_ms: int,
        looks: Sequence[Look],
        *,
        opened_ms: int | None,
        incident: Mapping[str, Any] | None,
        figures: Mapping[str, Metric],
    ) -> list[Event]:
        """What is asked for after the looks that end together.

        Args:
            watch: the version.
            end_ms: their end.
            looks: at all windows and segments.
            opened_ms: since when an incident is open.
            incident: its last alert.
            figures: performance in the longest of the windows, by labels.
        """
        who, shortest = watch.identity, self._settings.windows_s[0]
        events: list[Event] = []
        request = self._retrain(who.version).ask(
            who, end_ms, opened_ms=opened_ms, incident=incident, performance=figures
        )
        if request is not None:
            events.append(request)
        labelling = self._labelling.get(who.version)
        if labelling is not None and any(look.due.window_s == shortest and look.due.segment == ALL for look in looks):
            chosen = labelling.spend(stride_panes(shortest, self._settings.pane_s) * self._settings.pane_s)
            events += [_label_request(who, why, each) for why, each in chosen]
        return events

    def forget(self, version: str) -> None:
        """A version is not watched any more."""
        self._retraining.pop(version, None)
        self._labelling.pop(version, None)

    def to_document(self) -> dict[str, dict[str, int | None]]:
        """JSON."""
        return {version: each.to_document() for version, each in self._retraining.items()}

    def restore(self, document: Mapping[str, Mapping[str, int | None]]) -> None:
        """Go on from what `to_document` gave."""
        for version, asked in document.items():
            self._retrain(version).restore(asked)

    def _retrain(self, version: str) -> Retraining:
        if version not in self._retraining:
            self._retraining[version] = Retraining(self._settings.retrain)
        return self._retraining[version]


def _label_request(who: Identity, why: Why, candidate: Candidate) -> LabelRequest:
    return LabelRequest(
        pipeline=who.pipeline,
        model=who.model,
        version=who.version,
        id=candidate.id,
        event_time_ms=candidate.event_time_ms,
        why=why,
        score=candidate.score,
        source=list(candidate.source),
    )
