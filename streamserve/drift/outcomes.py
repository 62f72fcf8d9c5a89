"""What came true: labels joined with samples, performance by window and segment, detectors on the errors.

One per model. Its clock is the model's watermark, for predictions and labels alike, so that a replay of a year in
minutes joins like the year did. Panes of performance lie at the event time of the prediction: a label that comes days
later corrects the pane of then, while its window is held.

After a restart predictions and labels are read again, and joined again; `quiet` pairs, whose labels were already read
in the earlier life, fill the panes but are not fed to the detectors a second time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import msgspec
import numpy as np

from streamserve.batch import F64, I64
from streamserve.config.drift_settings import DriftSettings, LabelSettings
from streamserve.drift.adwin import Adwin, AdwinSettings
from streamserve.drift.cells import probability_name
from streamserve.drift.chunk import SampledColumn, TextColumn
from streamserve.drift.detectors import confidence_for
from streamserve.drift.events import PerformanceReport
from streamserve.drift.expected import expect, gap, scores_of
from streamserve.drift.fairness import fairness
from streamserve.drift.gathered import Rows
from streamserve.drift.hddm import HddmA, HddmSettings
from streamserve.drift.incidents import Signal
from streamserve.drift.label_join import JoinSettings, LabelJoin, Predictions
from streamserve.drift.labels import LabelDecoder
from streamserve.drift.metrics import metrics
from streamserve.drift.pairs import Pairs
from streamserve.drift.performance import Performance
from streamserve.drift.performance_history import PerformanceHistory
from streamserve.drift.reference import Reference
from streamserve.drift.segments import ALL
from streamserve.drift.tally import Tally, lasting_signals
from streamserve.drift.task import Task
from streamserve.drift.version_watch import Due, Look, VersionWatch
from streamserve.drift.windows import Ring

WEEK_S = 604_800.0
RECENT_ERRORS = 30


@dataclass(slots=True)
class Seen:
    """A running mean."""

    n: int = 0
    total: float = 0.0

    def add(self, values: F64) -> None:
        """Take in values."""
        self.n += len(values)
        self.total += float(values.sum())

    @property
    def mean(self) -> float:
        """Their mean; 0 before the first."""
        return self.total / self.n if self.n else 0.0


@dataclass(slots=True)
class VersionOutcomes:
    """Of one version.

    Attributes:
        watch: who.
        reference: by whose segments and calibration.
        width: outputs a row.
        task: what is compared.
        rings: performance by window and segment.
        adwin, hddm: detectors on means of `block` errors, which are about independent of each other.
        block: how many errors that takes, by the reference.
        waiting: errors of a block that is not full.
        seen: all errors so far.
        signals: what the detectors said since the last look.
    """

    watch: VersionWatch
    reference: Reference | None
    width: int
    task: Task
    rings: dict[tuple[float, str], Ring[Tally]]
    adwin: Adwin
    hddm: HddmA
    block: int = 1
    waiting: F64 = field(default_factory=lambda: np.zeros(0))
    seen: Seen = field(default_factory=Seen)
    signals: list[Signal] = field(default_factory=list)


class Outcomes:
    """Labels and performance of one model.

    Args:
        settings: the drift block, with labels.
        labels: its labels.
    """

    def __init__(self, settings: DriftSettings, labels: LabelSettings) -> None:
        self._settings = settings
        self._labels = labels
        reorder_ms = round(settings.pane_s * 1000)
        self.join = LabelJoin(
            JoinSettings(wait_ms=round(labels.wait_s * 1000), max_waiting=labels.max_waiting, reorder_ms=reorder_ms)
        )
        self._decoder = LabelDecoder(Task.of(labels, labels_width(labels)))
        self.versions: dict[str, VersionOutcomes] = {}
        self.history: dict[str, PerformanceHistory] = {}
        self._restored: dict[str, dict[str, Any]] = {}
        self._read: dict[int, int] = {}
        self._known_up_to: dict[int, int] = {}

    # -- in ------------------------------------------------------------------------------------------------------

    def predicted(self, watch: VersionWatch, rows: Rows, now_ms: int) -> None:
        """Take in sampled predictions."""
        if not len(rows) or watch.reference is None:
            return  # segments and calibration are the reference's
        outputs = self._outputs(rows.columns, len(rows))
        version = self._version(watch, outputs.shape[1]) if outputs is not None else None
        if outputs is None or version is None:
            return
        weight = np.ldexp(1.0, rows.level)
        groups = watch.segments.codes(rows.columns, len(rows))
        self.join.predicted(
            Predictions(
                version=watch.identity.version,
                id=rows.id,
                event_time_ms=rows.event_time_ms,
                weight=weight,
                outputs=outputs,
                groups=groups,
            ),
            now_ms,
        )
        calibration = watch.reference.calibration
        if calibration is not None and scores_of(version.task, outputs) is not None:
            empty = Performance.empty(version.task)
            for slot, mine in self._slots(rows.event_time_ms):
                for name, some in self._members(watch, groups, mine):
                    expected = expect(version.task, outputs[some], weight[some], calibration)
                    self._put(version, name, slot, Tally(empty.copy(), empty.copy(), expected), now_ms)

    def labelled(self, records: Sequence[tuple[int, int, bytes | None]], now_ms: int) -> None:
        """Take in messages of the labels topic: partition, offset and value of each."""
        self.join.labelled([self._decoder.decode(data) for _, _, data in records], now_ms)
        for partition, offset, _ in records:
            self._read[partition] = max(offset + 1, self._read.get(partition, 0))

    def release(self, now_ms: int) -> None:
        """Let joined pairs go into panes and detectors, in the order of their events."""
        for pairs in self.join.release(now_ms, everything=self.rereading):
            version = self.versions.get(pairs.version)
            if version is not None:
                self._merge(version, pairs, now_ms)
                if not self.rereading:
                    self._detect(version, pairs)

    def reread(self, positions: Mapping[int, int]) -> None:
        """All labels up to these positions were read again, or are gone from the topic."""
        for partition, position in positions.items():
            self._read[partition] = max(position, self._read.get(partition, 0))
        self._known_up_to = {}

    @property
    def rereading(self) -> bool:
        """Whether labels of an earlier life are being read again."""
        return any(self._read.get(partition, 0) < position for partition, position in self._known_up_to.items())

    # -- out -----------------------------------------------------------------------------------------------------

    def signals(self, watch: VersionWatch, windows: Sequence[Due]) -> list[Signal]:
        """What the detectors said since the last time, and windows in which the model does worse than usual."""
        version = watch.identity.version
        found = self.versions.get(version)
        if found is None:
            return []
        said, found.signals = found.signals, []
        tallies = [(due.window_s, self.tally(version, due.window_s, ALL, due.end_ms)) for due in windows]
        if watch.reference is not None:
            said += lasting_signals(watch.reference, tallies, self._settings.effects.share)
        return said

    def tally(self, version: str, window_s: float, segment: str, end_ms: int) -> Tally | None:
        """Performance in the window that ends then."""
        found = self.versions.get(version)
        ring = found.rings.get((window_s, segment)) if found is not None else None
        if found is None or ring is None:
            return None
        whole = Tally.empty(found.task)
        for part in ring.window(ring.slot_of(end_ms) - 1):
            whole.add(part)
        return whole

    def report(self, watch: VersionWatch, look: Look) -> PerformanceReport | None:
        """How well the model did in the window of a look; None without any rows."""
        who, due = watch.identity, look.due
        tally = self.tally(who.version, due.window_s, due.segment, due.end_ms)
        if tally is None or not (tally.realised.sums["rows"] or tally.expected.sums["rows"]):
            return None
        realised = metrics(tally.realised)
        estimated = metrics(tally.estimated) if tally.expected.sums["rows"] else {}
        if due.segment == ALL and due.window_s == self._settings.windows_s[-1]:
            self.history.setdefault(who.version, PerformanceHistory()).add(due.end_ms, realised, estimated)
        difference = gap(tally.realised, tally.expected_of_labelled)
        return PerformanceReport(
            pipeline=who.pipeline,
            model=who.model,
            version=who.version,
            segment=due.segment,
            window_s=due.window_s,
            end_ms=due.end_ms,
            labels=round(tally.realised.sums["rows"]),
            realised=msgspec.to_builtins(realised),
            estimated=msgspec.to_builtins(estimated),
            gap=None if difference is None else msgspec.to_builtins(difference),
            fairness=self._fairness(watch, due) if due.segment == ALL else [],
        )

    def _fairness(self, watch: VersionWatch, due: Due) -> list[dict[str, object]]:
        """Differences between the values of protected features, of a binary task."""
        found: list[dict[str, object]] = []
        for names in watch.segments.protected:
            tallies = {
                name: tally.realised
                for name in names
                if (tally := self.tally(watch.identity.version, due.window_s, name, due.end_ms)) is not None
            }
            if tallies and self._labels.task == "binary":
                found += msgspec.to_builtins(fairness(tallies))
        return found

    def to_document(self) -> dict[str, Any]:
        """JSON: detectors and how far labels were read."""
        return {
            "labels": {
                str(partition): max(self._read.get(partition, 0), self._known_up_to.get(partition, 0))
                for partition in {*self._read, *self._known_up_to}
            },
            "detectors": {
                name: {"adwin": each.adwin.to_document(), "hddm": each.hddm.to_document(), "seen": asdict(each.seen)}
                for name, each in self.versions.items()
            },
        }

    def restore(self, document: Mapping[str, Any]) -> None:
        """Go on from what `to_document` gave."""
        self._known_up_to = {int(partition): int(position) for partition, position in document["labels"].items()}
        self._restored = dict(document["detectors"])

    # ------------------------------------------------------------------------------------------------------------

    def _outputs(self, columns: Mapping[str, SampledColumn], n: int) -> F64 | None:
        """The compared output, float64[n, k]; None when the rows do not have it."""
        name = probability_name(self._labels, columns)
        column = columns.get(name) if name is not None else None
        if column is None or isinstance(column, TextColumn):
            return None
        return column.astype(np.float64, copy=False).reshape(n, -1)

    def _version(self, watch: VersionWatch, width: int) -> VersionOutcomes | None:
        """A version's outcomes; None for rows with another number of outputs than its first ones."""
        name = watch.identity.version
        found = self.versions.get(name)
        if found is not None and found.width != width:
            return None
        if found is not None and found.watch is watch and found.reference is watch.reference:
            return found
        settings = self._settings
        adwin, hddm = self._detectors(watch)
        found = VersionOutcomes(
            watch=watch,
            reference=watch.reference,
            width=width,
            task=Task.of(self._labels, width),
            rings={
                (window_s, segment): Ring(window_s, settings.pane_s)
                for window_s in settings.windows_s
                for segment in watch.segments.names
            },
            adwin=adwin,
            hddm=hddm,
            block=_block(watch),
            seen=Seen(**self._restored.pop(name, {}).get("seen", {})),
        )
        self.versions[name] = found
        for gone in [each for each in self.versions if each not in self._alive(name)]:
            del self.versions[gone]
            self.history.pop(gone, None)
        return found

    def _alive(self, newest: str) -> set[str]:
        """The versions of which predictions come; at most eight, the newest one among them."""
        ranked = sorted(self.versions, key=lambda name: -self.versions[name].watch.newest_ms)
        return {newest, *ranked[:8]}

    def _detectors(self, watch: VersionWatch) -> tuple[Adwin, HddmA]:
        before = self._restored.get(watch.identity.version)
        if before is not None:
            return Adwin.from_document(before["adwin"]), HddmA.from_document(before["hddm"])
        budget = watch.decider.budget.detectors_per_week() / 2
        rate = watch.reference.document.rows_per_s if watch.reference is not None else None
        most = self._settings.samples_per_s
        per_s = min(float(each) for each in (rate, most, 1e6) if isinstance(each, int | float)) / _block(watch)
        sure = {kind: confidence_for(budget, per_s * WEEK_S, detector=kind) for kind in ("adwin", "hddm_a")}
        drift = sure["hddm_a"]
        return Adwin(AdwinSettings(delta=sure["adwin"])), HddmA(HddmSettings(drift=drift, warning=min(5 * drift, 0.5)))

    def _merge(self, version: VersionOutcomes, pairs: Pairs, now_ms: int) -> None:
        watch, task = version.watch, version.task
        calibration = watch.reference.calibration if watch.reference is not None else None
        for slot, mine in self._slots(pairs.event_time_ms):
            for name, some in self._members(watch, pairs.groups, mine):
                weight, outputs = pairs.weight[some], pairs.outputs[some]
                realised = Performance.of(
                    task, outputs, pairs.label[some], weight, value=pairs.value[some], clicked=pairs.clicked[some]
                )
                expected = Performance.empty(task)
                if calibration is not None and scores_of(task, outputs) is not None:
                    expected = expect(task, outputs, weight, calibration)
                self._put(version, name, slot, Tally(realised, expected, Performance.empty(task)), now_ms)

    def _detect(self, version: VersionOutcomes, pairs: Pairs) -> None:
        came = np.concatenate([version.waiting, version.task.errors(pairs.outputs, pairs.label)])
        whole = len(came) - len(came) % version.block
        errors, version.waiting = came[:whole].reshape(-1, version.block).mean(axis=1), came[whole:]
        if not len(errors):
            return
        usual = _usual_errors(version)
        found = []
        if version.adwin.extend(errors):
            found.append(("ADWIN", version.adwin.mean))
        if version.hddm.extend(errors):
            version.hddm.reset()
            found.append(("HDDM-A", float(errors[-RECENT_ERRORS:].mean())))
        version.seen.add(errors)
        for name, rate in found:
            if rate - usual < self._settings.effects.share:
                continue  # fewer errors, or hardly more
            version.signals.append(
                Signal(
                    source="labels",
                    subject="errors",
                    severity=max(rate / max(usual, 1e-6), 1.0),
                    hold_s=max(self._settings.windows_s),
                    detail=f"{name}: {rate:.1%} of the newest predictions are wrong, {usual:.1%} is usual",
                )
            )

    def _slots(self, times_ms: I64) -> list[tuple[int, I64]]:
        """Panes, by the time at which each starts, and their rows."""
        pane_ms = round(self._settings.pane_s * 1000)
        panes = times_ms // pane_ms
        return [(pane * pane_ms, np.flatnonzero(panes == pane)) for pane in np.unique(panes).tolist()]

    @staticmethod
    def _members(watch: VersionWatch, groups: I64, rows: I64) -> list[tuple[str, I64]]:
        found = [(ALL, rows)]
        for code, name in enumerate(watch.segments.names[1:], start=1):
            some = rows[(groups[rows] == code).any(axis=1)]
            if len(some):
                found.append((name, some))
        return found

    @staticmethod
    def _put(version: VersionOutcomes, segment: str, at_ms: int, tally: Tally, now_ms: int) -> None:
        for (_, name), ring in version.rings.items():
            if name == segment:
                ring.add(ring.slot_of(at_ms), tally.copy(), ring.slot_of(now_ms))


def _usual_errors(version: VersionOutcomes) -> float:
    """The error rate of the reference, or of all labels so far."""
    reference = version.watch.reference
    accuracy = reference.document.performance.get("accuracy") if reference is not None else None
    return 1.0 - accuracy if accuracy is not None else version.seen.mean


def _block(watch: VersionWatch) -> int:
    """Errors whose mean varies like one independent error would."""
    return 1 if watch.reference is None else math.ceil(watch.reference.document.error_inflation)


def labels_width(labels: LabelSettings) -> int:
    """Outputs per row that labels are decoded for."""
    return len(labels.classes) if labels.classes else 1
