"""What a stage costs an event: decode, enrich and encode on seeded workloads, best of several runs.

    python benchmarks/stages.py [--batch 512] [--seconds 0.5] [--seed 7] [--crossover]

Prints microseconds an event. `--crossover` prints instead what a JSON vector costs by width in each of the two
decoders, which is where `WIDE_SIZE` in `streamserve/codecs/json.py` comes from. Asserts nothing about time.
"""

from __future__ import annotations

import argparse
import platform
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np
import orjson

from streamserve.batch import EventBatch, ModelIdentity, PredictionBatch, RecordBatch
from streamserve.codecs import build_decoder
from streamserve.codecs.json import WIDE_SIZE, WideJsonDecoder
from streamserve.codecs.layout import EventLayout
from streamserve.codecs.prediction import JsonPredictionEncoder
from streamserve.codecs.typed import TypedDecoder
from streamserve.config.settings import OutputSettings, PipelineSettings
from streamserve.enrich import FeatureEnricher
from streamserve.ports import Signature, TensorSpec

Run = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description="Microseconds an event, a stage a line.")
    parser.add_argument("--batch", type=int, default=512, help="events in a batch")
    parser.add_argument("--seconds", type=float, default=0.5, help="time spent on each line")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--crossover", action="store_true", help="JSON vectors by width, both decoders")
    options = parser.parse_args()
    draw = random.Random(options.seed)
    print(f"{platform.machine()}, Python {platform.python_version()}, batch {options.batch}, seed {options.seed}")
    if options.crossover:
        print(f"{'numbers':>8} {'msgspec':>9} {'simdjson':>9}   (simdjson from {WIDE_SIZE} on)")
        for size in (16, 32, 40, 48, 64, 128, 784):
            runs = crossover(options.batch, size, draw)
            cells = [best_us(run, options.batch, options.seconds) for run in runs]
            print(f"{size:8} {cells[0]:9.2f} {cells[1]:9.2f}")
        return
    print(f"{'stage':32} {'us/event':>9}")
    for name, run in stages(options.batch, draw):
        print(f"{name:32} {best_us(run, options.batch, options.seconds):9.3f}")


def best_us(run: Run, events: int, seconds: float) -> float:
    """Microseconds an event in the fastest of the runs that fit into `seconds` (at least three)."""
    best, runs, until = float("inf"), 0, time.perf_counter() + seconds
    while runs < 3 or time.perf_counter() < until:
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
        runs += 1
    return best / events * 1e6


def stages(count: int, draw: random.Random) -> Iterator[tuple[str, Run]]:
    """Every line of the table."""
    flat: list[dict[str, Any]] = [{"name": f"feature_{i}", "min": 0, "max": 1000} for i in range(16)]
    rows = [{f["name"]: draw.random() * 100 for f in flat} | {"id": f"event-{i}"} for i in range(count)]
    yield from decode_and_enrich("json, flat 16", flat, 16, [orjson.dumps(row) for row in rows], "json")
    yield from decode_and_enrich("msgpack, flat 16", flat, 16, [msgspec.msgpack.encode(r) for r in rows], "msgpack")
    for size in (16, 784):
        vector = {"field": "features", "size": size}
        events = vectors(count, size, draw)
        values = [orjson.dumps(event) for event in events]
        yield from decode_and_enrich(f"json, vector {size}", vector, size, values, "json")
        packed = [msgspec.msgpack.encode(event) for event in events]
        yield from decode_and_enrich(f"msgpack, vector {size}", vector, size, packed, "msgpack")
        raw = [np.array(event["features"], "<f4").tobytes() for event in events]
        yield from decode_and_enrich(f"raw, vector {size}", vector, size, raw, "raw")
    yield from encode(count, draw)


def decode_and_enrich(
    name: str, features: Any, size: int, values: list[bytes], format: str
) -> Iterator[tuple[str, Run]]:
    config = settings(features, format, None if format == "raw" else "id")
    decoder = build_decoder(config)
    records = record_batch(values)
    events, rejects = decoder.decode(records)
    tensor = TensorSpec(name="input", dtype="float32", shape=(-1, size))
    enricher = FeatureEnricher(config.features, Signature(inputs=(tensor,), outputs=()))
    assert not rejects
    assert not enricher.enrich(events)[1]
    yield f"decode {name}", lambda: decoder.decode(records)
    yield f"enrich {name}", lambda: enricher.enrich(events)


def encode(count: int, draw: random.Random) -> Iterator[tuple[str, Run]]:
    records = record_batch([b"{}"] * count)
    events = EventBatch(
        origin=records,
        row=list(range(count)),
        id=[f"event-{i}" for i in range(count)],
        entity=records.key,
        event_time_ms=records.timestamp_ms,
        fields={},
    )
    for name, width, thresholds in (
        ("1 output", 1, {}),
        ("1 output, threshold", 1, {"p": 0.5}),
        ("10 numbers", 10, {}),
    ):
        spec = TensorSpec(name="p", dtype="float32", shape=(-1, width))
        values = np.array([draw.random() for _ in range(count * width)], np.float32).reshape(count, width)
        model = ModelIdentity(name="flight-delay", version="3")
        predictions = PredictionBatch(events=events, outputs={"p": values}, model=model)
        output = OutputSettings.model_validate({"topic": "flights.predictions", "threshold": thresholds})
        encoder = JsonPredictionEncoder(output, [spec])
        yield f"encode {name}", lambda encoder=encoder, made=predictions: encoder.encode(made)  # type: ignore[misc]


def crossover(count: int, size: int, draw: random.Random) -> tuple[Run, Run]:
    """Decode the same JSON vectors with msgspec and with simdjson."""
    records = record_batch([orjson.dumps(event) for event in vectors(count, size, draw)])
    layout = EventLayout.of(settings({"field": "features", "size": size}, "json", "id"))
    decode = msgspec.json.Decoder(layout.struct_type()).decode
    typed = TypedDecoder(layout, decode, format="JSON", max_record_bytes=1 << 20)
    wide = WideJsonDecoder(layout, typed, max_record_bytes=1 << 20)
    return lambda: typed.decode(records), lambda: wide.decode(records)


def vectors(count: int, size: int, draw: random.Random) -> list[dict[str, Any]]:
    """Events with numbers of six digits."""
    return [{"id": f"event-{i}", "features": [round(draw.random(), 6) for _ in range(size)]} for i in range(count)]


def record_batch(values: list[bytes]) -> RecordBatch:
    count = len(values)
    return RecordBatch(
        topic=["flights.departures"] * count,
        partition=[i % 4 for i in range(count)],
        offset=[4_000_000 + i for i in range(count)],
        timestamp_ms=[1_372_941_000_000 + i for i in range(count)],
        key=[b"%d" % i for i in range(count)],
        value=list(values),
    )


def settings(features: Any, format: str, id: str | None) -> PipelineSettings:
    return PipelineSettings.model_validate(
        {
            "pipeline": "bench",
            "kafka": {},
            "input": {"topics": ["flights.departures"], "format": format, "id": id},
            "features": features,
            "model": {"name": "m"},
            "output": {"topic": "flights.predictions"},
            "dead_letter": {"topic": "flights.departures.dlq"},
        }
    )


if __name__ == "__main__":
    main()
