"""A board with made-up data that look real: for the dashboard's tests, its benchmark, and for working on it.

    .venv/bin/python -m tests.unit.sidecar.sample_board --state alarm --port 8090 --every 2

The same arguments give the same numbers. Time stands still until `step` is called.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import sys

import numpy as np
from prometheus_client import CollectorRegistry

from streamserve.clock import SystemClock
from streamserve.sidecar.listener import DashboardServer
from streamserve.sidecar.web import Changes, Sources
from streamserve.telemetry.health import Health
from streamserve.telemetry.logs import Log

START_MS = 1_772_532_000_000
"""2026-03-03 10:00 UTC."""
WINDOWS_S = (60.0, 600.0, 3600.0)
PANE_S = 10.0
LOOKS = 360
SPARK = 40
STATES = ("empty", "learning", "ok", "alarm", "stale", "error")
NUMBERS = (
    "distance_km", "scheduled_minutes", "departure_hour", "temp_c", "dewpoint_c", "humidity", "wind_speed_kmh",
    "wind_gust_kmh", "pressure_hpa", "visibility_km", "precip_mm", "seats", "aircraft_age_years", "turnaround_minutes",
    "previous_delay_minutes", "carrier_delay_7d", "route_delay_7d", "airport_delay_1h", "departures_1h", "arrivals_1h",
    "taxi_out_minutes", "bookings", "load_factor", "crew_hours",
)  # fmt: skip
CATEGORIES = {
    "carrier": ("UA", "B6", "EV", "DL", "AA", "MQ", "US", "9E", "WN", "VX", "FL", "AS", "F9", "YV", "HA"),
    "origin": ("EWR", "JFK", "LGA"),
    "destination": ("ORD", "ATL", "LAX", "BOS", "MCO", "CLT", "SFO", "FLL", "MIA", "DCA", "DTW", "DFW", "RDU", "TPA"),
    "aircraft_type": ("A320", "B737", "E190", "CRJ9", "A321", "B757", "MD88"),
    "weekday": ("mon", "tue", "wed", "thu", "fri", "sat", "sun"),
}
FLOORS = {"wasserstein": 0.05, "share": 0.005, "js": 0.02}
CLASSES = ("on_time", "late", "cancelled")
DRIFTS = {
    "wind_gust_kmh": (0.41, 2460), "visibility_km": (0.29, 2400), "route_embedding[17]": (0.17, 1500),
    "carrier": (0.034, 1900), "output.probability": (0.12, 1320), "precip_mm": (0.021, 2300),
}  # fmt: skip
"""Column -> the effect that it reaches, and how many seconds ago it began."""


class SampleBoard:
    """Flight delays, 200 features, two versions, a front that moves in.

    Args:
        state: one of `STATES`.
        features: how many features.
        points: length of the traffic series.
        seed: of all the randomness.
    """

    def __init__(self, state: str = "alarm", *, features: int = 200, points: int = 360, seed: int = 7) -> None:
        self.changes = Changes()
        self.state = state
        self.now_ms = START_MS
        self.opened_ms = START_MS - 41 * 60_000
        self.broken = False
        self._random = np.random.default_rng(seed)
        self._names = _column_names(features)
        self._noise = np.abs(self._random.normal(0.3, 0.18, (len(self._names), LOOKS)))
        self._points = points
        self._load = self._random.normal(0, 1, points)
        self._extra: dict[str, tuple[float, int]] = {}

    def step(self, seconds: float = PANE_S) -> None:
        """Time goes on by one look."""
        self.now_ms += int(seconds * 1000)
        column = np.abs(self._random.normal(0.3, 0.18, (len(self._names), 1)))
        self._noise = np.concatenate([self._noise[:, 1:], column], axis=1)
        self._load = np.append(self._load[1:], self._random.normal(0, 1))
        self.changes.advance()

    def become(self, state: str) -> None:
        """Another state, and word of it."""
        self.state = state
        self.changes.advance()

    def inject(self, name: str, effect: float) -> None:
        """Let a column drift from now on."""
        self._extra[name] = (effect, self.now_ms)
        self.state = "alarm"
        self.opened_ms = self.now_ms
        self.changes.advance()

    def overview(self) -> dict[str, object]:
        if self.broken:
            raise RuntimeError("the board is broken on purpose")
        silent = self.state in {"empty", "error"}
        newest_ms = self.now_ms - (9 * 60_000 if self.state == "stale" else 4_000)
        return {
            "pipeline": "flights",
            "wall_ms": self.now_ms,
            "state": self.state,
            "state_since_ms": self._since_ms(),
            "message": self._message(),
            "budget": {"false_alarms_per_week": 1.0, "windows_s": list(WINDOWS_S), "pane_s": PANE_S},
            "models": [] if silent else [self._model("7", newest_ms), self._model("8", newest_ms)],
            "incidents": [] if self.state in {"empty", "learning", "error"} else self._incidents(),
            "traffic": None if self.state == "empty" else self._traffic(newest_ms),
            "sidecar": {
                "chunks": 0 if self.state == "empty" else 148_212, "skipped": 3, "bad": 1 if self.state == "error" else 0,
                "late_rows": 1_204, "future_rows": 0, "behind_s": None if self.state == "empty" else 1.2,
                "version": "0.1.0",
            },
        }  # fmt: skip

    def _since_ms(self) -> int | None:
        ago_s = {"empty": None, "learning": 190, "ok": 83_000, "stale": 9 * 60, "error": 75}
        if self.state == "alarm":
            return self.opened_ms
        seconds = ago_s[self.state]
        return None if seconds is None else START_MS - seconds * 1000

    def _message(self) -> str:
        return {
            "empty": "No sample has come yet on flights.samples.",
            "learning": "11,420 of 20,000 rows of the provisional reference are in; about 3 minutes are left.",
            "ok": "No column moved beyond its floor in any window.",
            "alarm": "Wind and visibility moved with the weather, and the predicted probability followed.",
            "stale": "No samples for 9 minutes: the workers stopped, or their topic cannot be read.",
            "error": "flights.samples cannot be read: not authorised (TOPIC_AUTHORIZATION_FAILED).",
        }[self.state]

    def _goal(self, name: str, version: str, window_s: float) -> tuple[float, int | None]:
        """The effect that a column drifts to, and when it began (event time)."""
        kind = _effect_kind(name)
        scale = {60.0: 1.12, 600.0: 1.0, 3600.0: 0.72}.get(window_s, 1.0)
        if name in self._extra:
            effect, at_ms = self._extra[name]
            return effect * scale, at_ms
        if self.state not in {"alarm", "stale"} or name not in DRIFTS:
            return 0.0, None
        effect, ago_s = DRIFTS[name]
        if version == "8":
            effect *= 1.9 if kind == "wasserstein" and name.startswith("output") else 1.04
        return effect * scale, START_MS - ago_s * 1000

    def _effects(self, name: str, version: str, window_s: float) -> np.ndarray:
        """Effect of every look of the last hour."""
        index = self._names.index(name)
        goal, since_ms = self._goal(name, version, window_s)
        floor = FLOORS[_effect_kind(name)]
        noise = self._noise[index] * floor * (1.3 if window_s == 60 else 0.7)
        if since_ms is None:
            return noise
        ends = self.now_ms - PANE_S * 1000 * np.arange(LOOKS)[::-1]
        ramp = np.clip((ends - since_ms) / 420_000.0, 0.0 if name not in self._extra else 0.9, 1.0)
        return noise + goal * np.where(ends >= since_ms - 10_000, ramp, 0.0) * (1 + 0.06 * np.sin(ends / 90_000.0))

    def _column(self, name: str, version: str) -> dict[str, object]:
        kind = _effect_kind(name)
        window_s = 600.0 if len(name) % 3 else 60.0
        effects = self._effects(name, version, window_s)
        goal, since_ms = self._goal(name, version, window_s)
        drifted = goal > 0
        effect = float(effects[-1])
        index = self._names.index(name)
        return {
            "name": name, "kind": _kind(name),
            "origin": "output" if name.startswith("output.") else "feature", "rank": 0,
            "window_s": window_s, "segment": "", "p": 10.0 ** -(9 + 60 * effect) if drifted else float(self._noise[index, 7]),
            "effect": effect, "effect_kind": kind, "floor": FLOORS[kind], "psi": effect**2 * 1.4, "js": effect * 0.31,
            "ks": None if _kind(name) == "categorical" else min(1.0, effect * 0.38), "drifted": drifted,
            "since_ms": since_ms if drifted else None,
            "missing": 0.034 if name == "precip_mm" and drifted else 0.002 * (index % 4),
            "missing_reference": 0.002 * (index % 4) + (0.001 if index % 5 == 0 else 0.0),
            "spark": [round(float(value), 5) for value in effects[-SPARK * 6 :: 6]],
        }  # fmt: skip

    def _model(self, version: str, newest_ms: int) -> dict[str, object]:
        learning = self.state == "learning"
        columns = [] if learning else [self._column(name, version) for name in self._names]
        columns.sort(key=lambda c: (-c["drifted"], -c["effect"] / c["floor"]))
        for rank, column in enumerate(columns):
            column["rank"] = rank + 1
        drifted = sum(column["drifted"] for column in columns)
        share = 0.9 if version == "7" else 0.1
        return {
            "model": "delay", "version": version, "role": "stable" if version == "7" else "canary", "newest_ms": newest_ms,
            "reference": None if learning else {
                "hash": "9f2c41d07ab3" if version == "7" else "1b77e05c99fa", "rows": 2_400_000 if version == "7" else 20_000,
                "provisional": version == "8", "created_ms": START_MS - (86_400_000 * 12 if version == "7" else 5_400_000),
                "source": "training-2026-02.parquet" if version == "7" else "flights.samples",
            },
            "windows": [
                {"window_s": window_s, "end_ms": newest_ms, "rows": int(1_980 * window_s * share), "sampled_share": 0.125,
                 "drifted": max(0, drifted - step)}
                for step, window_s in enumerate(WINDOWS_S)
            ],
            "columns": columns,
            "segments": [] if learning else self._segments(drifted, share),
            "performance": None if learning else self._performance(version, newest_ms),
            "labels": None if learning else {
                "coverage": 0.914 if version == "7" else 0.872, "delay_p50_s": 1_260.0, "delay_p99_s": 5_840.0,
                "joined": 1_204_411, "waiting": 92_310, "duplicate": 214, "unmatched": 1_902, "malformed": 7,
            },
            "quality": {
                "rejects": [
                    {"feature": "precip_mm", "reason": "out_of_range", "share": 0.0031},
                    {"feature": "carrier", "reason": "missing_feature", "share": 0.0009},
                    {"feature": "", "reason": "decode", "share": 0.0002},
                ],
                "volume_per_s": 15_840.0 * share, "volume_reference_per_s": 16_900.0 * share,
            },
        }  # fmt: skip

    def _segments(self, drifted: int, share: float) -> list[dict[str, object]]:
        rows = {
            "origin=EWR": 402_000,
            "origin=JFK": 388_000,
            "origin=LGA": 311_000,
            "carrier=UA": 190_000,
            "carrier=HA": 410,
        }
        return [
            {"segment": name, "rows": int(count * share), "drifted": drifted + 2 - index if drifted and index < 3 else 0,
             "worst": "wind_gust_kmh" if index < 2 else "visibility_km"}
            for index, (name, count) in enumerate(rows.items())
        ]  # fmt: skip

    def _performance(self, version: str, newest_ms: int) -> dict[str, object]:
        ends = newest_ms - 600_000 * np.arange(72)[::-1]
        bad = self.state in {"alarm", "stale"}
        base = 0.871 if version == "7" else 0.879
        wave = 0.006 * np.sin(np.arange(72) / 5.0) + self._noise[0, :72] * 0.01 - 0.004
        fall = np.clip(np.arange(72) - 62, 0, 9) * (0.0055 if bad else 0.0)
        realised = [round(float(value), 4) for value in base + wave - fall]
        estimated = [round(float(value), 4) for value in base + wave * 0.6 - fall * 0.8 + 0.003]
        return {
            "metric": "accuracy", "baseline": base,
            "windows": [
                {"window_s": 60.0, "realised": None, "low": None, "high": None, "estimated": estimated[-1] - 0.004, "labels": 0},
                {"window_s": 600.0, "realised": realised[-8] - 0.004, "low": realised[-8] - 0.016,
                 "high": realised[-8] + 0.008, "estimated": estimated[-1], "labels": 1_840},
                {"window_s": 3600.0, "realised": realised[-8], "low": realised[-8] - 0.004, "high": realised[-8] + 0.004,
                 "estimated": estimated[-2], "labels": 96_210},
            ],
            "history": {"end_ms": [int(end) for end in ends], "realised": [*realised[:-6], *[None] * 6], "estimated": estimated},
        }  # fmt: skip

    def _incidents(self) -> list[dict[str, object]]:
        found = [
            _incident("i-41", "7", START_MS - 19 * 3_600_000, 47, "warning", "departures_1h moved on a public holiday",
                      [("data", "departures_1h", "", 0.11)]),
            _incident("i-40", "7", START_MS - 3 * 86_400_000, 122, "critical", "carrier stopped sending WN; accuracy fell",
                      [("data", "carrier", "", 0.048), ("concept", "output.probability", "", 0.09)]),
            _incident("i-39", "6", START_MS - 6 * 86_400_000, 12, "warning", "precip_mm missing in 4 % of rows",
                      [("quality", "precip_mm", "", 0.04)]),
        ]  # fmt: skip
        if self.state in {"alarm", "stale"}:
            reasons = [
                ("data", "wind_gust_kmh", "", 0.41), ("data", "visibility_km", "", 0.29),
                ("prediction", "output.probability", "", 0.12), ("segment", "wind_gust_kmh", "origin=EWR", 0.52),
                ("canary", "output.probability", "", 0.11),
            ]  # fmt: skip
            title = "2 features and the prediction moved"
            if self._extra:
                name, (effect, _) = next(iter(self._extra.items()))
                title, reasons = f"{name} moved", [("data", name, "", effect)]
            found.insert(0, _incident("i-42", "7", self.opened_ms, None, "critical", title, reasons))
        return found

    def _traffic(self, newest_ms: int) -> dict[str, object]:
        """Points at 10 s; the load has a daily shape, a small dip and a hiccup."""
        count = self._points
        walls = newest_ms - 10_000 * np.arange(count)[::-1]
        phase = 2 * np.pi * (walls / 3_600_000.0)
        load = 15_800 + 900 * np.sin(phase) + 180 * self._load
        hiccup = np.exp(-(((walls - (START_MS - 1_320_000)) / 45_000.0) ** 2))
        load *= 1 - 0.42 * hiccup
        if self.state == "learning":
            load[: int(count * 0.95)] = np.nan
        p50 = 3.1 + 0.12 * self._load + 2.2 * hiccup
        rejects = np.maximum(
            0, 66 + 9 * self._load + (40 if self.state in {"alarm", "stale"} else 0) * (walls > START_MS - 2_400_000)
        )
        return {
            "wall_ms": [int(wall) for wall in walls],
            "events_per_s": _numbers(load, 0), "rejects_per_s": _numbers(rejects, 1),
            "latency_p50_ms": _numbers(p50, 2), "latency_p99_ms": _numbers(p50 * 3.4 + np.abs(self._load) + 22 * hiccup, 2),
            "lag": _numbers(np.maximum(0, 800 + 220 * self._load + 41_000 * hiccup), 0),
        }  # fmt: skip

    def column(self, model: str, version: str, window_s: float, segment: str, name: str) -> dict[str, object] | None:
        if model != "delay" or version not in {"7", "8"} or window_s not in WINDOWS_S or name not in self._names:
            return None
        effects = self._effects(name, version, window_s) * (1.25 if segment else 1.0)
        kind = _effect_kind(name)
        goal, since_ms = self._goal(name, version, window_s)
        ends = self.now_ms - 4_000 - 10_000 * np.arange(LOOKS)[::-1]
        drifted = [bool(goal > 0 and end >= (since_ms or 0) + 100_000) for end in ends]
        missing = self._column(name, version)["missing"] + 0.001 * self._noise[3]
        seed = self._names.index(name)
        cells = (
            _category_cells(name, goal)
            if _kind(name) == "categorical"
            else _number_cells(seed, goal * (1.3 if segment else 1.0), name)
        )
        rows = int(1_980 * window_s * (0.9 if version == "7" else 0.1) * (0.3 if segment else 1.0))
        effect = float(effects[-1])
        return {
            "name": name, "kind": _kind(name),
            "origin": "output" if name.startswith("output.") else "feature", "window_s": window_s, "segment": segment,
            "cells": cells,
            "history": {
                "end_ms": [int(end) for end in ends], "effect": _numbers(effects, 5), "floor": FLOORS[kind],
                "p": [10.0 ** -(9 + 60 * value) if flag else 0.4 for value, flag in zip(effects.tolist(), drifted, strict=True)],
                "missing": _numbers(missing, 5), "drifted": drifted,
            },
            "statistics": {
                "chi_square_p": 10.0 ** -(9 + 60 * effect) if goal else 0.41, "ks_p": 10.0 ** -(8 + 51 * effect) if goal else 0.37,
                "psi": effect**2 * 1.4, "js": effect * 0.31, "hellinger": effect * 0.24, "wasserstein": effect,
                "total_variation": effect * 0.42, "l_infinity": effect * 0.09,
            },
            "rows": rows, "n_effective": rows * 0.61,
            "span": {"topic": "flights.events", "partitions": {str(p): [4_182_003 + 91 * p, 4_391_778 + 97 * p] for p in range(4)}},
            "replay": f"streamserve drift report --from flights.events --offsets 0:4182003-4391778 --column {name}",
        }  # fmt: skip


def _column_names(features: int) -> list[str]:
    names = [*NUMBERS, *CATEGORIES]
    names += [f"route_embedding[{index}]" for index in range(max(0, features - len(names)))]
    return [*names[: max(features, 1)], "output.probability", "output.class"]


def _kind(name: str) -> str:
    return "categorical" if name in CATEGORIES or name == "output.class" else "numeric"


def _effect_kind(name: str) -> str:
    if name == "precip_mm":
        return "share"
    return "js" if _kind(name) == "categorical" else "wasserstein"


def _numbers(values: np.ndarray, digits: int) -> list[float | None]:
    return [None if math.isnan(value) else round(float(value), digits) for value in values]


def _incident(identity, version, opened_ms, minutes, severity, title, reasons):
    return {
        "id": identity, "model": "delay", "version": version, "opened_ms": opened_ms,
        "cleared_ms": None if minutes is None else opened_ms + minutes * 60_000, "severity": severity, "title": title,
        "reasons": [
            {"kind": kind, "column": column, "window_s": 600.0, "segment": segment, "effect": effect,
             "effect_kind": _effect_kind(column), "p": 10.0 ** -(9 + 60 * effect), "since_ms": opened_ms}
            for kind, column, segment, effect in reasons
        ],
        "span": {"topic": "flights.events", "partitions": {"0": [4_182_003, 4_391_778], "1": [4_180_944, 4_390_116]}},
    }  # fmt: skip


def _number_cells(seed: int, goal: float, name: str) -> list[dict[str, object]]:
    """32 reference quantile bins of a skewed distribution, and the shares of a shifted one in them."""
    random = np.random.default_rng(seed)
    scale, base = 10.0 ** (seed % 3), random.uniform(1.5, 4.0)
    if name.startswith("output."):
        scale, base = 0.055, 2.4
    if name.startswith("route_embedding"):
        scale, base = 0.4, 0.0
    draws = np.sort(base * scale + scale * random.gamma(3.0 + seed % 4, 0.55, 60_000) - (scale * 2 if base == 0 else 0))
    edges = np.quantile(draws, np.arange(1, 32) / 32)
    shifted = draws + goal * draws.std() * 1.2 * (0.6 + random.random(len(draws)))
    shifted.sort()
    current = np.diff(np.concatenate([[0], np.searchsorted(shifted, edges, side="right"), [len(draws)]])) / len(draws)
    missing, missing_now = 0.002, 0.034 if name == "precip_mm" and goal else 0.0024
    lows = [None, *edges.tolist()]
    highs = [*edges.tolist(), None]
    cells = [
        {"label": f"{_short(low)} to {_short(high)}" if low is not None and high is not None else _open(low, high),
         "low": low, "high": high, "reference": (1 - missing) / 32, "current": float(share) * (1 - missing_now)}
        for low, high, share in zip(lows, highs, current, strict=True)
    ]  # fmt: skip
    return [
        *cells,
        {"label": "(not finite)", "low": None, "high": None, "reference": 0.0, "current": 0.0},
        {"label": "(missing)", "low": None, "high": None, "reference": missing, "current": missing_now},
    ]


def _category_cells(name: str, goal: float) -> list[dict[str, object]]:
    labels = CATEGORIES.get(name, CLASSES)
    reference = 1.0 / np.arange(1, len(labels) + 1) ** 0.8
    reference /= reference.sum()
    current = reference * (1 + 0.02 * np.sin(np.arange(len(labels))))
    if goal:
        current[0] *= 0.62
        current[2] *= 1.7
    current /= current.sum()
    other, unseen, missing = (0.004, 0.0, 0.001), (0.0, 0.011 if goal else 0.0, 0.0), (0.001, 0.0012, 0.0)
    cells = [
        {"label": label, "low": None, "high": None, "reference": float(was) * 0.995, "current": float(now) * 0.98}
        for label, was, now in zip(labels, reference, current, strict=True)
    ]
    return [
        *cells,
        {"label": "(other)", "low": None, "high": None, "reference": other[0], "current": other[0]},
        {"label": "(unseen)", "low": None, "high": None, "reference": 0.0, "current": unseen[1]},
        {"label": "(missing)", "low": None, "high": None, "reference": missing[0], "current": missing[1]},
    ]


def _short(value: float) -> str:
    return f"{value:.4g}"


def _open(low: float | None, high: float | None) -> str:
    return f"up to {_short(high)}" if high is not None else f"above {_short(low or 0.0)}"


def healthy() -> Health:
    """A health whose conditions are all met."""
    health = Health(SystemClock(), stall_s=60, conditions=("topics", "group"))
    health.condition("topics", met=True)
    health.condition("group", met=True)
    return health


def sources(board: SampleBoard, log: Log | None = None) -> Sources:
    """What a server around this board needs."""
    return Sources(
        board=board, health=healthy(), registry=CollectorRegistry(), clock=SystemClock(), log=log or Log.open(verbosity=-2)
    )  # fmt: skip


async def _serve(arguments: argparse.Namespace) -> None:
    board = SampleBoard(arguments.state, features=arguments.features, points=arguments.points)
    async with DashboardServer("127.0.0.1", arguments.port, sources(board, Log.open())) as server:
        sys.stderr.write(f"http://127.0.0.1:{server.port}/\n")
        while True:
            await asyncio.sleep(arguments.every)
            if arguments.state != "stale":
                board.step(PANE_S)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--state", choices=STATES, default="alarm")
    parser.add_argument("--port", type=int, default=8090)
    parser.add_argument("--every", type=float, default=2.0, help="seconds between two looks")
    parser.add_argument("--features", type=int, default=200)
    parser.add_argument("--points", type=int, default=360, help="length of the traffic series")
    asyncio.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
