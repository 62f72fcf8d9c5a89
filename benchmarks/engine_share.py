"""The worker against its own engine: how much of the model's raw throughput is left when Kafka is around it.

A perceptron that takes some 2 ms a row on one thread, 64 rows a batch, exactly once, a backlog in a real broker. By
turns the bare engine runs for a while (what `streamserve model bench` measures), and a worker works the backlog off.

* ratio: rows a second, worker over engine; the worker's by the times at which its predictions were produced.
* CPU ratio: CPU seconds a row, engine over the whole worker process. Other processes on the cores do not change it.
* inside the engine: share of the time from the first prediction to the last that the worker spent in `Engine.infer`.

    .venv/bin/python -m benchmarks.engine_share --repetitions 5 --seconds 10
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks import models
from benchmarks.broker import Bench
from benchmarks.measure import cpu_s
from benchmarks.results import say, spread, verdict
from benchmarks.running import Metrics, Slot, free_port, wait_for
from benchmarks.workloads import Workload
from streamserve.config.engine_settings import EngineSettings
from streamserve.demo.local_kafka import LocalKafka
from streamserve.engines.benchmark import measure, synthetic
from streamserve.engines.onnx import OnnxEngine
from tests.services import read_all

BATCH = 64
EVENTS = Workload(name="mlp", width=16, output="probability", backlog=0)


def config(bootstrap: str, folder: Path, pipeline: str, port: int, in_flight: int) -> str:
    """The worker's settings."""
    return f"""
version: 1
pipeline: {pipeline}
kafka: {{bootstrap.servers: "{bootstrap}"}}
input: {{topics: [deep.events], format: json, id: id}}
features: {{field: x, size: 16}}
model: {{name: deep, repository: "{folder / "models"}"}}
engine: {{max_batch_size: {BATCH}, threads: 1, in_flight: {in_flight}}}
output: {{topic: {pipeline}.predictions}}
dead_letter: {{topic: {pipeline}.dlq}}
http: {{port: {port}}}
state_dir: {folder / pipeline}
"""


class Rate(NamedTuple):
    """Rows a second, and CPU seconds a row."""

    rows_per_s: float
    cpu_s_per_row: float


def raw(folder: Path, seconds: float) -> Rate:
    """The bare engine."""
    engine = OnnxEngine(folder / "models" / "deep" / "1" / "model.onnx", EngineSettings(threads=1))
    began_cpu_s = time.process_time()
    (result,) = measure(engine, {None: synthetic(engine.signature, [])}, [BATCH], seconds)
    cpu_s = time.process_time() - began_cpu_s
    engine.close()
    (size,) = result.sizes
    return Rate(size.rows_per_s, cpu_s / ((size.runs + 1) * BATCH))  # one more to warm it


def worker(bench: Bench, bootstrap: str, folder: Path, name: str, events: int, in_flight: int) -> tuple[Rate, float]:
    """A worker on the backlog, and the share of its time inside the engine."""
    bench.create(f"{name}.predictions", f"{name}.dlq")
    port = free_port()
    text = config(bootstrap, folder, name, port, in_flight)
    with Slot(text, folder, name) as slot:
        assert slot.process is not None
        wait_for(lambda: slot.alive() and _predicted(port) > 0, 60)
        before, before_cpu_s = _predicted(port), cpu_s(slot.process.pid)
        wait_for(lambda: slot.alive() and _predicted(port) >= events, 300, every_s=1)
        done, done_cpu_s = Metrics(port), cpu_s(slot.process.pid)
    rows = done.total("predictions_total") - before
    produced_ms = np.sort([message.timestamp()[1] for message in read_all(bootstrap, f"{name}.predictions")])
    begun_ms, ended_ms = produced_ms[0], produced_ms[-1]
    rate = float((produced_ms > begun_ms).sum() / (ended_ms - begun_ms) * 1000)
    engine_s_per_row = done.total("infer_duration_seconds_sum") / done.total("batch_size_sum")
    return Rate(rate, (done_cpu_s - before_cpu_s) / rows), engine_s_per_row * rate


def _predicted(port: int) -> float:
    try:
        return Metrics(port).total("predictions_total")
    except OSError:  # it has not started to listen yet
        return 0.0


def main() -> int:
    """Run, print, keep the results. Returns: 3 when a bound falls."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each side, about")
    parser.add_argument("--in-flight", type=int, default=1)
    options = parser.parse_args()
    figures: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as path, LocalKafka() as kafka:
        folder = Path(path)
        models.save(models.deep(), folder / "models" / "deep" / "1")
        bench = Bench(kafka.bootstrap, folder)
        events = int(raw(folder, 2).rows_per_s * options.seconds)
        bench.fill("deep.events", EVENTS.events(events))
        say(f"{events} events, {BATCH} a batch, {options.in_flight} in flight")
        for number in range(options.repetitions):
            bare = raw(folder, options.seconds)
            kafka_too, share = worker(bench, kafka.bootstrap, folder, f"deep{number}", events, options.in_flight)
            found = {
                "deep.engine_rows_per_s": bare.rows_per_s,
                "deep.worker_rows_per_s": kafka_too.rows_per_s,
                "deep.worker_over_engine": kafka_too.rows_per_s / bare.rows_per_s,
                "deep.cpu_ratio": bare.cpu_s_per_row / kafka_too.cpu_s_per_row,
                "deep.share_in_engine": share,
            }
            for figure, value in found.items():
                figures.setdefault(figure, []).append(value)
            say("  ".join(f"{figure.removeprefix('deep.')} {value:.3f}" for figure, value in found.items()))
    for figure, values in figures.items():
        say(f"{figure:26} {spread(values)}")
    return verdict(figures)


if __name__ == "__main__":
    sys.exit(main())
