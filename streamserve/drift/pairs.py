"""Predictions with their labels, and the bounded wait that puts them in the order of their events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from streamserve.batch import F64, I64, Bools, Tensor
from streamserve.drift.packed import Packed, floats, integers, pack

_INTEGERS = ("joined_ms", "event_time_ms", "label_time_ms", "groups")
_FLOATS = ("weight", "outputs", "label", "value", "clicked")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pairs:
    """Predictions of one model version with their labels, n of them.

    Attributes:
        version: the model version.
        id: event ids.
        joined_ms: int64[n], when both were there.
        event_time_ms, label_time_ms: int64[n].
        weight: float64[n], how many predictions each stands for.
        outputs: float64[n, k].
        groups: int64[n, s], as the prediction had them.
        label: float64[n].
        value, clicked: float64[n], NaN where the label had none.
        late: bool[n], behind pairs of later events that were given out before.
    """

    version: str
    id: Sequence[str]
    joined_ms: I64
    event_time_ms: I64
    label_time_ms: I64
    weight: F64
    outputs: F64
    groups: I64
    label: F64
    value: F64
    clicked: F64
    late: Bools

    def __len__(self) -> int:
        return len(self.id)

    def take(self, rows: npt.NDArray[np.intp]) -> Pairs:
        """Some of them."""
        columns = {name: getattr(self, name)[rows] for name in (*_INTEGERS, *_FLOATS, "late")}
        return replace(self, id=[self.id[row] for row in rows.tolist()], **columns)


class _Document(msgspec.Struct, frozen=True, kw_only=True):
    last_ms: int
    mark_ms: int | None
    ids: list[str]
    columns: dict[str, Packed]


class Reordering:
    """Pairs of one version on their way out, see `LabelJoin.release`.

    Args:
        version: the model version.
        reorder_ms: how long a pair waits for pairs of earlier events.
        most: how many wait at most.
    """

    def __init__(self, version: str, reorder_ms: int, most: int) -> None:
        self.version = version
        self.last_ms = 0
        self._reorder_ms = reorder_ms
        self._most = most
        self._parts: list[Pairs] = []
        self._mark_ms: int | None = None  # event time of the last pair given out

    def __len__(self) -> int:
        return sum(len(part) for part in self._parts)

    def add(self, pairs: Pairs) -> None:
        """Take in pairs. Those joined earlier came earlier."""
        self._parts.append(pairs)

    def release(self, now_ms: int, *, everything: bool = False) -> Pairs | None:
        """The pairs that are due, in order; None when there are none."""
        too_many = len(self) > self._most
        due_before = now_ms - self._reorder_ms
        if not self._parts or not (everything or too_many or int(self._parts[0].joined_ms[0]) <= due_before):
            return None
        waiting = _concatenated(self._parts)
        order = np.argsort(waiting.event_time_ms, kind="stable")
        times = waiting.event_time_ms[order]
        due = waiting.joined_ms[order] <= due_before
        last = int(times[due].max()) if due.any() else None
        stop = 0 if last is None else int(np.searchsorted(times, last, side="right"))
        stop = len(order) if everything else max(stop, len(order) - self._most)
        self._parts = [waiting.take(np.sort(order[stop:]))] if stop < len(order) else []
        out = waiting.take(order[:stop])
        if self._mark_ms is not None:
            out = replace(out, late=out.event_time_ms < self._mark_ms)
        newest = int(out.event_time_ms[-1])
        self._mark_ms = newest if self._mark_ms is None else max(self._mark_ms, newest)
        return out

    def to_document(self) -> dict[str, object]:
        """JSON."""
        whole = _concatenated(self._parts) if self._parts else None
        columns = {name: pack(getattr(whole, name)) for name in (*_INTEGERS, *_FLOATS)} if whole else {}
        read = _Document(
            last_ms=self.last_ms, mark_ms=self._mark_ms, ids=list(whole.id) if whole else [], columns=columns
        )
        document: dict[str, object] = msgspec.to_builtins(read)
        return document

    @staticmethod
    def from_document(document: object, version: str, reorder_ms: int, most: int) -> Reordering:
        """The pairs of a document. Raises: ValueError."""
        read = msgspec.convert(document, _Document)
        reordering = Reordering(version, reorder_ms, most)
        reordering.last_ms, reordering._mark_ms = read.last_ms, read.mark_ms
        if read.ids:
            if set(read.columns) != {*_INTEGERS, *_FLOATS}:
                raise ValueError("columns of pairs are missing")
            columns: dict[str, Tensor] = {name: integers(read.columns[name]) for name in _INTEGERS}
            columns |= {name: floats(read.columns[name]) for name in _FLOATS}
            columns["late"] = np.zeros(len(read.ids), dtype=np.bool_)
            if any(len(column) != len(read.ids) for column in columns.values()):
                raise ValueError("columns of pairs do not fit")
            reordering.add(_pairs(version, read.ids, columns))
        return reordering


def _concatenated(parts: list[Pairs]) -> Pairs:
    if len(parts) == 1:
        return parts[0]
    columns = {
        field.name: np.concatenate([getattr(part, field.name) for part in parts])
        for field in fields(Pairs)
        if field.name not in {"version", "id"}
    }
    return _pairs(parts[0].version, [event for part in parts for event in part.id], columns)


def _pairs(version: str, ids: list[str], columns: Mapping[str, Tensor]) -> Pairs:
    typed: Mapping[str, Any] = columns  # one mapping holds the columns of all three dtypes
    return Pairs(version=version, id=ids, **typed)
