"""How much comes and how old it is, by the workers' clocks, for the page: the last ten minutes in slices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from streamserve.batch import I64
from streamserve.drift.chunk import SampleChunk

SLICE_MS = 5000
SLICES = 120
LATENCY_EDGES_MS = np.concatenate([[0.0], np.geomspace(1, 600_000, 120)])
"""Bins of latency, 12 % wide: a percentile read from them is off by half of that at most."""


def _no_latencies() -> I64:
    return np.zeros(len(LATENCY_EDGES_MS) + 1, dtype=np.int64)


@dataclass(slots=True)
class _Slice:
    consumed: int = 0
    rejected: int = 0
    latencies: I64 = field(default_factory=_no_latencies)


class Traffic:
    """Counts of the last slices; later chunks of an old slice are added to it while it is held."""

    def __init__(self) -> None:
        self._slices: dict[int, _Slice] = {}

    def add(self, chunk: SampleChunk, consumed: int, wall_ms: int) -> None:
        """Count a chunk, of which `consumed` records are new."""
        now = wall_ms // SLICE_MS
        number = min(chunk.written_ms // SLICE_MS, now)
        if number <= now - SLICES:
            return
        held = self._slices.setdefault(number, _Slice())
        held.consumed += consumed
        held.rejected += sum(reject.count for reject in chunk.rejects)
        stamped = chunk.timestamp_ms >= 0
        if stamped.any():
            age_ms = np.maximum(chunk.written_ms - chunk.timestamp_ms[stamped], 0)
            place = np.searchsorted(LATENCY_EDGES_MS, age_ms, side="right")
            weights = np.ldexp(1.0, chunk.level[stamped].astype(np.int64))
            held.latencies += np.bincount(place, weights=weights, minlength=len(held.latencies)).astype(np.int64)
        for old in [n for n in self._slices if n <= now - SLICES]:
            del self._slices[old]

    def slices(self) -> dict[int, _Slice]:
        """What is held, by number."""
        return self._slices

    def newest_ms(self) -> int | None:
        """When the newest chunk was written."""
        return max(self._slices) * SLICE_MS if self._slices else None


def joined_traffic(parts: Sequence[Traffic]) -> dict[str, list[object]]:
    """The traffic of several models in columns for the page; the newest slice is left out while it may be filling."""
    numbers = sorted({number for part in parts for number in part.slices()})[:-1]
    held = [[part.slices()[number] for part in parts if number in part.slices()] for number in numbers]
    latencies = [np.sum([each.latencies for each in group], axis=0) for group in held]
    return {
        "wall_ms": [(number + 1) * SLICE_MS for number in numbers],
        "events_per_s": [round(sum(each.consumed for each in group) * 1000 / SLICE_MS, 1) for group in held],
        "rejects_per_s": [round(sum(each.rejected for each in group) * 1000 / SLICE_MS, 2) for group in held],
        "latency_p50_ms": [_percentile(each, 0.5) for each in latencies],
        "latency_p99_ms": [_percentile(each, 0.99) for each in latencies],
    }


def _percentile(latencies: I64, share: float) -> float | None:
    total = int(latencies.sum())
    if not total:
        return None
    place = int(np.searchsorted(np.cumsum(latencies), share * total))
    return float(round(LATENCY_EDGES_MS[min(place, len(LATENCY_EDGES_MS) - 1)], 1))
