"""The departures as events in order of departure, and what became of them as labels in order of arrival.

It owns the layout of `departures.npz` (made by `examples/flights/make_data.py`) and the fields of an event,
with units in `topics/schemas/flights.departures-value.json`. It knows nothing of Kafka or of models. Rows are
stored by flight number and day, which is what makes them small; `load` restores the order of departure.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import starmap
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

I64: TypeAlias = npt.NDArray[np.int64]
F64: TypeAlias = npt.NDArray[np.float64]
Event: TypeAlias = dict[str, str | int | float]

LATE_AFTER_MIN: Final = 15
WEATHER: Final = ("temp", "dewp", "humid", "wind_speed", "precip", "visib", "pressure")
FIELDS: Final = (
    "flight_id", "event_time", "carrier", "flight", "tailnum", "origin", "dest", "month", "day_of_week",
    "sched_dep_minute", "sched_duration", "dep_delay", "distance", *WEATHER,
)  # fmt: skip

_EXTRACT: Final = Path(__file__).resolve().parent / "departures.npz"
_SCHEDULE: Final = ("sched_dep_minute", "sched_duration", "dep_delay", "distance")
_TEXT: Final = ("carrier", "flight", "origin", "dest", "tailnum")
_TABLES: Final = ("carrier", "origin", "dest", "tailnum")
_STORED: Final = ("origin", "dest", "tailnum", "arr_delay", *_SCHEDULE)
_INTEGERS: Final = ("month", "day_of_week", *_SCHEDULE)
_YEAR: Final = 2013
_YEAR_START_MIN: Final = 22_616_640  # minutes from 1970 to 2013-01-01T00:00Z
_MISSING_DELAY: Final = np.iinfo(np.int16).min
_CHUNK: Final = 4096
_GOOD: Final = 164_260  # any complete event serves


class Label(NamedTuple):
    """What became of a flight, known when it arrives."""

    flight_id: str
    """The event's id."""
    late: int
    """1 when it arrived more than `LATE_AFTER_MIN` minutes after its schedule, else 0."""
    ts_ms: int
    """Arrival at the gate, UTC epoch milliseconds."""


class BadEvent(NamedTuple):
    """A record that a pipeline must refuse, with the reason it must give."""

    key: bytes
    value: bytes
    reason: str
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Flights:
    """All departures, in order of departure; ties by carrier, then flight number. Made by `load`.

    `columns` holds a narrow integer column a field, `int[n]`; those named as an entry of `tables` are
    positions in its list of strings. `weather` holds `float64[n]` with NaN where nothing was measured.
    """

    columns: Mapping[str, npt.NDArray[np.integer]]
    tables: Mapping[str, list[str]]
    weather: Mapping[str, F64]

    @classmethod
    def load(cls, path: Path | None = None) -> Flights:
        """Reads the extract, in about a quarter of a second.

        Args:
            path: The extract; default the one of this package.
        """
        with np.load(path or _EXTRACT, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        day = arrays["day"]
        flight = np.repeat(np.arange(len(arrays["flight_count"]), dtype=np.uint16), arrays["flight_count"])
        offset_min = arrays["day_offset_min"][day].astype(np.int64)
        scheduled_min = day.astype(np.int64) * 1440 + arrays["sched_dep_minute"] - offset_min
        departed_min = scheduled_min + arrays["dep_delay"]
        order = np.argsort(departed_min, kind="stable")
        dates, months, weekdays = _calendar(len(arrays["day_offset_min"]))
        columns = {name: arrays[name][order] for name in _STORED}
        columns |= {
            "flight": flight[order],
            "carrier": arrays["flight_carrier"][flight][order],
            "date": day[order],
            "month": months[day][order],
            "day_of_week": weekdays[day][order],
            "minute": departed_min[order].astype(np.int32),
        }
        tables = {name: arrays[f"{name}s"].astype(str).tolist() for name in _TABLES}
        operators = zip(arrays["flight_carrier"].tolist(), arrays["flight_number"].tolist(), strict=True)
        tables["flight"] = [f"{tables['carrier'][carrier]}{number}" for carrier, number in operators]
        tables["date"] = dates
        hour = scheduled_min[order] // 60
        weather = {name: _hourly(arrays, name, columns["origin"], hour) for name in WEATHER}
        return cls(columns=columns, tables=tables, weather=weather)

    def __len__(self) -> int:
        """How many departures there are."""
        return len(self.columns["minute"])

    def events(self, start: int = 0, stop: int | None = None) -> Iterator[Event]:
        """The departures from `start` to before `stop` as flat objects; what was not measured is absent."""
        stop = len(self) if stop is None else min(stop, len(self))
        for first in range(start, stop, _CHUNK):
            yield from self._chunk(slice(first, min(first + _CHUNK, stop)))

    def encoded(self, start: int = 0, stop: int | None = None) -> list[tuple[bytes, bytes]]:
        """The same as records: the flight number (`AA11`) as key, the event as JSON in UTF-8 as value."""
        keys = [key.encode() for key in self.tables["flight"]]
        flights = self.columns["flight"][slice(start, stop)].tolist()
        values = map(msgspec.json.Encoder().encode, self.events(start, stop))
        return [(keys[flight], value) for flight, value in zip(flights, values, strict=True)]

    def labels(self) -> Iterator[Label]:
        """The truth in order of arrival; a diverted flight has none."""
        late = self.late()
        arrived = self._arrival_ms()
        known = np.flatnonzero(late >= 0)
        order = known[np.argsort(arrived[known], kind="stable")]
        for first in range(0, len(order), _CHUNK):
            rows = order[first : first + _CHUNK]
            yield from starmap(Label, zip(self._ids(rows), late[rows].tolist(), arrived[rows].tolist(), strict=True))

    def flight_ids(self, start: int = 0, stop: int | None = None) -> list[str]:
        """The ids, such as `AA11-2013-07-04-JFK`: flight number, day of the schedule, airport."""
        return self._ids(slice(start, stop))

    def event_time_ms(self, start: int = 0, stop: int | None = None) -> I64:
        """Departure from the gate, UTC epoch milliseconds, never decreasing: `int64[n]`."""
        return (self.columns["minute"][slice(start, stop)].astype(np.int64) + _YEAR_START_MIN) * 60_000

    def late(self) -> npt.NDArray[np.int8]:
        """The label of every event, in event order: `int8[n]`, 1 late, 0 not, -1 unknown."""
        delay = self.columns["arr_delay"]
        return np.where(delay == _MISSING_DELAY, -1, delay > LATE_AFTER_MIN).astype(np.int8)

    def numbers(self, field: str) -> F64:
        """A numeric field of every event, NaN where the event does not have it: `float64[n]`."""
        return self.weather[field] if field in self.weather else self.columns[field].astype(np.float64)

    def strings(self, field: str) -> npt.NDArray[np.str_]:
        """A text field of every event, one of `carrier`, `flight`, `origin`, `dest`, `tailnum`: `str[n]`."""
        values: npt.NDArray[np.str_] = np.asarray(self.tables[field])[self.columns[field]]
        return values

    def _arrival_ms(self) -> I64:
        elapsed_min: I64 = -self.columns["dep_delay"].astype(np.int64)
        elapsed_min += self.columns["sched_duration"]
        elapsed_min += self.columns["arr_delay"]
        return self.event_time_ms() + elapsed_min * 60_000

    def _ids(self, part: slice | I64) -> list[str]:
        rows = zip(self._text("flight", part), self._text("date", part), self._text("origin", part), strict=True)
        return [f"{key}-{date}-{origin}" for key, date, origin in rows]

    def _text(self, name: str, part: slice | I64) -> list[str]:
        table = self.tables[name]
        return [table[code] for code in self.columns[name][part].tolist()]

    def _chunk(self, part: slice) -> list[Event]:
        columns = {
            "flight_id": self.flight_ids(part.start, part.stop),
            "event_time": self.event_time_ms(part.start, part.stop).tolist(),
        }
        columns |= {name: self._text(name, part) for name in _TEXT}
        columns |= {name: self.columns[name][part].tolist() for name in _INTEGERS}
        columns |= {name: self.weather[name][part].tolist() for name in WEATHER}
        rows = zip(*(columns[name] for name in FIELDS), strict=True)
        events: list[Event] = [dict(zip(FIELDS, row, strict=False)) for row in rows]
        for name in WEATHER:
            for row in np.flatnonzero(np.isnan(self.weather[name][part])).tolist():
                del events[row][name]
        return events


def bad_events() -> list[BadEvent]:
    """Records for the demo that must end as dead letters, one a way of being wrong."""
    good = next(Flights.load().events(_GOOD, _GOOD + 1))

    def changed(**fields: object) -> bytes:
        return msgspec.json.encode({name: value for name, value in {**good, **fields}.items() if value is not None})

    literal = changed(temp="@").replace(b'"@"', b"NaN")
    infinite = changed(dep_delay="@").replace(b'"@"', b"1e999")
    key = str(good["flight"]).encode()
    return [
        BadEvent(key, msgspec.json.encode(good)[:120], "decode", "cut off in the middle"),
        BadEvent(key, b"\xff\xfe departure", "decode", "no JSON at all"),
        BadEvent(key, changed(distance="1069 miles"), "schema", "a number sent as text"),
        BadEvent(b"ZZ1", changed(carrier="ZZ", flight="ZZ1"), "schema", "a carrier that the model has never seen"),
        BadEvent(key, changed(dep_delay=None), "missing_feature", "the departure delay is absent"),
        BadEvent(key, changed(distance=106_900), "out_of_range", "farther than once around the Earth"),
        BadEvent(key, changed(wind_speed=1048.36058), "out_of_range", "a real fault of Newark's sensor"),
        BadEvent(key, literal, "decode", "a NaN literal, which JSON does not have"),
        BadEvent(key, infinite, "schema", "a number that no float can hold"),
    ]


def _calendar(days: int) -> tuple[list[str], npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """ISO date, month and ISO day of the week (Monday 1) of every day of the year."""
    dates = [dt.date(_YEAR, 1, 1) + dt.timedelta(days=day) for day in range(days)]
    months = np.asarray([date.month for date in dates], np.uint8)
    weekdays = np.asarray([date.isoweekday() for date in dates], np.uint8)
    return [date.isoformat() for date in dates], months, weekdays


def _hourly(
    arrays: Mapping[str, npt.NDArray[np.integer]], name: str, airport: npt.NDArray[np.integer], hour: I64
) -> F64:
    """The measurement at the airport in the hour of the scheduled departure, known when the flight leaves."""
    codes = arrays[f"weather_{name}"][airport, hour]
    values: F64 = np.append(arrays[f"weather_{name}_values"].astype(np.float64), np.nan)
    hourly: F64 = values.take(codes, mode="clip")  # a missing value has a code beyond the table: the NaN at its end
    return hourly
