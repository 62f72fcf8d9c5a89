"""Kafka to Kafka: the worker beside the hand-written loop, interleaved in one run.

For each workload a topic is filled once; then loop and worker take turns to work it off, each with a group and an
output topic of its own. Ratios are worker over loop, pair by pair.

    python -m benchmarks.end_to_end [--workloads mlp ffnn] [--pairs 5] [--guarantees exactly_once]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import asdict
from itertools import count
from pathlib import Path

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from benchmarks.measure import OutputCounter, Throughput, work_off
from benchmarks.workloads import PARTITIONS, WORKLOADS, Workload
from streamserve.demo.local_kafka import LocalKafka


class Bench:
    """One broker, and the runs on it."""

    def __init__(self, bootstrap: str, folder: Path) -> None:
        self._bootstrap = bootstrap
        self._folder = folder
        self._admin = AdminClient({"bootstrap.servers": bootstrap})
        self._numbers = count()

    def create(self, *topics: str) -> None:
        for future in self._admin.create_topics([NewTopic(topic, PARTITIONS, 1) for topic in topics]).values():
            future.result()
        deadline = time.monotonic() + 10
        for topic in topics:
            while len(self._admin.list_topics(topic, timeout=5).topics[topic].partitions) < PARTITIONS:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{topic} did not come about")

    def fill(self, topic: str, events: list[bytes]) -> None:
        self.create(topic)
        producer = Producer(
            {"bootstrap.servers": self._bootstrap, "queue.buffering.max.messages": 2_000_000, "compression.type": "lz4"}
        )
        for i, event in enumerate(events):
            while True:
                try:
                    producer.produce(topic, event, b"k%d" % (i % 1000), i % PARTITIONS)
                    break
                except BufferError:
                    producer.poll(0.1)
        producer.flush()

    def loop(self, workload: Workload, topic: str, guarantee: str, events: int) -> Throughput:
        name = f"loop{next(self._numbers)}"
        self.create(f"{name}.predictions")
        model = workload.save_model(self._folder / "models")
        command = [sys.executable, "-m", "benchmarks.handwritten", "--guarantee", guarantee, "--group", name]
        command += ["--bootstrap", self._bootstrap, "--topic", topic, "--output", f"{name}.predictions"]
        return self._run([*command, "--model", str(model)], f"{name}.predictions", events)

    def worker(self, workload: Workload, topic: str, guarantee: str, events: int, extra: str = "") -> Throughput:
        name = f"worker{next(self._numbers)}"
        self.create(f"{name}.predictions", f"{name}.dlq")
        workload.save_model(self._folder / "models")
        config = self._folder / f"{name}.yaml"
        config.write_text(
            workload.config(
                bootstrap=self._bootstrap,
                repository=self._folder / "models",
                topic=topic,
                pipeline=name,
                extra=f"delivery: {{guarantee: {guarantee}}}\nstate_dir: {self._folder / name}\n{extra}",
            )
        )
        command = [sys.executable, "-m", "streamserve.slot", "--config", str(config), "--slot-name", name]
        return self._run([*command, "--verbosity", "-2"], f"{name}.predictions", events)

    def _run(self, command: list[str], topic: str, events: int) -> Throughput:
        counter = OutputCounter(self._bootstrap, topic, PARTITIONS)
        try:
            return work_off(command, counter, events)
        finally:
            counter.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workloads", nargs="+", default=list(WORKLOADS))
    parser.add_argument("--guarantees", nargs="+", default=["exactly_once", "at_least_once"])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="of the backlog")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as folder, LocalKafka() as kafka:
        bench = Bench(kafka.bootstrap, Path(folder))
        for name in options.workloads:
            workload = WORKLOADS[name]
            events = int(workload.backlog * options.scale)
            bench.fill(f"{name}.events", workload.events(events))
            for guarantee in options.guarantees:
                pairs = []
                for _ in range(options.pairs):
                    loop = bench.loop(workload, f"{name}.events", guarantee, events)
                    worker = bench.worker(workload, f"{name}.events", guarantee, events)
                    pairs.append((loop, worker))
                    print(f"{name:5} {guarantee:13} loop {row(loop)} | worker {row(worker)}", flush=True)
                ratio = [worker.cpu_s_per_million / loop.cpu_s_per_million for loop, worker in pairs]
                speed = [worker.events_per_s / loop.events_per_s for loop, worker in pairs]
                print(f"{name:5} {guarantee:13} CPU ratio {spread(ratio)}  throughput ratio {spread(speed)}", flush=True)
                results.append(
                    {
                        "workload": name,
                        "guarantee": guarantee,
                        "cpu_ratio": ratio,
                        "throughput_ratio": speed,
                        "loop": [asdict(loop) for loop, _ in pairs],
                        "worker": [asdict(worker) for _, worker in pairs],
                    }
                )
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


def row(run: Throughput) -> str:
    return f"{run.events_per_s:9,.0f} ev/s {run.cpu_s_per_million:6.2f} CPU s/M {run.peak_mib:5.0f} MiB"


def spread(values: list[float]) -> str:
    return f"min {min(values):.2f} median {statistics.median(values):.2f} max {max(values):.2f}"


if __name__ == "__main__":
    main()
