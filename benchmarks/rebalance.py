"""Latency while a worker joins a group at work, and while it leaves again.

One worker, exactly once, an open loop. A second one has loaded and warmed its model and initialised its producers
(`waiting_slot`); then it joins, and later gets a SIGTERM. Latencies by partition, counted from when events were due:

    calm ──> join ──> settled ──> leave, ten seconds each

`stay` are the partitions that the first worker keeps through all of it, by its own log; `move` go to the second worker
and come back. Each window's p99 is compared with the calm p99 of the same partitions. `settled` tells what two workers
cost each other on this machine, without any rebalance. For both group protocols: `classic` (cooperative-sticky) and
`consumer` (KIP-848), in turn, on a broker that two discarded turns of each have warmed.

    .venv/bin/python -m benchmarks.rebalance --protocols classic --repetitions 5
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np

from benchmarks.broker import Bench
from benchmarks.contenders import Job, Worker
from benchmarks.latency import OpenLoop, until_ready
from benchmarks.open_loop import Arrived
from benchmarks.results import say, spread, verdict
from benchmarks.running import Slot, wait_for
from benchmarks.workloads import PARTITIONS, WORKLOADS
from streamserve.demo.local_kafka import LocalKafka

WARM_S = 3.0
WINDOW_S = 10.0
WINDOWS = ("calm", "join", "settled", "leave")
WARM_UP_TURNS = 2
PROTOCOLS = {"classic": "", "consumer": "group.protocol: consumer, "}
"""What the `kafka` block of the configuration has more."""


class Turn:
    """One group, from its first member to when it is alone again."""

    def __init__(self, bench: Bench, loop: OpenLoop, protocol: str, options: argparse.Namespace) -> None:
        self._bench = bench
        self._loop = loop
        self._protocol = protocol
        self._rate: int = options.rate
        self._keep_logs: Path | None = options.logs

    def run(self, topic: str) -> dict[str, float]:
        """Figures by name."""
        self._bench.create(topic)
        job = self._bench.job(Worker(), WORKLOADS["mlp"], topic, "exactly_once")
        config = self._config(job)
        go = job.folder / f"{job.name}.join"
        second = Slot(config, job.folder, f"{job.name}-second", ("benchmarks.waiting_slot", str(go)))
        with Slot(config, job.folder, f"{job.name}-first") as first:
            with second:
                wait_for(lambda: second.alive() and go.with_suffix(".ready").exists(), 60)
                until_ready(job, PARTITIONS)
                running = self._loop.start(job, job.output, rate=self._rate, seconds=WARM_S + len(WINDOWS) * WINDOW_S)
                begins_ns = {
                    window: running.at_ns + int((WARM_S + number * WINDOW_S) * 1e9)
                    for number, window in enumerate(WINDOWS)
                }
                sleep_until(begins_ns["join"])
                go.touch()
                sleep_until(begins_ns["leave"])
                assert first.alive()
                assert second.alive()
            _, arrived = running.result()
        logs = {"first": first.log(), "second": second.log()}
        if self._keep_logs is not None:
            for name, text in logs.items():
                (self._keep_logs / f"{job.name}-{name}.log").write_text(text)
        moved = revoked(logs["first"], begins_ns["leave"])
        if not 0 < len(moved) < PARTITIONS:
            raise RuntimeError(f"the first worker gave {sorted(moved)} away:\n{logs['first']}")
        return figures(arrived, self._rate, running.at_ns, moved, begins_ns)

    def _config(self, job: Job) -> str:
        """The worker's, with the group's protocol; its log on standard error is what tells who had which partition."""
        return Worker().configure(job).read_text().replace("kafka: {", f"kafka: {{{PROTOCOLS[self._protocol]}")


def sleep_until(moment_ns: int) -> None:
    time.sleep(max(0.0, (moment_ns - time.time_ns()) / 1e9))


def revoked(log: str, before_ns: int) -> set[int]:
    """Partitions that a worker gave away before a moment."""
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    given = [line["partitions"] for line in lines if line["event"] == "partitions_revoked" and at_ns(line) < before_ns]
    return {int(name.rsplit("-", 1)[1]) for name in itertools.chain(*given)}


def at_ns(line: dict[str, str]) -> float:
    """When a line of a log was written."""
    return datetime.fromisoformat(line["ts"]).timestamp() * 1e9


def figures(arrived: Arrived, rate: int, start_ns: int, moved: set[int], begins_ns: dict[str, int]) -> dict[str, float]:
    """Percentiles by window and fate of the partition, and the windows' p99 over the calm one's."""
    number = np.round((arrived.due_ns - start_ns) * rate / 1e9).astype(np.int64)
    has_moved = np.isin(number % PARTITIONS, list(moved))
    latency_ms = (arrived.read_ns - arrived.due_ns) / 1e6
    found: dict[str, float] = {}
    for fate, of_fate in (("stay", ~has_moved), ("move", has_moved)):
        for window, begin_ns in begins_ns.items():
            inside = (arrived.due_ns >= begin_ns) & (arrived.due_ns < begin_ns + WINDOW_S * 1e9)
            mine = latency_ms[of_fate & inside]
            for percentile in (50, 99, 100):
                found[f"{window}_{fate}_p{percentile}_ms"] = float(np.percentile(mine, percentile))
        for window in WINDOWS[1:]:
            found[f"{window}_{fate}_p99_ratio"] = found[f"{window}_{fate}_p99_ms"] / found[f"calm_{fate}_p99_ms"]
    found["lost"] = float(number.max() + 1 - len(np.unique(number)))
    found["twice"] = float(len(number) - len(np.unique(number)))
    return found


def main(argv: Sequence[str]) -> int:
    """Run, print, keep the results, compare with the bounds. Returns: 3 when a bound falls."""
    parser = argparse.ArgumentParser(prog="scripts/bench rebalance", description=__doc__)
    parser.add_argument("--protocols", nargs="+", default=list(PROTOCOLS), choices=list(PROTOCOLS))
    parser.add_argument("--rate", type=int, default=2000, help="events a second")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--logs", type=Path, help="a folder that keeps the workers' logs")
    parser.add_argument("--dry", action="store_true", help="keep no results")
    options = parser.parse_args(argv)
    kept: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder, LocalKafka() as kafka, OpenLoop() as loop:
        bench = Bench(kafka.bootstrap, Path(folder))
        turns = range(-WARM_UP_TURNS, options.repetitions)
        for number, protocol in itertools.product(turns, options.protocols):
            found = Turn(bench, loop, protocol, options).run(f"rebalance.{protocol}.{number + WARM_UP_TURNS}")
            say(row(protocol, found) + (" (warm-up)" if number < 0 else ""))
            for name, value in found.items():
                if number >= 0:
                    kept.setdefault(f"rebalance.{protocol}.{name}", []).append(value)
    for name, values in kept.items():
        if name.endswith("ratio"):
            say(f"{name:40} {spread(values)}")
    return verdict(kept, kept=not options.dry)


def row(protocol: str, found: dict[str, float]) -> str:
    """p50, p99 and maximum by window, of the partitions that stay and of those that move."""
    cells = [
        f"{fate} {window} " + "/".join(f"{found[f'{window}_{fate}_p{p}_ms']:.0f}" for p in (50, 99, 100))
        for fate in ("stay", "move")
        for window in WINDOWS
    ]
    return f"{protocol:8} p50/p99/max ms: {', '.join(cells)}; lost {found['lost']:.0f}, twice {found['twice']:.0f}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
