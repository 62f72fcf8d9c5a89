"""Label messages: what came true, as JSON `{"id": ..., "label": ..., "ts": ...}`.

`id` is the event's (a text or an integer), `label` what was to be predicted (0 or 1, true or false, the number or the
name of a class, a number), `ts` when it came true, UTC epoch milliseconds. Optional: `value`, a number, and `clicked`,
true or false, for business metrics. Further fields are ignored.

Reading raises nothing: bytes that are no label become a `MalformedLabel` that says why.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

import msgspec

from streamserve.drift.task import Task

LATEST_MS: Final = 253_402_300_799_999
"""The end of the year 9999."""
LONGEST_ID: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """What came true for one event.

    Attributes:
        id: the event's.
        label: the number of the class (0 or 1 for binary), or the number.
        time_ms: when it came true.
        value: a number of the business, if one was given.
        clicked: whether it was clicked, accepted, bought, if that was given.
    """

    id: str
    label: float
    time_ms: int
    value: float | None = None
    clicked: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MalformedLabel:
    """A message that is no label, and why, for a log line."""

    reason: str


class _Message(msgspec.Struct, frozen=True):
    id: Annotated[str, msgspec.Meta(min_length=1, max_length=LONGEST_ID)] | int
    label: bool | int | float | str
    ts: Annotated[float, msgspec.Meta(ge=0, le=LATEST_MS)]
    value: float | None = None
    clicked: bool | None = None


class LabelDecoder:
    """Reads label messages for one task."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._numbers = {name: float(number) for number, name in enumerate(task.names)}
        self._decoder = msgspec.json.Decoder(_Message)

    def decode(self, data: bytes | None) -> Label | MalformedLabel:
        """Read one message.

        Args:
            data: the record's value; None is a tombstone.
        """
        if data is None:
            return MalformedLabel(reason="the message is empty")
        try:
            message = self._decoder.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            return MalformedLabel(reason=str(error))
        label = self._label(message.label)
        if isinstance(label, MalformedLabel):
            return label
        return Label(
            id=message.id if isinstance(message.id, str) else str(message.id),
            label=label,
            time_ms=int(message.ts),
            value=message.value,
            clicked=message.clicked,
        )

    def _label(self, label: bool | float | str) -> float | MalformedLabel:
        """The label as a number."""
        kind = self._task.kind
        if isinstance(label, str):
            if kind == "regression":
                return MalformedLabel(reason="`label` is a text; a number is predicted")
            number = self._numbers.get(label)
            return MalformedLabel(reason="`label` is no name in drift.labels.classes") if number is None else number
        if kind == "regression":
            if isinstance(label, bool):
                return MalformedLabel(reason="`label` is true or false; a number is predicted")
            return _finite(label)
        if isinstance(label, bool) and kind == "multiclass":
            return MalformedLabel(reason="`label` is true or false; a class is predicted")
        if not 0 <= label < self._task.classes or label != int(label):
            return MalformedLabel(reason=f"`label` is no whole number from 0 to {self._task.classes - 1}")
        return float(label)


def _finite(number: float) -> float | MalformedLabel:
    """The number as a float; an integer may be too large for one, a float of JSON is always finite."""
    try:
        return float(number)
    except OverflowError:
        return MalformedLabel(reason="`label` is too large")
