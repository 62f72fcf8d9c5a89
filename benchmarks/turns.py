"""Contenders take turns on one topic: whatever a machine does to one of them, it does to the others as well.

Within a round everybody has one run; the order is turned around from round to round. Ratios are of one round.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.broker import Bench
from benchmarks.contenders import Contender, Guarantee
from benchmarks.measure import Throughput
from benchmarks.results import say
from benchmarks.workloads import Workload

Runs = dict[str, list[Throughput]]
"""By name of the entry, one a round."""
Figures = dict[str, list[float]]
"""By name, one value a round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A contender, and what it has to give."""

    contender: Contender
    guarantee: Guarantee

    @property
    def name(self) -> str:
        return f"{self.guarantee}.{self.contender.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """A topic that is filled.

    Attributes:
        flow_s: longest time of a run after its first output; the backlog should last as long for the fastest.
    """

    name: str
    workload: Workload
    events: int
    flow_s: float

    def run(self, bench: Bench, entry: Entry) -> Throughput:
        """One run of a contender."""
        return bench.work_off(
            entry.contender, self.workload, self.name, entry.guarantee, self.events, flow_s=self.flow_s
        )


def take_turns(bench: Bench, topic: Topic, entries: Sequence[Entry], rounds: int) -> Runs:
    """Run everybody once a round and say what came out, after a run of the first one that does not count."""
    topic.run(bench, entries[0])
    runs: Runs = defaultdict(list)
    for number in range(rounds):
        for entry in entries if number % 2 == 0 else reversed(entries):
            found = topic.run(bench, entry)
            runs[entry.name].append(found)
            say(f"{topic.workload.case:12} {number + 1} {entry.name:36} {row(found)}")
    return runs


def row(run: Throughput) -> str:
    """A run in a few words."""
    return f"{run.events_per_s:9,.0f} ev/s {run.cpu_s_per_million:7.2f} CPU s per million {run.peak_mib:5.0f} MiB"


def warm(bench: Bench, topic: Topic, entries: Iterable[Entry]) -> None:
    """Run without counting: a broker that was just started is several times slower until its JVM has compiled."""
    for entry in entries:
        topic.run(bench, entry)


def cpu_ratios(runs: Runs, of: str, over: str) -> list[float]:
    """CPU an event of one entry over that of another, round by round."""
    return [a.cpu_s_per_million / b.cpu_s_per_million for a, b in zip(runs[of], runs[over], strict=True)]


def throughput_ratios(runs: Runs, of: str, over: str) -> list[float]:
    """Events a second of one entry over those of another, round by round."""
    return [a.events_per_s / b.events_per_s for a, b in zip(runs[of], runs[over], strict=True)]
