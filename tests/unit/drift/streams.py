"""Seeded streams of sample chunks, as workers would write them."""

from __future__ import annotations

import numpy as np

from streamserve.config.settings import PipelineSettings
from streamserve.drift.baseline import BaselineOptions, build
from streamserve.drift.cells import derived
from streamserve.drift.chunk import SampleChunk, Span, TextColumn
from streamserve.drift.reference import Reference

MODEL, VERSION, TOPIC = "fraud", "3", "payments"
START_MS = 1_700_000_000_000
COLOURS = np.array(["red", "green", "blue"])


def settings(**drift) -> PipelineSettings:
    return PipelineSettings.model_validate(
        {
            "pipeline": "payments",
            "kafka": {"bootstrap.servers": "localhost:1"},
            "input": {"topics": [TOPIC]},
            "features": [{"name": "x"}, {"name": "y"}, {"name": "colour", "dtype": "string"}],
            "model": {"name": MODEL},
            "output": {"topic": "scores"},
            "dead_letter": {"topic": "bad"},
            "drift": {"samples_per_s": "all", "windows_s": [60, 600], **drift},
        }
    )


class Stream:
    """Rows of every partition, one after the other in time; `shift` moves x from `shift_at_s` on."""

    def __init__(self, seconds: float, per_s: float, *, seed: int, shift: float = 0.0, shift_at_s: float = 1e9) -> None:
        rng = np.random.default_rng(seed)
        n = round(seconds * per_s)
        self.n = n
        self.time_ms = START_MS + np.arange(n) * 1000 // round(per_s)
        late = self.time_ms >= START_MS + shift_at_s * 1000
        self.x = rng.normal(size=n) + shift * late
        self.y = rng.exponential(size=n)
        self.y[rng.random(n) < 0.01] = np.nan
        self.colour = COLOURS[rng.choice(3, n, p=[0.7, 0.2, 0.1])]
        self.partition = np.arange(n) % 4
        self.offset = np.arange(n) // 4

    def columns(self, rows) -> dict:
        x = self.x[rows]
        return {
            "x": x,
            "y": self.y[rows],
            "colour": TextColumn.of(self.colour[rows].tolist()),
            "output.p": 1 / (1 + np.exp(-x)),
        }

    def chunk(self, start: int, stop: int, *, partitions=(0, 1, 2, 3), version=VERSION, role="stable") -> SampleChunk:
        """The rows from `start` up to `stop` of these partitions, by partition."""
        parts = [np.arange(start, stop)[self.partition[start:stop] == p] for p in partitions]
        rows = np.concatenate(parts)
        spans = tuple(
            Span(TOPIC, p, int(self.offset[part[0]]), int(self.offset[part[-1]]) + 1, len(part))
            for p, part in zip(partitions, parts, strict=True)
        )
        span = np.repeat(np.arange(len(parts)), [len(part) for part in parts]).astype(np.uint32)
        return SampleChunk(
            pipeline="payments",
            model=MODEL,
            version=version,
            role=role,
            reference="",
            spans=spans,
            span=span,
            offset=self.offset[rows],
            event_time_ms=self.time_ms[rows],
            timestamp_ms=self.time_ms[rows],
            level=np.zeros(len(rows), np.uint8),
            id=[f"{self.partition[i]}-{self.offset[i]}" for i in rows.tolist()],
            entity=[None] * len(rows),
            columns=self.columns(rows),
            rejects=(),
            written_ms=int(self.time_ms[rows].max()) + 20,
        )

    def chunks(self, rows: int):
        """All rows in chunks of so many."""
        for start in range(0, self.n - self.n % rows, rows):
            yield self.chunk(start, start + rows)


def reference(seconds: float = 3600, per_s: float = 20, *, seed: int = 99, segments=()) -> Reference:
    stream = Stream(seconds, per_s, seed=seed)
    options = BaselineOptions(
        model=MODEL, version=VERSION, pane_s=10, created_ms=START_MS, source="a seeded stream", segments=segments
    )
    return build(derived(stream.columns(np.arange(stream.n)), None), stream.time_ms, options)


class Fixed:
    """References that were made before."""

    def __init__(self, *references: Reference) -> None:
        self._references = {(each.model, each.version): each for each in references}

    def find(self, model: str, version: str) -> Reference | None:
        return self._references.get((model, version))

    def put(self, reference: Reference) -> None:
        self._references[reference.model, reference.version] = reference
