"""What the drift monitor costs: 2,000 sampled rows a second of 200 features with 3 segments, event time at full speed.

CPU seconds per second of the stream (decoding of chunks included), resident memory, ten models at once, and the cost of
a look at windows of a thousand and of a million rows. No broker is in it: `streamserve.drift.monitor` as the sidecar
runs it.

    python -m benchmarks.monitor [--seconds 900]
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from streamserve.config.drift_settings import SegmentSettings
from streamserve.config.settings import PipelineSettings
from streamserve.drift.baseline import BaselineOptions, build
from streamserve.drift.chunk import SampleChunk, SampledColumn, Span, TextColumn, encode
from streamserve.drift.monitor import Monitor
from streamserve.drift.profile import Profile
from streamserve.drift.reference import Reference
from streamserve.drift.schema import CELLS
from streamserve.drift.version_watch import Identity, VersionWatch

FEATURES, ROWS_PER_S, CHUNK_ROWS = 200, 2000, 200
START_MS = 1_700_000_000_000
REGIONS = ("north", "south", "west")
SEGMENTS = [SegmentSettings(feature="region", values=list(REGIONS))]


def settings() -> PipelineSettings:
    names = [f"f{i:03}" for i in range(FEATURES - 1)]
    return PipelineSettings.model_validate(
        {
            "pipeline": "bench",
            "kafka": {"bootstrap.servers": "localhost:1"},
            "input": {"topics": ["events"]},
            "features": [*({"name": name} for name in names), {"name": "region", "dtype": "string"}],
            "model": {"name": "m0"},
            "output": {"topic": "scores"},
            "dead_letter": {"topic": "bad"},
            "drift": {"segments": [each.model_dump() for each in SEGMENTS]},
        }
    )


def columns(rng: np.random.Generator, n: int) -> dict[str, SampledColumn]:
    block = rng.normal(size=(FEATURES - 1, n))
    found: dict[str, SampledColumn] = {f"f{i:03}": block[i] for i in range(FEATURES - 1)}
    found["region"] = TextColumn(codes=rng.integers(0, 3, n).astype(np.uint32), values=REGIONS)
    found["output.score"] = rng.random(n)
    return found


def chunks(model: str, seconds: int, seed: int) -> Iterator[bytes]:
    """A stream as one worker writes it; ten different chunks in turn, each under its own offsets and times."""
    rng = np.random.default_rng(seed)
    pool = [columns(rng, CHUNK_ROWS) for _ in range(10)]
    per_s = ROWS_PER_S // CHUNK_ROWS
    for number in range(seconds * per_s):
        first = number * CHUNK_ROWS
        times = START_MS + (first + np.arange(CHUNK_ROWS)) * 1000 // ROWS_PER_S
        yield encode(
            SampleChunk(
                pipeline="bench",
                model=model,
                version="1",
                role="stable",
                reference="",
                spans=(Span("events", 0, first, first + CHUNK_ROWS, CHUNK_ROWS),),
                span=np.zeros(CHUNK_ROWS, np.uint32),
                offset=first + np.arange(CHUNK_ROWS),
                event_time_ms=times,
                timestamp_ms=times,
                level=np.zeros(CHUNK_ROWS, np.uint8),
                id=[str(i) for i in range(first, first + CHUNK_ROWS)],
                entity=[None] * CHUNK_ROWS,
                columns=pool[number % 10],
                rejects=(),
                written_ms=int(times[-1]) + 20,
            )
        )


class References:
    """One reference for all models."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        n = 40_000
        self._rows = columns(rng, n)
        self._times = START_MS - 600_000 + np.arange(n) * 15
        self._made: dict[str, Reference] = {}

    def find(self, model: str, version: str) -> Reference:
        if model not in self._made:
            options = BaselineOptions(
                model=model, version=version, pane_s=10, created_ms=0, source="bench", segments=SEGMENTS
            )
            self._made[model] = build(self._rows, self._times, options)
        return self._made[model]


def resident_mib() -> float:
    """Memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 2**20


def stream_cost(models: int, seconds: int, references: References) -> dict[str, float]:
    """CPU seconds per second of the stream, and memory after half and after all of it."""
    for i in range(models):
        references.find(f"m{i}", "1")
    monitor = Monitor(settings(), references)
    sources = [chunks(f"m{i}", seconds, i) for i in range(models)]
    spent_s = 0.0
    half_mib = 0.0
    offset = 0
    total = seconds * ROWS_PER_S // CHUNK_ROWS
    for turn in range(total):
        batch = [next(source) for source in sources]
        began_s = time.process_time()
        for data in batch:
            monitor.chunk(data, offset, START_MS)
            offset += 1
        spent_s += time.process_time() - began_s
        if turn == total // 2:
            half_mib = resident_mib()
    if monitor.counts.merged != offset:
        raise SystemExit(f"{monitor.counts} of {offset} chunks")
    return {"cpu_per_s": spent_s / seconds, "half_mib": half_mib, "end_mib": resident_mib()}


def look_cost(rows: int, references: References, repeat: int = 50) -> float:
    """Milliseconds for a look at a window of so many rows."""
    config = settings()
    reference = references.find("m0", "1")
    identity = Identity(pipeline="bench", model="m0", version="1")
    watch = VersionWatch(identity, config.drift, reference)  # type: ignore[arg-type]  # it has a drift block
    rng = np.random.default_rng(1)
    shares = reference.counts / reference.counts.sum(axis=1, keepdims=True)
    counts = np.array([rng.multinomial(rows, share) for share in shares])
    profile = Profile(counts.reshape(-1, CELLS), rows, rows, 0)
    began_s = time.process_time()
    for _ in range(repeat):
        watch.decider.look(reference, profile.counts, window_s=3600.0, level=profile.level)
    return (time.process_time() - began_s) / repeat * 1000


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=int, default=900, help="seconds of the stream")
    options = parser.parse_args()
    references = References()
    found: dict[str, object] = {"bench": "monitor", "seconds": options.seconds}
    found["one_model"] = stream_cost(1, options.seconds, references)
    found["ten_models"] = stream_cost(10, options.seconds // 5, references)
    found["look_ms"] = {str(rows): look_cost(rows, references) for rows in (1000, 1_000_000)}
    json.dump(found, sys.stdout, indent=2)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
