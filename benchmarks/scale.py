"""How far one machine carries a pipeline: worker processes, partitions, topics and batch sizes.

Exactly once, JSON, workload `mlp`; the runs of a case take turns, and ratios are of one round.

* *workers*: 2 worker slots of `streamserve run` over 1, a topic of 8 partitions. The goal of 1.8 times the throughput
  is for 4 cores and more, because the broker and this harness need some too; on fewer the figure has another name.
* *partitions*: 256 partitions over 4, one worker, the same events; also the time to the first prediction.
* *topics*: one pipeline that reads 64 topics of one partition, over one that reads a topic of 64. A record keeps its
  partition number, so the former writes to one partition.
* *batch*: `engine.max_batch_size` from 32 to 8,192 over the default of this suite, 512.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.broker import Bench
from benchmarks.contenders import Job, Worker
from benchmarks.measure import Throughput
from benchmarks.results import say, verdict
from benchmarks.turns import Figures, Runs, cpu_ratios, report, speeds, take_turns, throughput_ratios, turn_parser
from benchmarks.workloads import WORKLOADS
from streamserve.demo.local_kafka import LocalKafka

WORKLOAD = WORKLOADS["mlp"]
ENOUGH_CORES = 4
SIZES = (32, 128, 512, 2048, 8192)
DEFAULT_SIZE = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """Events over topics of equal partition counts, in turn."""

    topics: tuple[str, ...]
    partitions: int
    events: int

    def fill(self, bench: Bench) -> None:
        """Make it."""
        events = WORKLOAD.events(self.events)
        for number, topic in enumerate(self.topics):
            bench.fill(topic, events[number :: len(self.topics)], self.partitions)


class Slots(Worker):
    """Worker slots under a supervisor, as `streamserve run` starts them.

    Args:
        name: in tables.
        backlog: what they read.
        count: of slots.
        max_batch_size: of the engine.
    """

    def __init__(self, name: str, backlog: Backlog, count: int = 1, max_batch_size: int = DEFAULT_SIZE) -> None:
        super().__init__(name=name)
        self.backlog = backlog
        self._count = count
        self._max_batch_size = max_batch_size

    def command(self, job: Job) -> list[str]:
        """The supervisor's command line."""
        config = self.configure(replace(job, topic=", ".join(self.backlog.topics)))
        command = [sys.executable, "-m", "streamserve", "-qq", "run", "--config", str(config), "--slot", job.name]
        return [*command, "--workers", str(self._count), "--set", f"engine.max_batch_size={self._max_batch_size}"]

    @property
    def case(self) -> str:
        """The first of its topics."""
        return self.backlog.topics[0]

    def run(self, bench: Bench) -> Throughput:
        """One run of a `Runner`."""
        backlog = self.backlog
        return bench.work_off(self, WORKLOAD, backlog.topics[0], "exactly_once", backlog.events, topics=backlog.topics)


class Scale:
    """Runs the cases, collects figures under names that `bounds.toml` knows."""

    def __init__(self, bench: Bench, options: argparse.Namespace) -> None:
        self._bench = bench
        self._options = options
        self._events = int(WORKLOAD.backlog * options.scale)
        self.figures: Figures = {}

    def run(self) -> Figures:
        for case in self._options.cases:
            getattr(self, case)()
        return self.figures

    def workers(self) -> None:
        """Two processes over one."""
        backlog = Backlog(topics=("workers.events",), partitions=8, events=2 * self._events)
        runs = self._take_turns([Slots(f"workers-{count}", backlog, count) for count in (1, 2)])
        cores = os.cpu_count() or 1
        name = "scale.workers.2_over_1"
        if cores < ENOUGH_CORES:
            say(f"the bound of {name} is skipped: {cores} cores")
            name += f"_on_{cores}_cores"
        self._compare(name, runs, "workers-2", "workers-1")

    def partitions(self) -> None:
        """Many partitions over few."""
        backlogs = [
            Backlog(topics=(f"partitions-{count}.events",), partitions=count, events=self._events) for count in (4, 256)
        ]
        runs = self._take_turns([Slots(f"partitions-{backlog.partitions}", backlog) for backlog in backlogs])
        self._compare("scale.partitions.256_over_4", runs, "partitions-256", "partitions-4")

    def topics(self) -> None:
        """Many topics over many partitions."""
        many = Backlog(topics=tuple(f"topics-{n}.events" for n in range(64)), partitions=1, events=self._events)
        one = Backlog(topics=("topic.events",), partitions=64, events=self._events)
        runs = self._take_turns([Slots("topics-1", one), Slots("topics-64", many)])
        self._compare("scale.topics.64_over_1", runs, "topics-64", "topics-1")

    def batch(self) -> None:
        """Batch sizes over the usual one."""
        backlog = Backlog(topics=("batch.events",), partitions=4, events=self._events)
        runs = self._take_turns([Slots(f"batch-{size}", backlog, max_batch_size=size) for size in SIZES])
        for size in SIZES:
            if size != DEFAULT_SIZE:
                self._compare(f"scale.batch.{size}_over_{DEFAULT_SIZE}", runs, f"batch-{size}", f"batch-{DEFAULT_SIZE}")

    def _take_turns(self, entries: Sequence[Slots]) -> Runs:
        """Fill what they read, and run them."""
        backlogs = list(dict.fromkeys(entry.backlog for entry in entries))
        for backlog in backlogs:
            backlog.fill(self._bench)
        runs = take_turns(self._bench, entries, self._options.rounds)
        for backlog in backlogs:
            for topic in backlog.topics:
                self._bench.delete(topic)
        return runs

    def _compare(self, name: str, runs: Runs, of: str, over: str) -> None:
        self.figures[f"{name}.throughput"] = throughput_ratios(runs, of, over)
        self.figures[f"{name}.cpu"] = cpu_ratios(runs, of, over)
        self.figures |= speeds("scale", {of: runs[of], over: runs[over]})
        for entry in (of, over):
            self.figures[f"scale.{entry}.first_s"] = [run.first_s for run in runs[entry]]
            self.figures[f"scale.{entry}.memory_over_idle_mib"] = [run.peak_mib - run.idle_mib for run in runs[entry]]
            say(f"{entry:16} idle {statistics.median(run.idle_mib for run in runs[entry]):.0f} MiB")


def main(argv: Sequence[str]) -> int:
    """Run, print, keep the results, compare with the bounds. Returns: 3 when a bound falls."""
    cases = ["workers", "partitions", "topics", "batch"]
    parser = turn_parser("scale", __doc__, rounds=3, seconds=None)
    parser.add_argument("--cases", nargs="+", default=cases, choices=cases)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder, LocalKafka() as kafka:
        figures = Scale(Bench(kafka.bootstrap, Path(folder)), options).run()
    report(figures)
    return verdict(figures, kept=not options.dry)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
