"""Late labels to the predictions they belong to.

Both sides wait: a prediction for its label, a label for its prediction (a label can be the faster one) and, after it
was found, for a second label of the same event. Everything leaves after `wait_ms`, and earlier when there are more
than `max_waiting` of a side, the oldest first; all that leaves or does not fit is counted. Most labels belong to
predictions that were not sampled: they end as `unmatched`, which is no fault.

Times are handed in (milliseconds, the records' own timestamps, so that a replay does the same as the first run); they
move forward only. What is joined is given out in the order of event time, as far as a bounded wait allows: see
`LabelJoin.release`.

Memory, measured with ids of 20 letters, a million rows a side: 200 bytes per waiting prediction of one output, 220 per
held label.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import msgspec
import numpy as np

from streamserve.batch import F64, I64, Bools
from streamserve.drift.label_delay import LabelDelay, LabelFigures
from streamserve.drift.labels import Label, MalformedLabel
from streamserve.drift.pairs import Pairs, Reordering
from streamserve.drift.waiting import Columns, Waiting

Outcome = Literal[
    "predictions",
    "labels",
    "joined",
    "late",
    "duplicate",
    "contradicting",
    "malformed",
    "unmatched",
    "crowded_out_labels",
    "expired",
    "crowded_out_predictions",
    "repeated",
]
"""What is counted: `predictions` and `labels` that came, pairs `joined`, those of them `late` (behind the order);
second labels that agree (`duplicate`) or not (`contradicting`); `malformed` messages; labels that left without a
prediction after the wait (`unmatched`) or for want of room (`crowded_out_labels`); predictions that left without a
label after the wait (`expired`) or for want of room (`crowded_out_predictions`); `repeated` ids of one version."""
_BITS = 62


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinSettings:
    """Bounds of a join.

    Attributes:
        wait_ms: how long predictions and labels wait, from their arrival.
        max_waiting: most predictions that wait, over all versions; and most labels that are held.
        reorder_ms: how long a pair waits for pairs of earlier events.
        max_reordered: most pairs of a version that wait so.
    """

    wait_ms: int = 86_400_000
    max_waiting: int = 1_000_000
    reorder_ms: int = 10_000
    max_reordered: int = 100_000


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Predictions:
    """Sampled predictions of one model version; all versions have their own numbers of outputs and groups.

    Attributes:
        version: the model version.
        id: event ids, n of them.
        event_time_ms: int64[n].
        weight: float64[n], how many predictions each stands for.
        outputs: float64[n, k], what labels are compared with.
        groups: int64[n, s], codes of the segments a row is in; the join only keeps them.
    """

    version: str
    id: Sequence[str]
    event_time_ms: I64
    weight: F64
    outputs: F64
    groups: I64

    def columns(self, arrived_ms: int) -> Columns:
        """As they wait."""
        return {
            "arrived": np.full(len(self.id), arrived_ms, dtype=np.int64),
            "event_time": self.event_time_ms,
            "weight": self.weight,
            "outputs": self.outputs,
            "groups": self.groups,
        }


@dataclass(slots=True)
class _Version:
    """A model version: what waits, and what was joined."""

    bit: int
    waiting: Waiting
    joined: Reordering


_NO_LABELS: Columns = {
    "arrived": np.zeros(0, dtype=np.int64),
    "label": np.zeros(0),
    "time": np.zeros(0, dtype=np.int64),
    "value": np.zeros(0),
    "clicked": np.zeros(0),
    "versions": np.zeros(0, dtype=np.int64),  # bits of the versions whose prediction was found
}


class _VersionDocument(msgspec.Struct, frozen=True):
    bit: int
    waiting: dict[str, object]
    joined: dict[str, object]


class _Document(msgspec.Struct, frozen=True, kw_only=True):
    now_ms: int
    versions_ever: int
    labels: dict[str, object]
    versions: dict[str, _VersionDocument]
    delay: dict[str, object]
    counts: dict[str, int]


class LabelJoin:
    """The join of one pipeline's labels and predictions, of any number of model versions.

    Args:
        settings: its bounds.
    """

    def __init__(self, settings: JoinSettings) -> None:
        self._settings = settings
        self._now_ms = 0
        self._labels = Waiting(_NO_LABELS)
        self._versions: dict[str, _Version] = {}
        self._versions_ever = 0
        self._delay = LabelDelay(settings.wait_ms)
        self._counts: Counter[Outcome] = Counter()

    @property
    def counts(self) -> Mapping[Outcome, int]:
        """How often each outcome occurred, zeros included."""
        return {outcome: self._counts[outcome] for outcome in get_args(Outcome)}

    def figures(self) -> LabelFigures:
        """Delay and coverage now."""
        return self._delay.figures(self._now_ms, waiting=self._waiting(), held=len(self._labels))

    def predicted(self, batch: Predictions, now_ms: int) -> None:
        """Take in predictions; those whose label is held are joined at once.

        Args:
            batch: of one version.
            now_ms: when they arrived.

        Raises:
            ValueError: they have other outputs or groups than the version had before.
        """
        self._advance(now_ms)
        columns = batch.columns(self._now_ms)
        version = self._version(batch.version, columns)
        bit, waits, found, seen = 1 << version.bit, [], [], set()
        for row, event in enumerate(batch.id):
            at = self._labels.find(event)
            if event in seen or version.waiting.find(event) is not None:
                continue
            if at is None:
                waits.append(row)
            elif not int(self._labels.columns["versions"][at]) & bit:
                found.append((row, at))
            else:
                continue
            seen.add(event)
        self._counts["predictions"] += len(batch.id)
        self._counts["repeated"] += len(batch.id) - len(seen)
        self._delay.predicted(self._now_ms, len(seen))
        rows = np.array(waits, dtype=np.int64)
        version.waiting.append([batch.id[row] for row in waits], {name: each[rows] for name, each in columns.items()})
        if found:
            mine, held = np.array(found, dtype=np.int64).T
            ids = [batch.id[row] for row in mine.tolist()]
            self._join(version, ids, {name: each[mine] for name, each in columns.items()}, held)
        self._crowd_out_predictions()

    def labelled(self, labels: Sequence[Label | MalformedLabel], now_ms: int) -> None:
        """Take in labels; those whose predictions wait are joined at once. The first label of an event counts.

        Args:
            labels: as decoded.
            now_ms: when they arrived.
        """
        self._advance(now_ms)
        fresh: dict[str, Label] = {}
        for label in labels:
            if isinstance(label, MalformedLabel):
                self._counts["malformed"] += 1
                continue
            self._counts["labels"] += 1
            at = self._labels.find(label.id)
            first = fresh.get(label.id)
            if at is None and first is None:
                fresh[label.id] = label
                continue
            known = first.label if first is not None else float(self._labels.columns["label"][at or 0])
            self._counts["duplicate" if known == label.label else "contradicting"] += 1
        self._hold(list(fresh.values()))
        for version in self._versions.values():
            hits = [(row, event) for event in fresh if (row := version.waiting.find(event)) is not None]
            if hits:
                rows, ids = np.array([row for row, _ in hits], dtype=np.int64), [event for _, event in hits]
                columns = version.waiting.take(rows)
                version.waiting.remove(rows)
                held = np.array([self._labels.find(event) for event in ids], dtype=np.int64)
                self._join(version, ids, columns, held)
        self._crowd_out_labels()

    def release(self, now_ms: int, *, everything: bool = False) -> list[Pairs]:
        """Give out joined pairs, in the order of event time within each version, and let go what waited too long.

        A pair is due `reorder_ms` after it was joined, or when more than `max_reordered` wait. With it go all pairs of
        earlier or equal event time, due or not, so that a batch is in order and begins where the last one ended. A
        pair that is joined after later ones were given out still comes, in its place in its batch, marked `late`: an
        order over all would have to wait as long as the slowest label.

        Args:
            now_ms: the time; call at least every `reorder_ms`.
            everything: give out all, due or not.

        Returns:
            At most one batch per version.
        """
        self._advance(now_ms)
        found = []
        for name, version in list(self._versions.items()):
            pairs = version.joined.release(self._now_ms, everything=everything)
            if pairs is not None:
                self._counts["late"] += int(np.count_nonzero(pairs.late))
                found.append(pairs)
            if not len(version.waiting) and not len(version.joined) and self._idle(version):
                del self._versions[name]
        return found

    def _idle(self, version: _Version) -> bool:
        """Whether a version without rows is forgotten: it last took in a prediction longer ago than the wait."""
        return version.joined.last_ms < self._now_ms - self._settings.wait_ms

    def _version(self, name: str, columns: Columns) -> _Version:
        found = self._versions.get(name)
        if found is None:
            joined = Reordering(name, self._settings.reorder_ms, self._settings.max_reordered)
            found = _Version(self._versions_ever % _BITS, Waiting(columns), joined)
            self._versions_ever += 1
            self._versions[name] = found
        found.joined.last_ms = self._now_ms
        return found

    def _hold(self, labels: list[Label]) -> None:
        nan = float("nan")
        columns: Columns = {
            "arrived": np.full(len(labels), self._now_ms, dtype=np.int64),
            "label": np.array([each.label for each in labels], dtype=np.float64),
            "time": np.array([each.time_ms for each in labels], dtype=np.int64),
            "value": np.array([nan if each.value is None else each.value for each in labels], dtype=np.float64),
            "clicked": np.array([nan if each.clicked is None else each.clicked for each in labels], dtype=np.float64),
            "versions": np.zeros(len(labels), dtype=np.int64),
        }
        self._labels.append([each.id for each in labels], columns)

    def _join(self, version: _Version, ids: list[str], predictions: Columns, at: I64) -> None:
        """Pair predictions with the held labels at these positions."""
        labels = self._labels.take(at)
        versions = _int(self._labels.columns["versions"])
        versions[at] |= 1 << version.bit
        self._counts["joined"] += len(ids)
        times, arrived = predictions["event_time"], predictions["arrived"]
        self._delay.joined(_int(arrived), _int(labels["time"] - times), self._now_ms - _int(arrived))
        version.joined.add(
            Pairs(
                version=version.joined.version,
                id=ids,
                joined_ms=np.full(len(ids), self._now_ms, dtype=np.int64),
                event_time_ms=_int(times),
                label_time_ms=_int(labels["time"]),
                weight=_float(predictions["weight"]),
                outputs=_float(predictions["outputs"]),
                groups=_int(predictions["groups"]),
                label=_float(labels["label"]),
                value=_float(labels["value"]),
                clicked=_float(labels["clicked"]),
                late=np.zeros(len(ids), dtype=np.bool_),
            )
        )

    def _advance(self, now_ms: int) -> None:
        """The time moves on: what waited too long leaves."""
        self._now_ms = max(self._now_ms, now_ms)
        before = self._now_ms - self._settings.wait_ms
        for version in self._versions.values():
            self._counts["expired"] += _leave(version.waiting, version.waiting.older_than(before))
        self._let_go(self._labels.older_than(before), "unmatched")
        self._delay.expire(self._now_ms)

    def _crowd_out_predictions(self) -> None:
        while (over := self._waiting() - self._settings.max_waiting) > 0:
            oldest = min(
                (version.waiting for version in self._versions.values() if len(version.waiting)),
                key=lambda waiting: waiting.oldest_arrived() or 0,
            )
            self._counts["crowded_out_predictions"] += _leave(oldest, oldest.oldest(over))

    def _crowd_out_labels(self) -> None:
        over = len(self._labels) - self._settings.max_waiting
        if over > 0:
            self._let_go(self._labels.oldest(over), "crowded_out_labels")

    def _let_go(self, rows: I64, outcome: Outcome) -> None:
        """Labels leave; those that found a prediction leave without being counted."""
        alone: Bools = self._labels.columns["versions"][rows] == 0
        self._counts[outcome] += int(np.count_nonzero(alone))
        self._labels.remove(rows)

    def _waiting(self) -> int:
        return sum(len(version.waiting) for version in self._versions.values())

    def to_document(self) -> dict[str, object]:
        """JSON from which `from_document` makes a join that goes on the same; about 150 bytes a row."""
        document: dict[str, object] = msgspec.to_builtins(
            _Document(
                now_ms=self._now_ms,
                versions_ever=self._versions_ever,
                labels=self._labels.to_document(),
                versions={
                    name: _VersionDocument(each.bit, each.waiting.to_document(), each.joined.to_document())
                    for name, each in self._versions.items()
                },
                delay=self._delay.to_document(),
                counts={str(outcome): count for outcome, count in self._counts.items()},
            )
        )
        return document

    @staticmethod
    def from_document(document: dict[str, object], settings: JoinSettings) -> LabelJoin:
        """The join of a document, with these bounds. Raises: ValueError."""
        read = msgspec.convert(document, _Document)
        join = LabelJoin(settings)
        join._now_ms, join._versions_ever = read.now_ms, read.versions_ever
        join._labels = Waiting.from_document(read.labels)
        for name, each in read.versions.items():
            joined = Reordering.from_document(each.joined, name, settings.reorder_ms, settings.max_reordered)
            join._versions[name] = _Version(each.bit, Waiting.from_document(each.waiting), joined)
        join._delay = LabelDelay.from_document(read.delay, settings.wait_ms)
        join._counts = Counter({outcome: read.counts.get(outcome, 0) for outcome in get_args(Outcome)})
        return join


def _leave(waiting: Waiting, rows: I64) -> int:
    waiting.remove(rows)
    return len(rows)


def _int(column: F64 | I64) -> I64:
    return column.astype(np.int64, copy=False)


def _float(column: F64 | I64) -> F64:
    return column.astype(np.float64, copy=False)
