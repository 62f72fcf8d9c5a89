"""How worker over loop moves with the shape of the topic: partitions from 1 to 64, floats an event from 16 to 2,048.

Exactly once, JSON. Partitions with the workload `mlp`; widths with 4 partitions and a perceptron so small that
transport and decoding are what is measured.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.broker import Bench
from benchmarks.contenders import HandWritten, Worker
from benchmarks.results import verdict
from benchmarks.turns import (
    Entry,
    Figures,
    Topic,
    cpu_ratios,
    report,
    speeds,
    take_turns,
    throughput_ratios,
    turn_parser,
    warm,
)
from benchmarks.workloads import PARTITIONS, Workload, formatted, perceptron
from streamserve.demo.local_kafka import LocalKafka


class Shapes:
    """Runs the cases, collects figures under names that `bounds.toml` knows."""

    def __init__(self, bench: Bench, options: argparse.Namespace) -> None:
        self._bench = bench
        self._options = options
        self.figures: Figures = {}

    def run(self) -> Figures:
        for partitions in self._options.partitions:
            self._case(f"shape.partitions-{partitions}", formatted("mlp", "json"), partitions)
        for width in self._options.features:
            self._case(f"shape.features-{width}", perceptron(width), PARTITIONS)
        return self.figures

    def _case(self, case: str, workload: Workload, partitions: int) -> None:
        events = int(workload.backlog * self._options.scale)
        topic = Topic(name=f"{case}.events", workload=workload, events=events, flow_s=self._options.seconds)
        self._bench.fill(topic.name, workload.stream(events), partitions)
        entries = [
            Entry(contender=contender, guarantee="exactly_once", topic=topic) for contender in (HandWritten(), Worker())
        ]
        if not self.figures:
            warm(self._bench, entries * 2)
        runs = take_turns(self._bench, entries, self._options.rounds)
        loop, worker = (entry.name for entry in entries)
        self.figures[f"{case}.exactly_once.worker_over_loop.cpu"] = cpu_ratios(runs, worker, loop)
        self.figures[f"{case}.exactly_once.worker_over_loop.throughput"] = throughput_ratios(runs, worker, loop)
        self.figures |= speeds(case, runs)
        self._bench.delete(topic.name)


def main(argv: Sequence[str]) -> int:
    """Run, print, keep the results, compare with the bounds. Returns: 3 when a bound falls."""
    parser = turn_parser("shape", __doc__, rounds=3, seconds=2.5)
    parser.add_argument("--partitions", nargs="*", type=int, default=[1, 4, 16, 64])
    parser.add_argument("--features", nargs="*", type=int, default=[16, 64, 256, 784, 2048])
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder, LocalKafka() as kafka:
        figures = Shapes(Bench(kafka.bootstrap, Path(folder)), options).run()
    report(figures)
    return verdict(figures, kept=not options.dry)
