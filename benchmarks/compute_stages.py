"""The stages that know no broker: decode, enrich, sample, infer, encode, and all of them together."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import orjson
from prometheus_client import CollectorRegistry

from benchmarks import models
from benchmarks.stage import BATCH, Case, Run
from streamserve.batch import EventBatch, Headers, ModelIdentity, PredictionBatch, RecordBatch, SampleBatch
from streamserve.codecs import build_decoder
from streamserve.codecs.dead_letter import DeadLetterEncoder
from streamserve.codecs.json import JsonReader
from streamserve.codecs.layout import EventLayout
from streamserve.codecs.msgpack import MsgpackReader
from streamserve.codecs.prediction import JsonPredictionEncoder
from streamserve.codecs.typed import TypedDecoder
from streamserve.codecs.wide import WideDecoder
from streamserve.composition.models import ModelBuilder, load_engine, resolve_model
from streamserve.config.settings import OutputSettings, PipelineSettings
from streamserve.drift.sampler import SampledVersion, Sampler
from streamserve.enrich import FeatureEnricher
from streamserve.pipeline.serving import Fixed, LoadedModel, single
from streamserve.pipeline.stages import Stages
from streamserve.ports import Signature, TensorSpec
from streamserve.telemetry.versions import VersionMetrics
from streamserve.worker.journal import CrashJournal
from streamserve.worker.quarantine import Quarantine

WIDTHS = (16, 64, 256, 784, 2048)
MODELS = {"mlp": 16, "ffnn": 784}
"""Model -> width of its vector."""
INFERRED = (1, 8, 64, 256, 512, 2048)
SCORED = (1, 64, 512)
FLOOD_PER_S = 200_000
"""Events a second of the sampled flood; a transaction holds a tenth of a second."""
MAX_BYTES = 1 << 20
FLAT = [{"name": f"feature_{i}", "min": 0, "max": 1000} for i in range(16)]


def decode_and_enrich(draw: random.Random) -> Iterator[Case]:
    """By format and width; what is enriched was JSON."""
    rows = [{str(f["name"]): draw.random() * 100 for f in FLAT} | {"id": f"event-{i}"} for i in range(BATCH)]
    yield from _decoded("flat 16", FLAT, rows)
    for width in WIDTHS:
        vector = {"field": "x", "size": width}
        yield from _decoded(f"vector {width}", vector, vectors(BATCH, width, draw))


def _decoded(name: str, features: Any, rows: list[dict[str, Any]]) -> Iterator[Case]:
    flat = isinstance(features, list)
    packed = [[row[f["name"]] for f in features] if flat else row["x"] for row in rows]
    values = {
        "json": [orjson.dumps(row) for row in rows],
        "msgpack": [msgspec.msgpack.encode(row) for row in rows],
        "raw": [np.array(numbers, "<f4").tobytes() for numbers in packed],
    }
    for kind, encoded in values.items():
        config = settings(features, format=kind, id=None if kind == "raw" else "id")
        decoder, records = build_decoder(config), record_batch(encoded)
        assert not decoder.decode(records)[1]
        yield Case(f"decode {kind}, {name}", _bound(decoder.decode, records))
    config = settings(features, id="id")
    events, _ = build_decoder(config).decode(record_batch(values["json"]))
    tensor = TensorSpec(name="x", dtype="float32", shape=(-1, len(packed[0])))
    enricher = FeatureEnricher(config.features, Signature(inputs=(tensor,), outputs=()))
    assert not enricher.enrich(events)[1]
    yield Case(f"enrich {name}", _bound(enricher.enrich, events))


def crossover(draw: random.Random) -> Iterator[Case]:
    """Vectors by width, typed and wide: where the `WIDE_SIZE` of `codecs/json.py` and `codecs/msgpack.py` are from."""
    for width in (8, 16, 24, 32, 40, 48, 64, 128):
        layout = EventLayout.of(settings({"field": "x", "size": width}, id="id"))
        rows = vectors(BATCH, width, draw)
        for kind, library, encoded, reader in (
            ("JSON", msgspec.json, orjson.dumps, JsonReader),
            ("MessagePack", msgspec.msgpack, msgspec.msgpack.encode, MsgpackReader),
        ):
            records = record_batch([encoded(row) for row in rows])
            decode = library.Decoder(layout.struct_type()).decode
            typed = TypedDecoder(layout, decode, format=kind, max_record_bytes=MAX_BYTES)
            wide = WideDecoder(layout, reader(layout, max_record_bytes=MAX_BYTES), typed)
            yield Case(f"{kind}, {width} numbers, typed", _bound(typed.decode, records))
            yield Case(f"{kind}, {width} numbers, wide", _bound(wide.decode, records))


def encode(draw: random.Random) -> Iterator[Case]:
    """One number, with its decision, ten numbers, texts; with carried headers and with the entity's."""
    one = TensorSpec(name="p", dtype="float32", shape=(-1, 1))
    ten = TensorSpec(name="p", dtype="float32", shape=(-1, 10))
    text = TensorSpec(name="label", dtype="str", shape=(-1, 1))
    outputs: dict[str, Any] = {
        "one": np.array([[draw.random()] for _ in range(BATCH)], np.float32),
        "ten": np.array([[draw.random() for _ in range(10)] for _ in range(BATCH)], np.float32),
        "text": np.array([[draw.choice(["late", "on time", "cancelled"])] for _ in range(BATCH)], object),
    }
    plain = record_batch([b"{}"] * BATCH)
    headers: list[Headers | None] = [[("traceparent", b"00-%032x-%016x-01" % (i, i))] for i in range(BATCH)]
    traced = replace(plain, headers=lambda: headers)
    for name, records, spec, values, thresholds, entity in (
        ("1 number", plain, one, outputs["one"], {}, False),
        ("1 number of one partition", one_partition(plain), one, outputs["one"], {}, False),
        ("1 number, decision", plain, one, outputs["one"], {"p": 0.5}, False),
        ("10 numbers", plain, ten, outputs["ten"], {}, False),
        ("text", plain, text, outputs["text"], {}, False),
        ("1 number, trace headers", traced, one, outputs["one"], {}, False),
        ("1 number, entity header", plain, one, outputs["one"], {}, True),
    ):
        output = OutputSettings.model_validate({"topic": "flights.predictions", "threshold": thresholds})
        encoder = JsonPredictionEncoder(output, [spec], entity_header=entity)
        model = ModelIdentity(name="flight-delay", version="3")
        made = PredictionBatch(events=events_of(records), outputs={spec.name: values}, model=model)
        yield Case(f"encode {name}", _bound(encoder.encode, made))


def infer_and_score(draw: random.Random, folder: Path, stack: ExitStack) -> Iterator[Case]:
    """The models behind everything that a worker puts around them, and every stage but Kafka's in a row."""
    for name, width in MODELS.items():
        models.save(models.mlp() if name == "mlp" else models.ffnn(), folder / name / "1")
        vector = {"field": "x", "size": width}
        config = settings(vector, id="id", model=name, repository=str(folder))
        model = loaded(config, folder / f"{name}-state", stack)
        decoder = build_decoder(config)
        values = [orjson.dumps(event) for event in vectors(max(INFERRED), width, draw)]
        identity = ModelIdentity(name=name, version="1")
        for rows in INFERRED:
            events, _ = decoder.decode(record_batch(values[:rows]))
            features, _ = model.enricher.enrich(events)
            yield Case(f"infer {name}, batch {rows}", _bound(model.infer.run, features, identity), rows)
        for rows in SCORED:
            records = one_partition(record_batch(values[:rows]))
            yield Case(f"all but kafka, {name}, batch {rows}", _bound(stages(config, model).score, records), rows)


def sample(draw: random.Random) -> Iterator[Case]:
    """Samples of a transaction of a flood, 2,000 rows a second of it."""
    for name, width in MODELS.items():
        config = settings({"field": "x", "size": width}, id="id", drift={"samples_per_s": 2000})
        assert config.drift is not None
        spec = TensorSpec(name="p", dtype="float32", shape=(-1, 1))
        sampler = Sampler.of(
            config,
            config.drift,
            lambda _, spec=spec: SampledVersion(outputs=(spec,)),
            secret=b"",
            partitions=4,
            max_bytes=MAX_BYTES,
            owned_share=lambda: 1.0,
        )
        decoder = build_decoder(config)
        values = [orjson.dumps(event) for event in vectors(BATCH, width, draw)]
        events, _ = decoder.decode(one_partition(record_batch(values)))
        batches = [
            SampleBatch(
                predictions=PredictionBatch(
                    events=replace(events, origin=replace(events.origin)),
                    outputs={"p": np.full((BATCH, 1), 0.5, np.float32)},
                    model=ModelIdentity(name="m", version="1"),
                ),
                row=events.row,
            )
            for _ in range(FLOOD_PER_S // 10 // BATCH)
        ]
        transaction = [(batch, ()) for batch in batches]
        clock = iter(range(1 << 62))
        for _ in range(30):  # until the level is that of the flood
            sampler.sample(transaction, next(clock) / 10, 1)
        run: Run = lambda sampler=sampler, transaction=transaction, clock=clock: sampler.sample(  # noqa: E731
            transaction, next(clock) / 10, 1
        )
        yield Case(f"sample {name}, 2,000 of {FLOOD_PER_S:,} a second", run, BATCH * len(batches))


def loaded(config: PipelineSettings, state: Path, stack: ExitStack) -> LoadedModel:
    """A version as a slot loads it, with journal and quarantine."""
    builder = ModelBuilder(
        config,
        load=lambda files, on_padding: load_engine(config, files, on_padding),
        quarantine=Quarantine.load(state, "bench"),
        journal=stack.enter_context(CrashJournal(state, "bench")),
        metrics=VersionMetrics(CollectorRegistry(), pipeline="bench", model=config.model.name),
    )
    return builder.build(resolve_model(config))


def stages(config: PipelineSettings, model: LoadedModel) -> Stages:
    """The compute thread's work."""
    letters = DeadLetterEncoder("flights.departures.dlq", "bench", MAX_BYTES, None)
    return Stages(
        decoder=build_decoder(config),
        deployments=Fixed(single(model)),
        reject_encoders=lambda _: letters,
        max_output_bytes=MAX_BYTES,
    )


def vectors(count: int, size: int, draw: random.Random) -> list[dict[str, Any]]:
    """Events with numbers of six digits."""
    numbers = [round(draw.random(), 6) for _ in range(size + count)]
    return [{"id": f"event-{i}", "x": numbers[i : i + size]} for i in range(count)]


def record_batch(values: list[bytes]) -> RecordBatch:
    """Records of four partitions by turns; where they end is known, as it is of polled ones."""
    count = len(values)
    records = RecordBatch(
        topic=["flights.departures"] * count,
        partition=[i % 4 for i in range(count)],
        offset=[4_000_000 + i for i in range(count)],
        timestamp_ms=[1_372_941_000_000 + i for i in range(count)],
        key=[b"%d" % i for i in range(count)],
        value=list(values),
    )
    return replace(records, positions=records.next_positions())


def one_partition(records: RecordBatch) -> RecordBatch:
    """The same, all of one partition, as a worker polls them when there is a backlog."""
    one = replace(records, partition=[3] * len(records), positions=None)
    return replace(one, positions=one.next_positions())


def events_of(records: RecordBatch) -> EventBatch:
    """Events without fields."""
    return EventBatch(
        origin=records,
        row=list(range(len(records))),
        id=[f"event-{i}" for i in range(len(records))],
        entity=records.key,
        event_time_ms=records.timestamp_ms,
        fields={},
    )


def settings(
    features: Any, *, format: str = "json", id: str | None, model: str = "m", repository: str = "", **more: Any
) -> PipelineSettings:
    """A pipeline with these features."""
    return PipelineSettings.model_validate(
        {
            "pipeline": "bench",
            "kafka": {},
            "input": {"topics": ["flights.departures"], "format": format, "id": id},
            "features": features,
            "model": {"name": model} | ({"repository": repository} if repository else {}),
            "output": {"topic": "flights.predictions"},
            "dead_letter": {"topic": "flights.departures.dlq"},
            **more,
        }
    )


def _bound(call: Any, *arguments: object) -> Run:
    return lambda: call(*arguments)
