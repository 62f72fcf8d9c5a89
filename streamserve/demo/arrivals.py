"""What became of the flights, to be published when each one lands by the clock of the replay.

The replay runs by event time, a year in minutes; a label is due when the newest departure that was sent is not
earlier than the arrival. So labels come as late as they do in life, hours of event time after their predictions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from streamserve.demo.flights.dataset import Flights
from streamserve.demo.injection import Injections


class LabelRecord(NamedTuple):
    """A record for the labels topic: `{id, label, ts}` under the flight number, the key of the event."""

    key: bytes
    value: bytes


class Arrivals:
    """The labels in order of arrival; a diverted flight has none. For one thread.

    Args:
        flights: all flights.
        injections: what goes wrong with labels.
    """

    def __init__(self, flights: Flights, injections: Injections) -> None:
        self.published = 0
        """Labels given out."""
        self._times_ms = flights.event_time_ms()
        self._labels = flights.labels()
        self._injections = injections
        self._encode = msgspec.json.Encoder().encode
        self._row = -1
        self._next = next(self._labels, None)

    def sent(self, row: int) -> None:
        """The replay has come to this departure; a negative row is none."""
        self._row = max(self._row, row)

    @property
    def now_ms(self) -> int:
        """The clock of the replay: when the newest of them departed; 0 before the first."""
        return int(self._times_ms[self._row]) if self._row >= 0 else 0

    def due(self) -> Iterator[LabelRecord]:
        """Those that have landed, and were not given out yet."""
        yield from self._until(self.now_ms)

    def rest(self) -> Iterator[LabelRecord]:
        """All that are left: every flight was sent, and the last ones land after the year."""
        yield from self._until(None)

    def _until(self, now_ms: int | None) -> Iterator[LabelRecord]:
        while self._next is not None and (now_ms is None or self._next.ts_ms <= now_ms):
            label = self._injections.label(self._row, self.published, self._next)
            document = {"id": label.flight_id, "label": label.late, "ts": label.ts_ms}
            yield LabelRecord(label.flight_id.partition("-")[0].encode(), self._encode(document))
            self.published += 1
            self._next = next(self._labels, None)
