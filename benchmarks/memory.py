"""Memory of a worker: flat over ten million events, and with a backlog.

*Flat*: one worker, exactly once. A million events are appended to its topic and worked off, ten times over. Within each
million the largest resident memory is taken; after it, when nothing is left, what is resident, and then what is *held*:
resident once the allocator has given back what is free (`trimmed_slot`). What counts is the least-squares slope of the
latter from the second million on (the first fills caches and pools) and what it comes to by the last.

*Backlog*: a million events lie there when a worker starts. How far it rises above what it had before its first output.

    .venv/bin/python -m benchmarks.memory --millions 3
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from benchmarks.broker import Bench
from benchmarks.contenders import Worker
from benchmarks.measure import end, resident_mib
from benchmarks.results import say, spread, verdict
from benchmarks.workloads import WORKLOADS
from streamserve.demo.local_kafka import LocalKafka

MILLION = 1_000_000
TICK_S = 0.2
REST_S = 1.0
"""From the last commit to the look at memory: batches have left the queues by then."""
TRIM_S = 0.5
MOST_S = 300.0
TOPIC = "memory.events"


def backlog(bench: Bench, figures: dict[str, list[float]]) -> None:
    """What a worker takes over idle while it works off a million events."""
    bench.fill(TOPIC, WORKLOADS["mlp"].stream(MILLION))
    found = bench.work_off(Worker(), WORKLOADS["mlp"], TOPIC, "exactly_once", MILLION)
    say(f"backlog of {MILLION:,}: idle {found.idle_mib:.0f} MiB, peak {found.peak_mib:.0f} MiB")
    figures["backlog.memory_over_idle_mib"] = [found.peak_mib - found.idle_mib]


def flat(bench: Bench, millions: int, figures: dict[str, list[float]]) -> None:
    """Resident memory million by million."""
    events = WORKLOADS["mlp"].stream(millions * MILLION)
    topic = "flat.events"
    bench.create(topic)
    worker = Worker(module=("benchmarks.trimmed_slot",))
    job = bench.job(worker, WORKLOADS["mlp"], topic, "exactly_once")
    process = subprocess.Popen(worker.command(job), stdout=subprocess.DEVNULL)
    peak, rest, held = [], [], []
    try:
        for million in range(1, millions + 1):
            bench.append(topic, islice(events, MILLION))
            peak.append(0.0)
            deadline = time.monotonic() + MOST_S
            while bench.committed(job) < million * MILLION:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the worker did not do {million} million events")
                peak[-1] = max(peak[-1], resident_mib(process.pid))
                time.sleep(TICK_S)
            time.sleep(REST_S)
            rest.append(resident_mib(process.pid))
            process.send_signal(signal.SIGUSR1)
            time.sleep(TRIM_S)
            held.append(resident_mib(process.pid))
            say(
                f"{million:3} million events: at most {peak[-1]:6.1f} MiB at work, {rest[-1]:6.1f} at rest,"
                f" {held[-1]:6.1f} held"
            )
    finally:
        end(process)
    steady = held[1:]
    slope_mib = float(np.polyfit(np.arange(len(steady)), steady, 1)[0])
    figures["memory.growth_mib"] = [slope_mib * (len(steady) - 1)]
    figures["memory.slope_kib_per_million"] = [slope_mib * 1024]
    figures["memory.held_mib"] = held
    figures["memory.rest_mib"] = rest
    figures["memory.peak_mib"] = peak


def main(argv: Sequence[str]) -> int:
    """Run, print, keep the results, compare with the bounds. Returns: 3 when a bound falls."""
    parser = argparse.ArgumentParser(prog="scripts/bench memory", description=__doc__)
    parser.add_argument("--millions", type=int, default=10, help="of events, three at least; 0 leaves this part out")
    parser.add_argument("--dry", action="store_true", help="keep no results")
    options = parser.parse_args(argv)
    figures: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder, LocalKafka() as kafka:
        bench = Bench(kafka.bootstrap, Path(folder))
        backlog(bench, figures)
        bench.delete(TOPIC)
        if options.millions:
            flat(bench, options.millions, figures)
    for name, values in figures.items():
        say(f"{name:32} {spread(values)}")
    return verdict(figures, kept=not options.dry)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
