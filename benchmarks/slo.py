"""The latency goal: records within it at half and at four fifths of the capacity, and the way back after a stall.

A perceptron of some tenths of a millisecond a row on one thread, `slo_ms: 50`, exactly once, one worker, a real broker.
First the capacity: a backlog with the largest batches. Then events of an open loop at shares of it, each with its due
time in its id and as its timestamp's equal; latency counts until a `read_committed` reader has the prediction.

For the stall the worker's process is stopped by a signal for ten seconds while events go on. Time to catch up: from its
continuation to the first second in which half of what a reader gets is younger than twice the goal. Every late record
must be accounted for: the worker's counters, the predictions marked as fallbacks and the dead letters are compared.

    .venv/bin/python -m benchmarks.slo --seconds 12 --stall 10
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from confluent_kafka import Producer

from benchmarks import models
from benchmarks.broker import Bench
from benchmarks.open_loop import Reader, Sent, send, until_first
from benchmarks.results import say, verdict
from benchmarks.running import Metrics, Slot, free_port, wait_for
from benchmarks.workloads import PARTITIONS, Workload
from streamserve.demo.local_kafka import LocalKafka
from tests.services import read_all

GOAL_MS = 50
MAX_BATCH = 512
NEVER_S = 86_400
EVENTS = Workload(name="mlp", width=16, output="probability", backlog=0)
WARM_S = 3.0


class Run(NamedTuple):
    """A worker at work: its topics, its metrics' port, its process."""

    topic: str
    output: str
    dead: str
    port: int
    slot: Slot


class Scene:
    """One broker, one model; starts workers."""

    def __init__(self, kafka: LocalKafka, folder: Path) -> None:
        self.bootstrap = kafka.bootstrap
        self.bench = Bench(kafka.bootstrap, folder)
        self.vector = EVENTS.events(1)[0].split(b'"x":')[1][:-1].decode()
        self._folder = folder
        self._runs = 0

    @contextmanager
    def worker(self, engine: str, topic: str | None = None) -> Iterator[Run]:
        """A worker with these engine settings, on a topic of its own unless one is given."""
        self._runs += 1
        name = f"slo{self._runs}"
        if topic is None:
            topic = f"{name}.events"
            self.bench.create(topic)
        self.bench.create(f"{name}.predictions", f"{name}.dlq")
        port = free_port()
        text = f"""
version: 1
pipeline: {name}
kafka: {{bootstrap.servers: "{self.bootstrap}"}}
input: {{topics: [{topic}], format: json, id: id}}
features: {{field: x, size: 16}}
model: {{name: deep, repository: "{self._folder / "models"}"}}
engine: {{max_batch_size: {MAX_BATCH}, threads: 1, {engine}}}
output: {{topic: {name}.predictions}}
dead_letter: {{topic: {name}.dlq, max_ratio: 1}}
http: {{port: {port}}}
state_dir: {self._folder / name}
"""
        with Slot(text, self._folder, name) as slot:
            yield Run(topic, f"{name}.predictions", f"{name}.dlq", port, slot)

    def capacity(self, events: int) -> float:
        """Rows a second with the largest batches, by when the predictions of a backlog were produced."""
        self.bench.fill("backlog", EVENTS.events(events))
        with self.worker("in_flight: 1", "backlog") as run:
            wait_for(lambda: run.slot.alive() and predicted(run.port) >= events, 120, every_s=0.5)
        produced_ms = np.sort([message.timestamp()[1] for message in read_all(self.bootstrap, run.output)])
        begun_ms, ended_ms = produced_ms[0], produced_ms[-1]
        return float((produced_ms > begun_ms).sum() / (ended_ms - begun_ms) * 1000)

    @contextmanager
    def reading(self, run: Run) -> Iterator[tuple[Reader, Producer]]:
        """A reader of the predictions and a producer of events, the worker warm."""
        reader = Reader(self.bootstrap, run.output, PARTITIONS)
        reader.start()
        try:
            producer = Producer({"bootstrap.servers": self.bootstrap, "linger.ms": 1})
            until_first(producer, reader, run.topic, self.vector)
            yield reader, producer
        finally:
            reader.stop()

    def steady(self, engine: str, rate: int, seconds: float) -> tuple[float, float, float]:
        """Share of the records within the goal, median and p99 in milliseconds, at a rate."""
        with self.worker(engine) as run, self.reading(run) as (reader, producer):
            sent = send(producer, run.topic, PARTITIONS, rate, WARM_S + seconds, self.vector)
            drained(reader, sent.events)
            due, latency_ms = latencies(reader)
        late_ones = latency_ms[due > due.max() - seconds * 1e9]
        p50, p99 = np.percentile(late_ones, [50, 99])
        return float((late_ones <= GOAL_MS).mean()), float(p50), float(p99)

    def stall(self, engine: str, rate: int, stall_s: float, after_s: float) -> tuple[float, dict[str, int]]:
        """Stop the worker for a while. Returns: seconds to catch up; what became of the late records, counted thrice.

        Raises: AssertionError: a record is not accounted for.
        """
        with self.worker(engine) as run, self.reading(run) as (reader, producer):
            total = WARM_S + stall_s + after_s
            sent: list[Sent] = []
            sender = threading.Thread(
                target=lambda: sent.append(send(producer, run.topic, PARTITIONS, rate, total, self.vector))
            )
            sender.start()
            time.sleep(WARM_S)
            assert run.slot.process is not None
            os.kill(run.slot.process.pid, signal.SIGSTOP)
            time.sleep(stall_s)
            os.kill(run.slot.process.pid, signal.SIGCONT)
            continued_ns = time.time_ns()
            sender.join()
            everything = sum(end for end in ends(self.bootstrap, run.topic))
            wait_for(lambda: run.slot.alive() and consumed(run.port) >= everything, 60, every_s=0.5)
            metrics = Metrics(run.port)
        return caught_up_s(reader, continued_ns), accounted(self.bootstrap, run, metrics, everything)


def drained(reader: Reader, sent: int) -> None:
    """Wait until as many predictions were read as events sent, or nothing comes any more."""
    deadline = time.monotonic() + 15
    while len(reader.read_ns) < sent and time.monotonic() < deadline:
        time.sleep(0.05)


def latencies(reader: Reader) -> tuple[np.ndarray, np.ndarray]:
    """When each event was due, in nanoseconds, and its latency in milliseconds."""
    read = np.array(reader.read_ns, dtype=np.int64)
    due = np.array(reader.due_ns[: len(read)], dtype=np.int64)
    return due, (read - due) / 1e6


def caught_up_s(reader: Reader, continued_ns: int) -> float:
    """From the continuation to the first second in which half of what is read is young; infinite when none is."""
    due, latency_ms = latencies(reader)
    read_s = (due + latency_ms * 1e6 - continued_ns) / 1e9
    for second in np.arange(0, max(read_s.max(), 0), 0.25):
        window = latency_ms[(read_s >= second) & (read_s < second + 1)]
        if len(window) and np.median(window) < 2 * GOAL_MS:
            return float(second)
    return float("inf")


def accounted(bootstrap: str, run: Run, metrics: Metrics, everything: int) -> dict[str, int]:
    """What became of all records, by the topics and by the worker's counters, which must agree."""
    predictions = [message.value() for message in read_all(bootstrap, run.output)]
    letters = [dict(message.headers() or []) for message in read_all(bootstrap, run.dead)]
    found = {
        "records": everything,
        "predictions": len(predictions),
        "fallbacks": sum(b'"fallback":true' in (value or b"") for value in predictions),
        "dead_letters": len(letters),
        "too_late": sum(headers.get("streamserve.reason") == b"too_late" for headers in letters),
        "late_processed": int(metrics.total("records_late_total", outcome="processed")),
        "late_fallback": int(metrics.total("records_late_total", outcome="fallback")),
        "late_dead_letter": int(metrics.total("records_late_total", outcome="dead_letter")),
    }
    assert found["predictions"] + found["dead_letters"] == everything, found
    assert found["late_fallback"] == found["fallbacks"], found
    assert found["late_dead_letter"] == found["too_late"] == found["dead_letters"], found
    return found


def ends(bootstrap: str, topic: str) -> list[int]:
    """The end offset of every partition."""
    reader = Reader(bootstrap, topic, PARTITIONS)
    found = [reader.end(number) for number in range(PARTITIONS)]
    reader.close()
    return found


def predicted(port: int) -> float:
    """Predictions so far; 0 while nobody listens."""
    try:
        return Metrics(port).total("predictions_total")
    except OSError:
        return 0.0


def consumed(port: int) -> float:
    """Records consumed so far."""
    return Metrics(port).total("records_consumed_total")


def main() -> int:
    """Run, print, keep the results, compare with the bounds. Returns: 3 when a bound falls."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=12.0, help="of each steady run")
    parser.add_argument("--stall", type=float, default=10.0)
    parser.add_argument("--after", type=float, default=20.0, help="seconds of events after the stall")
    parser.add_argument("--loads", nargs="*", type=float, default=[0.5, 0.8])
    parser.add_argument("--stall-load", type=float, default=0.5)
    parser.add_argument("--policies", nargs="*", default=["process", "dead_letter", "fallback"])
    parser.add_argument("--layers", type=int, default=8, help="of the model: more is slower")
    parser.add_argument("--dry", action="store_true", help="keep no results")
    options = parser.parse_args()
    figures: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as path, LocalKafka() as kafka:
        folder = Path(path)
        models.save(models.deep(options.layers), folder / "models" / "deep" / "1")
        scene = Scene(kafka, folder)
        capacity = scene.capacity(int(30_000 / options.layers))
        figures["slo.capacity_rows_per_s"] = [capacity]
        say(f"capacity {capacity:,.0f} rows/s with batches of {MAX_BATCH}")
        for load in options.loads:
            for label, engine in (("goal", f"slo_ms: {GOAL_MS}"), ("no_goal", "in_flight: 1")):
                within, p50, p99 = scene.steady(engine, int(load * capacity), options.seconds)
                say(f"load {load:.0%} {label:8} within {GOAL_MS} ms {within:.1%}   p50 {p50:.0f} ms   p99 {p99:.0f} ms")
                figures[f"slo.{load:.0%}.{label}.within"] = [within]
                figures[f"slo.{load:.0%}.{label}.p99_ms"] = [p99]
        rate = int(options.stall_load * capacity)
        for label, lag_s in (("catch-up", 1), ("no catch-up", NEVER_S)):
            engine = f"slo_ms: {GOAL_MS}, catch_up_lag_s: {lag_s}"
            seconds, found = scene.stall(engine, rate, options.stall, options.after)
            say(f"stall {options.stall:g} s, load {options.stall_load:.0%}, {label}: {seconds:.1f} s to catch up")
            say(f"    {found}")
            figures[f"slo.stall.{label}_s"] = [seconds]
        for policy in options.policies:
            more = ", fallback: {probability: 0.5}" if policy == "fallback" else ""
            engine = f"slo_ms: {GOAL_MS}, late: {policy}{more}"
            seconds, found = scene.stall(engine, rate, options.stall / 2, options.after / 2)
            say(f"stall {options.stall / 2:.0f} s, late: {policy:11} caught up in {seconds:.1f} s  {found}")
    return verdict(figures, kept=not options.dry)


if __name__ == "__main__":
    sys.exit(main())
