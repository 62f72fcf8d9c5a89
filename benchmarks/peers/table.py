"""Other ways to score a topic, the hand-written loop and the worker: one run, one broker, one topic, one model.

Everybody runs once without counting; then they take turns. Where a peer reads only a format of its own, it has a topic
of its own with the same data. Latency comes last, an open loop at a fixed rate. A peer that cannot be prepared or fails
is left out, with a line that says why.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.broker import Bench
from benchmarks.contenders import Contender, HandWritten, Worker
from benchmarks.latency import Latency, OpenLoop
from benchmarks.peers import OwnFormat, Peer
from benchmarks.peers.check import PEERS
from benchmarks.results import number, say, verdict
from benchmarks.turns import (
    FAILURES,
    Entry,
    Figures,
    Runs,
    Topic,
    cpu_ratios,
    row,
    take_turns,
    throughput_ratios,
    turn_parser,
)
from benchmarks.workloads import WORKLOADS, formatted
from streamserve.demo.local_kafka import LocalKafka

HEAD = (
    "who", "guarantee", "events/s", "CPU s per million", "p50 ms", "p99 ms",
    "worker's throughput is … times", "worker's CPU is … times",
)  # fmt: skip


class Table:
    """Runs everybody who can, collects figures under names that `bounds.toml` knows."""

    def __init__(self, bench: Bench, options: argparse.Namespace) -> None:
        self._bench = bench
        self._options = options
        workload = formatted(options.workload, "json")
        events = int(workload.backlog * options.scale)
        self._topic = Topic(name="peers.events", workload=workload, events=events, flow_s=options.seconds)
        self._left_out: list[str] = []
        self.figures: Figures = {}
        self.versions: dict[str, str] = {}

    def run(self) -> None:
        """All runs, then the table."""
        self._bench.fill(self._topic.name, self._topic.workload.stream(self._topic.events))
        peers = [peer for peer in PEERS if peer.name in self._options.only and self._prepared(peer)]
        contenders: list[Contender] = [HandWritten(), Worker(), *peers]
        entries = [entry for contender in contenders for entry in self._entries(contender) if self._runs_at_all(entry)]
        runs = take_turns(self._bench, entries, self._options.rounds, self._left_out)
        entries = [entry for entry in entries if entry.name in runs]
        for contender in contenders:
            self.versions |= {f"{contender.name}: {name}": told for name, told in contender.versions().items()}
        latencies = self._latencies(entries)
        say(f"| {' | '.join(HEAD)} |")
        say("|---" * len(HEAD) + "|")
        for entry in entries:
            say(f"| {' | '.join(self._row(entry, runs, latencies.get(entry.name)))} |")
        for line in self._left_out:
            say(line)

    def _prepared(self, peer: Peer) -> bool:
        try:
            peer.prepare()
        except RuntimeError as error:
            self._left_out.append(f"{peer.name} was left out: {error}")
            return False
        return True

    def _entries(self, contender: Contender) -> list[Entry]:
        topic = self._topic
        largest = getattr(contender, "largest", None)
        if largest is not None:
            topic = replace(topic, events=min(topic.events, largest))
        if isinstance(contender, OwnFormat):
            topic = replace(topic, name=f"peers.{contender.name}.events")
            contender.fill(self._bench, topic.name, topic.workload, topic.events)
        return [Entry(contender=contender, guarantee=guarantee, topic=topic) for guarantee in contender.guarantees]

    def _runs_at_all(self, entry: Entry) -> bool:
        """A first run, which does not count."""
        try:
            say(f"{entry.topic.name:24} 0 {entry.name:28} {row(entry.run(self._bench))}")
        except FAILURES as error:
            self._left_out.append(f"{entry.name} was left out: {error}")
            return False
        return True

    def _latencies(self, entries: Sequence[Entry]) -> dict[str, Latency]:
        """One open loop each, but for formats of their own: those predictions do not tell when an event was due."""
        found = {}
        options = self._options
        with OpenLoop() as loop:
            for entry in entries if options.rate else ():
                if isinstance(entry.contender, OwnFormat):
                    continue
                topic = f"peers.{entry.name}.latency".replace("_", "-")  # not allowed in a worker's topics
                self._bench.create(topic)
                job = self._bench.job(entry.contender, self._topic.workload, topic, entry.guarantee)
                try:
                    command = entry.contender.command(job)
                    latency = loop.measure(command, job, rate=options.rate, seconds=options.latency_seconds)
                except FAILURES as error:
                    self._left_out.append(f"latency of {entry.name} was left out: {error}")
                    continue
                say(f"{entry.name:28} p50 {latency.p50_ms:6.1f} p99 {latency.p99_ms:6.1f} ms, {latency.lost} lost")
                found[entry.name] = latency
        return found

    def _row(self, entry: Entry, runs: Runs, latency: Latency | None) -> list[str]:
        """The cells of an entry, and its figures."""
        case = f"peers.{self._options.workload}.{entry.guarantee}"
        who, worker = entry.contender.name, f"{entry.guarantee}.worker"
        rates = [run.events_per_s for run in runs[entry.name]]
        cpu_s = [run.cpu_s_per_million for run in runs[entry.name]]
        self.figures |= {f"{case}.{who}.events_per_s": rates, f"{case}.{who}.cpu_s_per_million": cpu_s}
        cells = [f"{who} ({', '.join(' '.join(pair) for pair in entry.contender.versions().items())})"]
        cells += [entry.guarantee.replace("_", " "), *(number(statistics.median(values)) for values in (rates, cpu_s))]
        if latency is None:
            cells += ["", ""]
        else:
            cells += [f"{latency.p50_ms:.1f}", f"{latency.p99_ms:.1f}"]
            self.figures[f"{case}.{who}.p50_ms"] = [latency.p50_ms]
            self.figures[f"{case}.{who}.p99_ms"] = [latency.p99_ms]
        if who == "worker" or worker not in runs:
            return [*cells, "", ""]
        for figure, compared in (("throughput", throughput_ratios), ("cpu", cpu_ratios)):
            values = compared(runs, worker, entry.name)
            self.figures[f"{case}.worker_over_{who}.{figure}"] = values
            cells.append(f"{min(values):.2f} / **{statistics.median(values):.2f}** / {max(values):.2f}")
        return cells


def main(argv: Sequence[str]) -> int:
    """Run, print, keep the results, compare with the bounds. Returns: 3 when a bound falls."""
    parser = turn_parser("peers", __doc__, rounds=3, seconds=12.0)
    names = [peer.name for peer in PEERS]
    parser.add_argument("--only", nargs="*", default=names, choices=names, help="peers")
    parser.add_argument("--workload", default="mlp", choices=list(WORKLOADS))
    parser.add_argument("--rate", type=int, default=2000, help="events a second for latency; 0 leaves it out")
    parser.add_argument("--latency-seconds", type=float, default=6.0, help="of each latency run")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder, LocalKafka() as kafka:
        table = Table(Bench(kafka.bootstrap, Path(folder)), options)
        table.run()
    return verdict(table.figures, kept=not options.dry, others=table.versions)
