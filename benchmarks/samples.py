"""What samples for the drift sidecar cost a worker: its CPU with a `drift` block over its CPU without, exactly once.

    .venv/bin/python -m benchmarks.samples                      # about half an hour
    .venv/bin/python -m benchmarks.samples --pairs 2 --scale 0.3 --seconds 4

Pairs take turns on the same topic, each with a group and output topics of its own, the order changing from pair to
pair. `flood`: a backlog at full speed, of which `samples_per_s` (2,000) rows a second are sampled. `paced`: 2,000
events a second, all of them sampled. Workloads: 16 floats in a vector, 100 in fields of their own, 784 in a vector.
Ratios are of one pair; the bound is on their median.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from confluent_kafka import Producer

from benchmarks import models
from benchmarks.broker import Bench
from benchmarks.contenders import Worker
from benchmarks.measure import OutputCounter, cpu_s, end
from benchmarks.results import say, spread, verdict
from benchmarks.running import wait_for
from benchmarks.workloads import PARTITIONS, WORKLOADS, Workload
from streamserve.demo.local_kafka import LocalKafka

WARM_S = 3.0
RATE = 2000
"""Events a second of the paced case: as many as are sampled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnsWorkload(Workload):
    """Floats in fields of their own instead of a vector."""

    def events(self, count: int, seed: int = 1) -> list[bytes]:
        vectors = np.random.default_rng(seed).standard_normal((min(count, 2000), self.width)).round(4).tolist()
        texts = [json.dumps({f"f{j}": v for j, v in enumerate(row)}, separators=(",", ":"))[1:] for row in vectors]
        return [f'{{"id":"e{i}",{texts[i % len(texts)]}'.encode() for i in range(count)]

    def save_model(self, repository: Path) -> Path:
        return models.save(models.mlp((self.width, 64, 64, 1)), repository / self.name / "1")

    def features(self) -> str:
        return "[" + ", ".join(f"{{name: f{j}}}" for j in range(self.width)) + "]"


CASES: dict[str, Workload] = {
    "mlp": WORKLOADS["mlp"],
    "columns": ColumnsWorkload(name="columns", width=100, output="probability", backlog=200_000),
    "ffnn": WORKLOADS["ffnn"],
}


def main() -> int:
    """Run, print, keep the results, compare with the bounds. Returns: 3 when a bound falls."""
    parser = argparse.ArgumentParser(prog="benchmarks.samples", description=__doc__)
    parser.add_argument("--workloads", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--scale", type=float, default=2.0, help="of the backlogs")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each paced run; 0 leaves them out")
    parser.add_argument("--samples-per-s", type=int, default=RATE)
    parser.add_argument("--dry", action="store_true", help="keep no results")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, LocalKafka() as kafka:
        figures = Costs(Bench(kafka.bootstrap, Path(folder)), kafka.bootstrap, options).run()
    return verdict(figures, kept=not options.dry)


class Costs:
    """Runs the pairs, prints them as they come, collects figures under names that `bounds.toml` knows."""

    def __init__(self, bench: Bench, bootstrap: str, options: argparse.Namespace) -> None:
        self._bench = bench
        self._bootstrap = bootstrap
        self._options = options
        self._drift = f"drift: {{samples_per_s: {options.samples_per_s}}}\n"
        self._figures: dict[str, list[float]] = {}

    def run(self) -> dict[str, list[float]]:
        options = self._options
        for name in options.workloads:
            workload = CASES[name]
            events = int(workload.backlog * options.scale)
            texts = workload.events(events)
            self._bench.fill(f"{name}.events", texts)
            self._flood(workload, events, "")  # the first run on a new topic is slow: left out
            for number in range(options.pairs):
                self._pair(f"{name}.flood", number, lambda drift: self._flood(workload, events, drift))  # noqa: B023
            for number in range(options.pairs if options.seconds else 0):
                self._pair(f"{name}.paced", number, lambda drift: self._pace(workload, texts, drift))  # noqa: B023
        return self._figures

    def _pair(self, case: str, number: int, run: Callable[[str], float]) -> None:
        """One run with and one without, CPU s per million events each."""
        drifts = ["", self._drift] if number % 2 else [self._drift, ""]
        cost = {drift: run(drift) for drift in drifts}
        off, on = cost[""], cost[self._drift]
        say(f"{case:16} {number + 1:2}: without {off:7.2f}, with {on:7.2f} CPU s per million, ratio {on / off:.3f}")
        for figure, value in (("off", off), ("on", on), ("cpu_ratio", on / off)):
            self._figures.setdefault(f"samples.{case}.{figure}", []).append(value)
        if number + 1 == self._options.pairs:
            say(f"{case:16} ratio {spread(self._figures[f'samples.{case}.cpu_ratio'])}")

    def _flood(self, workload: Workload, events: int, drift: str) -> float:
        topic = f"{workload.name}.events"
        return self._bench.work_off(Worker(drift), workload, topic, "exactly_once", events).cpu_s_per_million

    def _pace(self, workload: Workload, texts: list[bytes], drift: str) -> float:
        """CPU of a worker that keeps up with `RATE` events a second."""
        topic = f"paced{len(self._figures)}.{time.monotonic_ns()}"
        self._bench.create(topic)
        worker = Worker(drift)
        job = self._bench.job(worker, workload, topic, "exactly_once")
        process = subprocess.Popen(worker.command(job), stdout=subprocess.DEVNULL)
        counter = OutputCounter(self._bootstrap, job.output, PARTITIONS)
        producer = Producer({"bootstrap.servers": self._bootstrap, "linger.ms": 1})
        try:
            producer.produce(topic, texts[0], partition=0)
            producer.flush()
            wait_for(lambda: counter.count() > 0, 60)
            _send(producer, topic, texts, WARM_S)
            began_s = cpu_s(process.pid)
            sent = _send(producer, topic, texts, self._options.seconds)
            return (cpu_s(process.pid) - began_s) / sent * 1e6
        finally:
            end(process)
            counter.close()


def _send(producer: Producer, topic: str, texts: list[bytes], seconds: float) -> int:
    """Send at `RATE`, each event when it is due. Returns: how many."""
    start_s = time.monotonic()
    sent, total = 0, int(RATE * seconds)
    while sent < total:
        due = min(total, int((time.monotonic() - start_s) * RATE) + 1)
        for number in range(sent, due):
            producer.produce(topic, texts[number % len(texts)], b"k%d" % (number % 1000), number % PARTITIONS)
        sent = due
        producer.poll(0)
        time.sleep(0.001)
    return sent


if __name__ == "__main__":
    sys.exit(main())
