"""The goals: a worker beside the hand-written loop, Kafka to Kafka, taking turns on the same topic.

For every workload (`mlp`: 16 floats, `ffnn`: 784) and format: loop and worker, exactly once and at least once. With
JSON and exactly once, or everywhere with `--whole`, also workers that write a cache, that take samples for drift, and
that do both. Ratios are of one round; `bounds.toml` says what they should be.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.broker import Bench
from benchmarks.contenders import Guarantee, HandWritten, Worker
from benchmarks.results import verdict
from benchmarks.turns import (
    Entry,
    Figures,
    Runs,
    Topic,
    cpu_ratios,
    report,
    speeds,
    take_turns,
    throughput_ratios,
    turn_parser,
    warm,
)
from benchmarks.workloads import WORKLOADS, Format, formatted
from streamserve.demo.local_kafka import LocalKafka
from streamserve.demo.local_redis import LocalRedis

GUARANTEES: tuple[Guarantee, ...] = ("exactly_once", "at_least_once")
FORMATS: tuple[Format, ...] = ("json", "msgpack", "raw")
SAMPLES = "drift: {}\n"


class Goals:
    """Runs the cases, collects figures under names that `bounds.toml` knows."""

    def __init__(self, bench: Bench, redis_url: str, options: argparse.Namespace) -> None:
        self._bench = bench
        self._options = options
        self._cache = f"cache: {{url: '{redis_url}'}}\n"
        self.figures: Figures = {}

    def run(self) -> Figures:
        options = self._options
        cases = [formatted(name, how) for name in options.workloads for how in options.formats]
        for position, workload in enumerate(cases):
            events = int(workload.backlog * options.scale)
            topic = Topic(name=f"{workload.case}.events", workload=workload, events=events, flow_s=options.seconds)
            entries = self._entries(topic)
            self._bench.fill(topic.name, workload.stream(events))
            if position == 0:
                warm(self._bench, entries)
            self._judge(workload.case, take_turns(self._bench, entries, options.rounds))
            self._bench.delete(topic.name)
        return self.figures

    def _entries(self, topic: Topic) -> list[Entry]:
        return [
            Entry(contender=contender, guarantee=guarantee, topic=topic)
            for guarantee in self._options.guarantees
            for contender in (HandWritten(), *self._workers(topic.workload.format, guarantee))
        ]

    def _workers(self, how: Format, guarantee: Guarantee) -> list[Worker]:
        plain = self._worker("worker")
        if not self._options.whole and (how, guarantee) != ("json", "exactly_once"):
            return [plain]
        return [
            plain,
            self._worker("worker-samples", SAMPLES),
            self._worker("worker-cache", self._cache),
            self._worker("worker-all", SAMPLES + self._cache),
        ]

    def _worker(self, name: str, extra: str = "") -> Worker:
        slowed_us = self._options.slowed
        if slowed_us:
            return Worker(extra, name, module=("benchmarks.slowed_slot", str(slowed_us)))
        return Worker(extra, name)

    def _judge(self, case: str, runs: Runs) -> None:
        self.figures |= speeds(case, runs)
        for guarantee in self._options.guarantees:
            loop = f"{guarantee}.loop"
            for worker in [name for name in runs if name.startswith(f"{guarantee}.worker")]:
                self.figures[f"{case}.{worker}_over_loop.cpu"] = cpu_ratios(runs, worker, loop)
                self.figures[f"{case}.{worker}_over_loop.throughput"] = throughput_ratios(runs, worker, loop)
            plain = f"{guarantee}.worker"
            if f"{plain}-samples" in runs:
                self.figures[f"{case}.{plain}-samples_over_worker.cpu"] = cpu_ratios(runs, f"{plain}-samples", plain)
        if len(self._options.guarantees) == 2:
            self.figures[f"{case}.worker.exactly_once_over_at_least_once.throughput"] = throughput_ratios(
                runs, "exactly_once.worker", "at_least_once.worker"
            )


def main(argv: Sequence[str]) -> int:
    """Run, print, keep the results, compare with the bounds. Returns: 3 when a bound falls."""
    parser = turn_parser("goals", __doc__, rounds=5, seconds=2.5)
    parser.add_argument("--workloads", nargs="+", default=list(WORKLOADS), choices=list(WORKLOADS))
    parser.add_argument("--formats", nargs="+", default=FORMATS, choices=FORMATS)
    parser.add_argument("--guarantees", nargs="+", default=GUARANTEES, choices=GUARANTEES)
    parser.add_argument("--whole", action="store_true", help="cache and samples with every format and guarantee")
    parser.add_argument(
        "--slowed", type=float, metavar="MICROSECONDS", help="make the worker so much slower an event; keeps no results"
    )
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder, LocalKafka() as kafka, LocalRedis() as redis:
        figures = Goals(Bench(kafka.bootstrap, Path(folder)), redis.url, options).run()
    report(figures)
    return verdict(figures, kept=not (options.dry or options.slowed))
