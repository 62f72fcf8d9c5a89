"""What a shadow costs the stable path: latency of one worker with the shadow on and off in turns, at fixed rates.

    .venv/bin/python -m benchmarks.shadow                       # about six minutes
    .venv/bin/python -m benchmarks.shadow --rates 1000 --turns 6 --seconds 3 --dry

One worker process and one open loop (see `latency`) for the whole run; a command switches the shadow on and off every
few seconds, so that whatever else the machine does meets both. Events that were due while a switch was under way are
left out. The ratio is that of two neighbouring turns, and the bound is on the median.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from benchmarks import models
from benchmarks.broker import Bench
from benchmarks.contenders import Worker
from benchmarks.measure import cpu_s, end
from benchmarks.open_loop import Reader, send, until_first, vector_of
from benchmarks.results import say, spread, verdict
from benchmarks.workloads import PARTITIONS, WORKLOADS
from streamserve.config.loading import load
from streamserve.config.settings import PipelineSettings
from streamserve.demo.local_kafka import LocalKafka
from streamserve.kafka.rollout_topic import RolloutReader, RolloutWriter
from streamserve.rollout.log import RolloutLog
from streamserve.rollout.records import Shadow, Stop, new_id

SETTLE_S = 0.5
"""After a switch, before events count."""
MOST_S = 3600.0
WARM_S = 3.0
STABLE, SHADOW = "2", "1"
PERCENTILES = (50, 99)
Times = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A stretch of time with the shadow on or off, nanoseconds since 1970, and the worker's share of one core in it."""

    on: bool
    begin_ns: int
    end_ns: int
    cpu_share: float


def main() -> int:
    """Run, print, keep the results, compare with the bounds. Returns: 3 when a bound falls."""
    parser = argparse.ArgumentParser(prog="benchmarks.shadow", description=__doc__)
    parser.add_argument("--rates", nargs="+", type=int, default=[1000, 2000])
    parser.add_argument("--turns", type=int, default=40, help="half of them with the shadow")
    parser.add_argument("--seconds", type=float, default=4.0, help="of a turn")
    parser.add_argument("--dry", action="store_true", help="keep no results")
    options = parser.parse_args()
    figures: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder, LocalKafka() as kafka:
        for rate in options.rates:
            measured = Case(Bench(kafka.bootstrap, Path(folder) / str(rate)), kafka.bootstrap, rate, options).run()
            for name, values in measured.items():
                figures[f"shadow.mlp.{rate}.{name}"] = values
    return verdict(figures, kept=not options.dry)


class Case:
    """One worker at one rate."""

    def __init__(self, bench: Bench, bootstrap: str, rate: int, options: argparse.Namespace) -> None:
        self._bench = bench
        self._bootstrap = bootstrap
        self._rate = rate
        self._turns: int = options.turns
        self._seconds: float = options.seconds

    def run(self) -> dict[str, list[float]]:
        workload, topic = WORKLOADS["mlp"], f"mlp.events{self._rate}"
        self._bench.create(topic)
        worker = Worker("rollout: {}")
        job = self._bench.job(worker, workload, topic, "exactly_once")
        command = worker.command(job)
        models.save(models.mlp(), job.folder / "models" / workload.name / STABLE)
        settings = load(worker.configure(job), {}, {}).settings
        self._create(job.name)
        vector = vector_of(workload)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        reader = Reader(self._bootstrap, job.output, PARTITIONS)
        reader.start()
        try:
            producer = Producer({"bootstrap.servers": self._bootstrap, "linger.ms": 1})
            until_first(producer, reader, topic, vector)
            over = threading.Event()
            load_of = (producer, topic, PARTITIONS, self._rate, MOST_S, vector, over.is_set)
            sender = threading.Thread(target=send, args=load_of, daemon=True)
            sender.start()
            time.sleep(WARM_S)
            turns = [self._turn(settings, process.pid, on=number % 2 == 1) for number in range(self._turns)]
            over.set()
            sender.join()
        finally:
            end(process)
            reader.stop()
        read = np.array(reader.read_ns, dtype=np.int64)
        return self._figures(turns, np.array(reader.due_ns[: len(read)], dtype=np.int64), read)

    def _create(self, pipeline: str) -> None:
        admin = AdminClient({"bootstrap.servers": self._bootstrap})
        control = NewTopic(f"{pipeline}.rollout", 1, 1, config={"cleanup.policy": "compact"})
        for future in admin.create_topics([control, NewTopic(f"{pipeline}.shadow", PARTITIONS, 1)]).values():
            future.result()

    def _turn(self, settings: PipelineSettings, pid: int, *, on: bool) -> Turn:
        """Switch, wait until the worker says so, and let time pass."""
        command = Shadow(id=new_id(), version=SHADOW) if on else Stop(id=new_id(), what="shadow")
        with RolloutWriter(settings) as writer, RolloutReader(settings) as reader:
            revision, log = writer.publish(command), RolloutLog()
            refused = False
            while not refused and not any(ack.serving == revision for ack in log.acknowledgements.values()):
                for entry in reader.poll(0.2):
                    log.add(*entry)
                refused = any(given.offset == revision and given.refused for given in log.history)
        time.sleep(SETTLE_S)
        begin_ns, begin_cpu_s = time.time_ns(), cpu_s(pid)
        time.sleep(self._seconds)
        return Turn(
            on=on, begin_ns=begin_ns, end_ns=time.time_ns(), cpu_share=(cpu_s(pid) - begin_cpu_s) / self._seconds
        )

    def _figures(self, turns: list[Turn], due: Times, read: Times) -> dict[str, list[float]]:
        """Percentiles of every turn, and their ratios pair by pair."""
        figures: dict[str, list[float]] = {}
        found = []
        for turn in turns:
            mine = (due >= turn.begin_ns) & (due < turn.end_ns)
            found.append(np.percentile((read - due)[mine] / 1e6, PERCENTILES))
            side = "on" if turn.on else "off"
            for percentile, value in zip(PERCENTILES, found[-1], strict=True):
                figures.setdefault(f"{side}_p{percentile}_ms", []).append(float(value))
            figures.setdefault(f"{side}_cpu_share", []).append(turn.cpu_share)
        for off, on in zip(found[::2], found[1::2], strict=True):
            for place, percentile in enumerate(PERCENTILES):
                figures.setdefault(f"p{percentile}_ratio", []).append(float(on[place] / off[place]))
        for name, values in figures.items():
            say(f"{self._rate:5} events/s {name:14} {spread(values)}")
        return figures


if __name__ == "__main__":
    sys.exit(main())
