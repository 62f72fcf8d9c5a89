"""Kafka to Kafka: the worker beside the hand-written loop, interleaved in one run.

For each workload a topic is filled once; then loop and worker take turns to work it off, each with a group and an
output topic of its own. Ratios are worker over loop, pair by pair.

Then latency at fixed rates, and memory under a backlog. Results are appended to benchmarks/results.jsonl and compared
with benchmarks/bounds.toml.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from itertools import count
from pathlib import Path

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from benchmarks.latency import Latency, measure
from benchmarks.measure import OutputCounter, Throughput, work_off
from benchmarks.results import compare, keep
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

    def loop_command(self, workload: Workload, topic: str, guarantee: str) -> tuple[list[str], str]:
        """The hand-written loop's command line and its output topic, which is made."""
        name = f"loop{next(self._numbers)}"
        self.create(f"{name}.predictions")
        model = workload.save_model(self._folder / "models")
        command = [sys.executable, "-m", "benchmarks.handwritten", "--guarantee", guarantee, "--group", name]
        command += ["--bootstrap", self._bootstrap, "--topic", topic, "--output", f"{name}.predictions"]
        return [*command, "--model", str(model)], f"{name}.predictions"

    def worker_command(self, workload: Workload, topic: str, guarantee: str, extra: str = "") -> tuple[list[str], str]:
        """A worker slot's command line and its output topic, which is made."""
        name = f"worker{next(self._numbers)}"
        self.create(f"{name}.predictions", f"{name}.dlq", f"{name}.samples")
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
        return [*command, "--verbosity", "-2"], f"{name}.predictions"

    def work_off(self, command: list[str], output: str, events: int) -> Throughput:
        """Have `command` work off the backlog."""
        counter = OutputCounter(self._bootstrap, output, PARTITIONS)
        try:
            return work_off(command, counter, events)
        finally:
            counter.close()

    def pair(
        self, workload: Workload, topic: str, guarantee: str, events: int, extra: str = ""
    ) -> tuple[Throughput, Throughput]:
        """The loop, then the worker."""
        loop = self.work_off(*self.loop_command(workload, topic, guarantee), events)
        worker = self.work_off(*self.worker_command(workload, topic, guarantee, extra), events)
        return loop, worker

    def latency(
        self, command: list[str], output: str, topic: str, workload: Workload, rate: int, seconds: float
    ) -> Latency:
        """Latency of `command` on an empty topic at `rate`."""
        vector = workload.events(1)[0].split(b'"x":')[1][:-1].decode()
        return measure(
            command,
            self._bootstrap,
            topic=topic,
            output=output,
            partitions=PARTITIONS,
            rate=rate,
            seconds=seconds,
            vector=vector,
        )


class Suite:
    """Runs the cases, prints rows as they come, collects figures under names that `bounds.toml` knows."""

    def __init__(self, bench: Bench, options: argparse.Namespace) -> None:
        self._bench = bench
        self._options = options
        self.figures: dict[str, list[float]] = {}

    def run(self) -> None:
        options = self._options
        for name in options.workloads:
            workload = WORKLOADS[name]
            events = int(workload.backlog * options.scale)
            self._bench.fill(f"{name}.events", workload.events(events))
            for guarantee in options.guarantees:
                self._throughput(workload, guarantee, events)
        if "mlp" in options.workloads and options.rates:
            for guarantee in options.guarantees:
                for rate in options.rates:
                    self._latency(WORKLOADS["mlp"], guarantee, rate)
        if options.backlog:
            self._memory(options.backlog)

    def _throughput(self, workload: Workload, guarantee: str, events: int) -> None:
        case = f"{workload.name}.{guarantee}"
        for _ in range(self._options.pairs):
            loop, worker = self._bench.pair(workload, f"{workload.name}.events", guarantee, events)
            say(f"{case:20} loop {row(loop)} | worker {row(worker)}")
            self._add(f"{case}.loop_events_per_s", loop.events_per_s)
            self._add(f"{case}.worker_events_per_s", worker.events_per_s)
            self._add(f"{case}.loop_cpu_s_per_million", loop.cpu_s_per_million)
            self._add(f"{case}.worker_cpu_s_per_million", worker.cpu_s_per_million)
            self._add(f"{case}.cpu_ratio", worker.cpu_s_per_million / loop.cpu_s_per_million)
            self._add(f"{case}.throughput_ratio", worker.events_per_s / loop.events_per_s)
        for figure in ("cpu_ratio", "throughput_ratio"):
            say(f"{case:20} {figure:17} {spread(self.figures[f'{case}.{figure}'])}")

    def _latency(self, workload: Workload, guarantee: str, rate: int) -> None:
        case = f"{workload.name}.{guarantee}.{rate}"
        for _ in range(self._options.latency_runs):
            for who, command in (("loop", self._bench.loop_command), ("worker", self._bench.worker_command)):
                topic = f"{case}.{who}.{len(self.figures)}".replace("_", "-")
                topic += f".{len(self.figures.get(f'{case}.{who}_p50_ms', []))}"
                self._bench.create(topic)
                found = self._bench.latency(
                    *command(workload, topic, guarantee), topic, workload, rate, self._options.seconds
                )
                say(f"{case:24} {who:6} p50 {found.p50_ms:6.1f} p95 {found.p95_ms:6.1f} p99 {found.p99_ms:6.1f} ms")
                self._add(f"{case}.{who}_p50_ms", found.p50_ms)
                self._add(f"{case}.{who}_p99_ms", found.p99_ms)

    def _memory(self, events: int) -> None:
        workload = WORKLOADS["mlp"]
        self._bench.fill("memory.events", workload.events(events))
        command, output = self._bench.worker_command(workload, "memory.events", "exactly_once")
        found = self._bench.work_off(command, output, events)
        say(f"backlog of {events:,}: idle {found.idle_mib:.0f} MiB, peak {found.peak_mib:.0f} MiB")
        self._add("backlog.memory_over_idle_mib", found.peak_mib - found.idle_mib)

    def _add(self, name: str, value: float) -> None:
        self.figures.setdefault(name, []).append(value)


def main() -> int:
    """Run, print, keep the results, compare with the bounds. Returns: 3 when a bound falls."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--workloads", nargs="+", default=list(WORKLOADS), choices=list(WORKLOADS))
    parser.add_argument("--guarantees", nargs="+", default=["exactly_once", "at_least_once"])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="of the backlogs")
    parser.add_argument("--rates", nargs="*", type=int, default=[200, 2000, 20000], help="events a second for latency")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each latency run")
    parser.add_argument("--latency-runs", type=int, default=2)
    parser.add_argument("--backlog", type=int, default=1_000_000, help="events of the memory case; 0 leaves it out")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, LocalKafka() as kafka:
        suite = Suite(Bench(kafka.bootstrap, Path(folder)), options)
        suite.run()
    keep(suite.figures)
    fallen = compare(suite.figures)
    for line in fallen:
        say(f"FALLEN {line}")
    return 3 if fallen else 0


def say(line: str) -> None:
    print(line, flush=True)


def row(run: Throughput) -> str:
    return f"{run.events_per_s:9,.0f} ev/s {run.cpu_s_per_million:6.2f} CPU s/M {run.peak_mib:5.0f} MiB"


def spread(values: list[float]) -> str:
    return f"min {min(values):.2f} median {statistics.median(values):.2f} max {max(values):.2f}"


if __name__ == "__main__":
    sys.exit(main())
