"""Kafka to Kafka: the worker beside the hand-written loop, interleaved in one run.

For each workload a topic is filled once; then loop and worker take turns to work it off, each with a group and an
output topic of its own. Ratios are worker over loop, pair by pair.

Then latency at fixed rates, and memory under a backlog. Results are appended to benchmarks/results.jsonl and compared
with benchmarks/bounds.toml.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks.broker import Bench
from benchmarks.contenders import Guarantee, HandWritten, Worker
from benchmarks.latency import measure
from benchmarks.measure import Throughput
from benchmarks.results import say, spread, verdict
from benchmarks.workloads import WORKLOADS, Workload
from streamserve.demo.local_kafka import LocalKafka


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

    def _throughput(self, workload: Workload, guarantee: Guarantee, events: int) -> None:
        case = f"{workload.name}.{guarantee}"
        for _ in range(self._options.pairs):
            loop, worker = (
                self._bench.work_off(contender, workload, f"{workload.name}.events", guarantee, events)
                for contender in (HandWritten(), Worker())
            )
            say(f"{case:20} loop {row(loop)} | worker {row(worker)}")
            self._add(f"{case}.loop_events_per_s", loop.events_per_s)
            self._add(f"{case}.worker_events_per_s", worker.events_per_s)
            self._add(f"{case}.loop_cpu_s_per_million", loop.cpu_s_per_million)
            self._add(f"{case}.worker_cpu_s_per_million", worker.cpu_s_per_million)
            self._add(f"{case}.cpu_ratio", worker.cpu_s_per_million / loop.cpu_s_per_million)
            self._add(f"{case}.throughput_ratio", worker.events_per_s / loop.events_per_s)
        for figure in ("cpu_ratio", "throughput_ratio"):
            say(f"{case:20} {figure:17} {spread(self.figures[f'{case}.{figure}'])}")

    def _latency(self, workload: Workload, guarantee: Guarantee, rate: int) -> None:
        case = f"{workload.name}.{guarantee}.{rate}"
        for _ in range(self._options.latency_runs):
            for contender in (HandWritten(), Worker()):
                who = contender.name
                topic = f"{case}.{who}.{len(self.figures)}".replace("_", "-")
                topic += f".{len(self.figures.get(f'{case}.{who}_p50_ms', []))}"
                self._bench.create(topic)
                job = self._bench.job(contender, workload, topic, guarantee)
                found = measure(contender.command(job), job, rate=rate, seconds=self._options.seconds)
                say(f"{case:24} {who:6} p50 {found.p50_ms:6.1f} p95 {found.p95_ms:6.1f} p99 {found.p99_ms:6.1f} ms")
                self._add(f"{case}.{who}_p50_ms", found.p50_ms)
                self._add(f"{case}.{who}_p99_ms", found.p99_ms)

    def _memory(self, events: int) -> None:
        workload = WORKLOADS["mlp"]
        self._bench.fill("memory.events", workload.events(events))
        found = self._bench.work_off(Worker(), workload, "memory.events", "exactly_once", events)
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
    return verdict(suite.figures)


def row(run: Throughput) -> str:
    return f"{run.events_per_s:9,.0f} ev/s {run.cpu_s_per_million:6.2f} CPU s/M {run.peak_mib:5.0f} MiB"


if __name__ == "__main__":
    sys.exit(main())
