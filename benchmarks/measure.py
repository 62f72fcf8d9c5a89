"""Watching a process work off a topic: throughput and CPU time, from outside.

The output topic's last stable offsets are read every 50 ms (a metadata request, no data), and the process's CPU time
with them. Figures are taken between 10 % and 95 % of the events, so that neither start nor end is in them.
"""

from __future__ import annotations

import contextlib
import math
import os
import resource
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import Consumer, KafkaException, TopicPartition

TICK_S = 0.05
SHORTEST_S = 0.2
STOP_S = 60.0
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """What one run gave.

    Attributes:
        events_per_s: committed outputs a second.
        cpu_s_per_million: CPU seconds of the process per million events.
        peak_mib: largest resident memory of the process.
        idle_mib: resident memory before the first output.
        first_s: from the start of the process to its first output.
    """

    events_per_s: float
    cpu_s_per_million: float
    peak_mib: float
    idle_mib: float
    first_s: float


class OutputCounter:
    """Counts what a read_committed reader could read of a topic.

    The log holds a control record per transaction and partition as well, so the count is of offsets; `Bench.work_off`
    takes them out again.
    """

    def __init__(self, bootstrap: str, topic: str, partitions: int) -> None:
        self._consumer = Consumer(
            {"bootstrap.servers": bootstrap, "group.id": "bench", "isolation.level": "read_committed"}
        )
        self._partitions = [TopicPartition(topic, number) for number in range(partitions)]

    def count(self) -> int:
        """Sum of the last stable offsets."""
        try:
            ends = [self._consumer.get_watermark_offsets(p, timeout=5, cached=False)[1] for p in self._partitions]
        except KafkaException:  # a topic made a moment ago has no leader yet
            return 0
        return sum(ends)

    def close(self) -> None:
        self._consumer.close()


def cpu_s(pid: int) -> float:
    """CPU seconds of a process and its descendants so far, user and system."""
    ticks = 0
    for member in family(pid):
        with contextlib.suppress(OSError):  # it ended meanwhile
            fields = Path(f"/proc/{member}/stat").read_text().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / CLOCK_TICKS


def resident_mib(pid: int) -> float:
    """Resident memory of a process and its descendants."""
    pages = 0
    for member in family(pid):
        with contextlib.suppress(OSError):
            pages += int(Path(f"/proc/{member}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / (1 << 20)


def family(pid: int) -> list[int]:
    """A process and its descendants."""
    members = [pid]
    for member in members:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{member}/task").iterdir():
                members += map(int, (task / "children").read_text().split())
    return members


def work_off(
    command: list[str],
    counter: OutputCounter,
    events: int,
    timeout_s: float = 180,
    flow_s: float = math.inf,
    log: Path | None = None,
) -> Throughput:
    """Start `command`, let it commit `events` outputs or work for `flow_s` after its first, stop it with SIGTERM.

    Args:
        log: takes its standard error; without one it goes to ours.

    Raises:
        RuntimeError: it ended by itself, with the end of its log, or it was too slow or too fast to measure.
        subprocess.TimeoutExpired: SIGTERM did not end it.
    """
    began_s = time.monotonic()
    with contextlib.ExitStack() as stack:
        errors = stack.enter_context(log.open("wb")) if log is not None else None
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
    samples: list[tuple[float, int, float]] = []
    peak = idle = 0.0
    deadline = time.monotonic() + timeout_s
    until_s = math.inf
    try:
        while not samples or (samples[-1][1] < events and samples[-1][0] < until_s):
            if process.poll() is not None:
                last = log.read_text(errors="replace")[-500:] if log is not None else ""
                raise RuntimeError(f"{command[:4]} ended with {process.returncode}: {last}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"{command[:4]} did {samples[-1][1]} of {events} in {timeout_s} s")
            count = counter.count()
            samples.append((time.monotonic(), count, cpu_s(process.pid)))
            memory = resident_mib(process.pid)
            if count == 0:
                idle = memory
                until_s = samples[-1][0] + flow_s
            peak = max(peak, memory)
            time.sleep(TICK_S)
    finally:
        end(process)
    events = min(events, samples[-1][1])
    first = next(sample for sample in samples if sample[1] >= 0.1 * events)
    last = next(sample for sample in samples if sample[1] >= 0.95 * events)
    done = last[1] - first[1]
    if last[0] - first[0] < SHORTEST_S:
        raise RuntimeError(f"{events} events took {last[0] - first[0]:.2f} s: too few to measure")
    return Throughput(
        events_per_s=done / (last[0] - first[0]),
        cpu_s_per_million=(last[2] - first[2]) / done * 1e6,
        peak_mib=peak,
        idle_mib=idle,
        first_s=next(at_s for at_s, count, _ in samples if count) - began_s,
    )


def end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and SIGKILL when that is not enough. Raises: subprocess.TimeoutExpired, after the latter."""
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise
