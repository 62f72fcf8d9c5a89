"""Faults in the data, put into the replay on demand so that one can watch them being found.

An `Injection` says what goes wrong and when; `Injections` changes events and labels from then on. A changed event
stays one that the feature spec accepts: it is scored and ends as a prediction, never as a dead letter, because drift
is what a schema cannot see. Which events are hit goes by their row alone, so a run can be repeated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from streamserve.demo.flights.dataset import Event, Label

AFTER_S: Final = 15.0
"""Without a time an injection begins here, or half way through a shorter replay."""
SHIFT_MIN: Final = 20
MISSING_SHARE: Final = 0.25
NEW_SHARE: Final = 0.15
FLIP_SHARE: Final = 0.35
NEW_CARRIER: Final = "OO"
"""SkyWest: a category of the feature, and one flight of the 107,000 from January to April."""

_GOLDEN: Final = 0x9E3779B1
_ROUND: Final = 1 << 32


class Fault(StrEnum):
    """What goes wrong."""

    SHIFT = "shift"
    MISSING = "missing"
    NEW_CATEGORY = "new-category"
    STUCK_SENSOR = "stuck-sensor"
    LABEL_FLIP = "label-flip"


FIELD: Final[Mapping[Fault, str]] = {
    Fault.SHIFT: "dep_delay",
    Fault.MISSING: "temp",
    Fault.NEW_CATEGORY: "carrier",
    Fault.STUCK_SENSOR: "wind_speed",
    Fault.LABEL_FLIP: "label",
}
"""The field that each changes."""

WORDS: Final[Mapping[Fault, str]] = {
    Fault.SHIFT: f"dep_delay is reported {SHIFT_MIN} minutes too high",
    Fault.MISSING: f"temp is missing in {MISSING_SHARE:.0%} of the events",
    Fault.NEW_CATEGORY: f"carrier {NEW_CARRIER}, which training hardly saw, flies {NEW_SHARE:.0%} of the flights",
    Fault.STUCK_SENSOR: "wind_speed repeats one value",
    Fault.LABEL_FLIP: f"{FLIP_SHARE:.0%} of the labels are inverted",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Injection:
    """A fault, and when it begins: seconds of the replay by its schedule; None chooses."""

    fault: Fault
    at_s: float | None = None

    @classmethod
    def parse(cls, text: str) -> Injection:
        """Read `NAME` or `NAME@SECONDS`. Raises: ValueError, with the names there are."""
        name, at, seconds = text.partition("@")
        try:
            fault = Fault(name)
        except ValueError:
            raise ValueError(f"there is no fault {name!r}; choose of {', '.join(Fault)}") from None
        if not at:
            return cls(fault=fault)
        try:
            at_s = float(seconds)
        except ValueError:
            at_s = -1.0
        if not 0 <= at_s < float("inf"):
            raise ValueError(f"{text!r}: after @ stands a number of seconds, 0 or more")
        return cls(fault=fault, at_s=at_s)

    def begins(self, rate: float, total: int) -> int:
        """The first row it hits, in a replay of `total` events at `rate` a second."""
        at_s = min(AFTER_S, total / rate / 2) if self.at_s is None else self.at_s
        return round(at_s * rate)


class Injections:
    """Changes events and labels of one replay; for one thread.

    Args:
        injections: what goes wrong.
        rate: events a second.
        total: how many events there will be.
    """

    def __init__(self, injections: Sequence[Injection], rate: float, total: int) -> None:
        self.begins = {each.fault: each.begins(rate, total) for each in injections}
        self._first = min((row for fault, row in self.begins.items() if fault is not Fault.LABEL_FLIP), default=None)
        self._stuck: str | int | float | None = None

    def touches(self, stop: int) -> bool:
        """Whether an event before row `stop` may be changed."""
        return self._first is not None and self._first < stop

    def event(self, row: int, event: Event) -> Event:
        """The event of a row as it is sent."""
        for fault, begins in self.begins.items():
            if row >= begins:
                event = self._changed(fault, row, event)
        return event

    def label(self, row: int, number: int, label: Label) -> Label:
        """The label that is published as number so many, when the replay has come to this row."""
        if row >= self.begins.get(Fault.LABEL_FLIP, row + 1) and _hit(number, FLIP_SHARE):
            return label._replace(late=1 - label.late)
        return label

    def _changed(self, fault: Fault, row: int, event: Event) -> Event:
        field = FIELD[fault]
        if fault is Fault.SHIFT:
            return {**event, field: int(event[field]) + SHIFT_MIN}
        if fault is Fault.MISSING and _hit(row, MISSING_SHARE):
            return {name: value for name, value in event.items() if name != field}
        if fault is Fault.NEW_CATEGORY and _hit(row, NEW_SHARE):
            return {**event, field: NEW_CARRIER}
        if fault is Fault.STUCK_SENSOR:
            self._stuck = event.get(field) if self._stuck is None else self._stuck
            return event if self._stuck is None else {**event, field: self._stuck}
        return event


def _hit(number: int, share: float) -> bool:
    """Whether this one belongs to the share: evenly spread, the same in every run (Knuth's golden-ratio hash)."""
    return number * _GOLDEN % _ROUND < share * _ROUND
