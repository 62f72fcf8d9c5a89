"""Contenders take turns on one topic: whatever a machine does to one of them, it does to the others as well.

Within a round everybody has one run; the order is turned around from round to round. Ratios are of one round.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from benchmarks.broker import Bench
from benchmarks.contenders import Contender, Guarantee
from benchmarks.measure import Throughput
from benchmarks.results import bounds, number, say, table
from benchmarks.workloads import Workload

FAILURES = (RuntimeError, subprocess.TimeoutExpired)
"""What a run of somebody who does not work ends with."""
Runs = dict[str, list[Throughput]]
"""By name of the entry, one a round."""
Figures = dict[str, list[float]]
"""By name, one value a round."""


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


class Runner(Protocol):
    """Whoever takes turns.

    Attributes:
        name: in figures.
        case: what it works off, for the lines that are said.
    """

    @property
    def name(self) -> str: ...

    @property
    def case(self) -> str: ...

    def run(self, bench: Bench) -> Throughput:
        """One run."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A contender, what it has to give, and the topic that it works off: a `Runner`."""

    contender: Contender
    guarantee: Guarantee
    topic: Topic

    @property
    def name(self) -> str:
        """In figures."""
        return f"{self.guarantee}.{self.contender.name}"

    @property
    def case(self) -> str:
        """Its topic."""
        return self.topic.name

    def run(self, bench: Bench) -> Throughput:
        topic = self.topic
        return bench.work_off(
            self.contender, topic.workload, topic.name, self.guarantee, topic.events, flow_s=topic.flow_s
        )


def take_turns(bench: Bench, entries: Sequence[Runner], rounds: int, left_out: list[str] | None = None) -> Runs:
    """Run everybody once a round and say what came out, after a run of the first one that does not count.

    With a list for those who are `left_out`, whoever fails takes no further turn, and a line in it says why; without
    one a failure ends it all.
    """
    warm(bench, entries[:1])
    runs: Runs = {entry.name: [] for entry in entries}
    for turn in range(rounds):
        for entry in entries if turn % 2 == 0 else reversed(entries):
            if entry.name not in runs:
                continue
            try:
                found = entry.run(bench)
            except FAILURES as error:
                if left_out is None:
                    raise
                left_out.append(f"{entry.name} was left out: {error}")
                del runs[entry.name]
                continue
            runs[entry.name].append(found)
            say(f"{entry.case:24} {turn + 1} {entry.name:28} {row(found)}")
    return runs


def warm(bench: Bench, entries: Sequence[Runner]) -> None:
    """Run without counting: a broker that was just started is several times slower until its JVM has compiled."""
    for entry in entries:
        entry.run(bench)


def turn_parser(case: str, text: str | None, *, rounds: int, seconds: float | None) -> argparse.ArgumentParser:
    """The options of every case in which contenders take turns; without `seconds` a run has no longest flow."""
    made = argparse.ArgumentParser(
        prog=f"scripts/bench {case}", description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--rounds", type=int, default=rounds)
    if seconds is not None:
        made.add_argument("--seconds", type=float, default=seconds, help="longest flow of one run")
    made.add_argument("--scale", type=float, default=1.0, help="of the backlogs")
    made.add_argument("--dry", action="store_true", help="keep no results")
    return made


def row(run: Throughput) -> str:
    """A run in a few words."""
    speed = f"{run.events_per_s:9,.0f} ev/s {run.cpu_s_per_million:7.2f} CPU s per million"
    return f"{speed} {run.peak_mib:5.0f} MiB, the first after {run.first_s:.1f} s"


def speeds(case: str, runs: Runs) -> Figures:
    """Events a second and CPU of every entry."""
    figures: Figures = {}
    for name, found in runs.items():
        figures[f"{case}.{name}.events_per_s"] = [run.events_per_s for run in found]
        figures[f"{case}.{name}.cpu_s_per_million"] = [run.cpu_s_per_million for run in found]
    return figures


def cpu_ratios(runs: Runs, of: str, over: str) -> list[float]:
    """CPU an event of one entry over that of another, round by round."""
    return [a.cpu_s_per_million / b.cpu_s_per_million for a, b in zip(runs[of], runs[over], strict=True)]


def throughput_ratios(runs: Runs, of: str, over: str) -> list[float]:
    """Events a second of one entry over those of another, round by round."""
    return [a.events_per_s / b.events_per_s for a, b in zip(runs[of], runs[over], strict=True)]


def report(figures: Figures) -> None:
    """Two tables in Markdown: ratios (and whatever has a bound), and what entries do and cost."""
    known = bounds()
    compared = {name: values for name, values in figures.items() if "_over_" in name or name in known}
    for line in [*table(compared), "", *costs(figures)]:
        say(line)


def costs(figures: Figures) -> list[str]:
    """Medians: speed, and what 10^9 events cost in core hours and in hours of one process that is never idle."""
    lines = ["| case | events/s | CPU s per million | core hours per 10^9 | hours per 10^9 |", "|---|---|---|---|---|"]
    for name, values in figures.items():
        entry, _, figure = name.rpartition(".")
        if figure == "cpu_s_per_million":
            cpu_s = statistics.median(values)
            rate = statistics.median(figures[f"{entry}.events_per_s"])
            cells = [number(cpu_s), number(cpu_s * 1000 / 3600), number(1e9 / rate / 3600)]
            lines.append(f"| {entry} | {rate:,.0f} | {' | '.join(cells)} |")
    return lines
