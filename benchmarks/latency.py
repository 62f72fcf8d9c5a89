"""Latency at fixed rates and at half and four fifths of the capacity, beside that of Kafka alone.

From when an event was due to when a `read_committed` reader has its prediction (`open_loop`). Sender and reader are
processes of their own, which share the machine with broker and contender; how late the sender was (99th percentile) and
what both took of a core is told with every row. Three take turns:

* `round trip`: nobody. The reader reads the very topic that is written to: producer, broker, consumer, which is what no
  contender can be faster than. It knows no transactions, and is measured once a rate, for both guarantees.
* `loop`: the hand-written loop. `worker`: a worker slot.

Capacity is each contender's own, measured in the same run from how it works off a backlog; the round trip is taken at
the worker's. A discarded round of everything warms the broker. Figures are medians over repetitions.

    .venv/bin/python -m benchmarks.latency --rates 2000 --shares --repetitions 5
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from benchmarks.broker import Bench
from benchmarks.contenders import Contender, Guarantee, HandWritten, Job, Worker
from benchmarks.measure import OutputCounter, end
from benchmarks.open_loop import Arrived, Sent, read_apart, send_apart, sender, vector_of
from benchmarks.results import say, spread, verdict
from benchmarks.workloads import PARTITIONS, WORKLOADS
from streamserve.demo.local_kafka import LocalKafka

START_S = 60.0
READY_S = 1.0
"""From the order to begin until the first event is due: sender and reader connect meanwhile."""
WARM_S = 3.0
DRAIN_S = 15.0
WARM_RATE = 2000
CAPACITY_EVENTS = 600_000
SHARES = {"half": 0.5, "four_fifths": 0.8}
PERCENTILES = (50, 95, 99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """What one run gave.

    Attributes:
        events: due in the time that counts.
        lost: how many of them nobody had read `DRAIN_S` after the end; they count as infinitely late.
        p50_ms, p95_ms, p99_ms: latencies.
        late_p99_ms: how late the sender was.
        sender_cpu, reader_cpu: cores.
    """

    events: int
    lost: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    late_p99_ms: float
    sender_cpu: float
    reader_cpu: float


class OpenLoop:
    """Sender and reader, ready in processes of their own; a context manager."""

    def __enter__(self) -> Self:
        self._pool = ProcessPoolExecutor(2, get_context("spawn"))
        for ready in [self._pool.submit(time.sleep, 0.5) for _ in range(2)]:
            ready.result()
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def measure(
        self, command: list[str] | None, job: Job, *, rate: int, seconds: float, partitions: int = PARTITIONS
    ) -> Latency:
        """Latency of `command` at `rate` for `seconds`, after a warm-up; of Kafka alone without one."""
        whole_s = WARM_S + seconds
        if command is None:
            running = self.start(job, job.topic, rate=rate, seconds=whole_s, partitions=partitions)
            return summary(running, rate, seconds)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            until_ready(job, partitions)
            running = self.start(job, job.output, rate=rate, seconds=whole_s, partitions=partitions)
            return summary(running, rate, seconds)
        finally:
            end(process)

    def start(self, job: Job, read: str, *, rate: int, seconds: float, partitions: int = PARTITIONS) -> Running:
        """Begin to send to the job's topic in a second from now, and to read a topic."""
        at_ns = time.time_ns() + int(READY_S * 1e9)
        until_ns = at_ns + int((seconds + DRAIN_S) * 1e9)
        events = int(rate * seconds)
        arriving = self._pool.submit(read_apart, job.bootstrap, read, partitions, at_ns, events, until_ns)
        vector = vector_of(job.workload)
        sending = self._pool.submit(send_apart, job.bootstrap, job.topic, partitions, rate, seconds, vector, at_ns)
        return Running(at_ns, sending, arriving)


class Running(NamedTuple):
    """A run under way: when its first event is due, and what is to come of it."""

    at_ns: int
    sending: Future[Sent]
    arriving: Future[Arrived]

    def result(self) -> tuple[Sent, Arrived]:
        """Wait for the end."""
        return self.sending.result(), self.arriving.result()


def summary(running: Running, rate: int, seconds: float) -> Latency:
    """Of the last `seconds` of a run, once it is over."""
    sent, arrived = running.result()
    wanted = int(rate * seconds)
    latency_ms = arrived.latency_ms(running.at_ns + (sent.events - wanted) * 1e9 / rate)
    lost = max(0, wanted - len(latency_ms))
    p50, p95, p99 = np.percentile([*latency_ms, *[np.inf] * lost], PERCENTILES, method="lower")
    return Latency(
        events=wanted,
        lost=lost,
        p50_ms=float(p50),
        p95_ms=float(p95),
        p99_ms=float(p99),
        late_p99_ms=float(np.percentile(sent.late_ns[-wanted:] / 1e6, 99)),
        sender_cpu=sent.cpu_share,
        reader_cpu=arrived.cpu_share,
    )


def until_ready(job: Job, partitions: int) -> None:
    """Send an event a partition, again and again, until predictions come."""
    producer, vector = sender(job.bootstrap), vector_of(job.workload)
    counter = OutputCounter(job.bootstrap, job.output, partitions)
    deadline = time.monotonic() + START_S
    while counter.count() < 2 * partitions:
        if time.monotonic() > deadline:
            raise RuntimeError(f"no prediction within {START_S:.0f} s")
        for number in range(partitions):
            producer.produce(job.topic, f'{{"id":"{time.time_ns()}","x":{vector}}}', partition=number)
        producer.flush()
        time.sleep(0.3)
    counter.close()


class Case:
    """One broker, all runs on it; collects figures under names that `bounds.toml` knows."""

    def __init__(self, bench: Bench, loop: OpenLoop, options: argparse.Namespace) -> None:
        self._bench = bench
        self._loop = loop
        self._options = options
        self._workload = WORKLOADS["mlp"]
        self._contenders: tuple[Contender, ...] = (HandWritten(), Worker())
        self._capacity: dict[tuple[Guarantee, str], float] = {}
        self._numbers = count()
        self.figures: dict[str, list[float]] = {}

    def run(self) -> None:
        """Warm up, find the capacities, then all loads in turn, `repetitions` times."""
        options = self._options
        self._find_capacities()
        loads = [str(rate) for rate in options.rates] + list(options.shares)
        for guarantee in options.guarantees:
            self._round(guarantee, str(WARM_RATE), keep=False)
        for _ in range(options.repetitions):
            for load in loads:
                self._alone(load)
                for guarantee in options.guarantees:
                    self._round(guarantee, load)
        for load in loads:
            self._summary(load)

    def _find_capacities(self) -> None:
        """Events a second from a backlog, the second of two goes: the first is the broker's warm-up."""
        self._bench.fill("capacity.events", self._workload.events(self._options.capacity_events))
        for _ in range(2):
            for guarantee in self._options.guarantees:
                for contender in self._contenders:
                    found = self._bench.work_off(
                        contender, self._workload, "capacity.events", guarantee, self._options.capacity_events
                    )
                    self._capacity[guarantee, contender.name] = found.events_per_s
        for (guarantee, who), rate in self._capacity.items():
            say(f"{guarantee:13} {who:10} capacity {rate:9,.0f} events/s")
            self._add(f"latency.{guarantee}.{who}_capacity", rate)

    def _rate(self, load: str, guarantee: Guarantee, who: str) -> int:
        return int(SHARES[load] * self._capacity[guarantee, who]) if load in SHARES else int(load)

    def _alone(self, load: str) -> None:
        guarantee = self._options.guarantees[0]
        job = self._job(self._contenders[0], guarantee)  # who never runs
        rate = self._rate(load, guarantee, "worker")
        self._keep(
            load, "", "round trip", rate, self._loop.measure(None, job, rate=rate, seconds=self._options.seconds)
        )

    def _round(self, guarantee: Guarantee, load: str, *, keep: bool = True) -> None:
        for contender in self._contenders:
            job = self._job(contender, guarantee)
            rate = self._rate(load, guarantee, contender.name)
            command = contender.command(job)
            found = self._loop.measure(command, job, rate=rate, seconds=self._options.seconds)
            if keep:
                self._keep(load, guarantee, contender.name, rate, found)

    def _job(self, contender: Contender, guarantee: Guarantee) -> Job:
        topic = f"latency{next(self._numbers)}.events"
        self._bench.create(topic)
        return self._bench.job(contender, self._workload, topic, guarantee)

    def _keep(self, load: str, guarantee: str, who: str, rate: int, found: Latency) -> None:
        say(
            f"{load:11} {guarantee:13} {who:10} {rate:7,} events/s: p50 {found.p50_ms:7.1f} p95 {found.p95_ms:7.1f}"
            f" p99 {found.p99_ms:7.1f} ms | sent late, p99 {found.late_p99_ms:6.1f} ms"
            f" | cores: sender {found.sender_cpu:.2f}, reader {found.reader_cpu:.2f}"
            + (f" | {found.lost:,} lost" if found.lost else "")
        )
        name = ".".join(filter(None, ("latency", guarantee, load, who.replace(" ", "_"))))
        for percentile in PERCENTILES:
            self._add(f"{name}_p{percentile}_ms", getattr(found, f"p{percentile}_ms"))
        self._add(f"{name}_late_p99_ms", found.late_p99_ms)

    def _add(self, name: str, value: float) -> None:
        self.figures.setdefault(name, []).append(value)

    def _summary(self, load: str) -> None:
        """Medians over the repetitions, and what each adds to the round trip."""
        for guarantee in self._options.guarantees:
            for contender in self._contenders:
                for percentile in PERCENTILES:
                    alone = statistics.median(self.figures[f"latency.{load}.round_trip_p{percentile}_ms"])
                    mine = self.figures[f"latency.{guarantee}.{load}.{contender.name}_p{percentile}_ms"]
                    say(
                        f"{load:11} {guarantee:13} {contender.name:10} p{percentile} {spread(mine)} ms;"
                        f" over the round trip {statistics.median(mine) - alone:.1f} ms"
                    )


def main(argv: Sequence[str]) -> int:
    """Run, print, keep the results, compare with the bounds. Returns: 3 when a bound falls."""
    parser = argparse.ArgumentParser(prog="scripts/bench latency", description=__doc__)
    parser.add_argument("--guarantees", nargs="+", default=["exactly_once", "at_least_once"])
    parser.add_argument("--rates", nargs="*", type=int, default=[200, 2000, 20000], help="events a second")
    parser.add_argument("--shares", nargs="*", default=list(SHARES), choices=list(SHARES), help="of the capacity")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each run, after its warm-up")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--capacity-events", type=int, default=CAPACITY_EVENTS)
    parser.add_argument("--dry", action="store_true", help="keep no results")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder, LocalKafka() as kafka, OpenLoop() as loop:
        case = Case(Bench(kafka.bootstrap, Path(folder)), loop, options)
        case.run()
    return verdict(case.figures, kept=not options.dry)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
