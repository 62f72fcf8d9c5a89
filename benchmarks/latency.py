"""Latency at fixed rates: from when an event was due to when a read_committed reader has its prediction.

Events are sent by an open loop: each has a time at which it is due, and its latency counts from then, so that a stall
delays what is behind it and shows (no coordinated omission). The due time travels in the event's id.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from confluent_kafka import Consumer, Producer, TopicPartition

from benchmarks.contenders import Job
from benchmarks.workloads import PARTITIONS, Workload

WARM_S = 3.0
DRAIN_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Percentiles in milliseconds, and how many events they are of."""

    events: int
    p50_ms: float
    p95_ms: float
    p99_ms: float


class Reader(threading.Thread):
    """Collects the latencies of the predictions of one topic."""

    def __init__(self, bootstrap: str, topic: str, partitions: int) -> None:
        super().__init__(daemon=True)
        self._topic = topic
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": "latency",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 10,
            }
        )
        self._consumer.assign([TopicPartition(topic, number, 0) for number in range(partitions)])
        self._stopping = threading.Event()
        self.due_ns: list[int] = []
        self.read_ns: list[int] = []

    def run(self) -> None:
        while not self._stopping.is_set():
            first = self._consumer.poll(0.1)
            if first is None:
                continue
            messages = [first, *self._consumer.consume(1000, 0)]
            now_ns = time.time_ns()
            for message in messages:
                if message.error() is None:
                    due = message.value()[7:].split(b'"', 1)[0]
                    self.due_ns.append(int(due))
                    self.read_ns.append(now_ns)

    def end(self, partition: int) -> int:
        """The topic's end offset of a partition; before the thread is started."""
        ends: tuple[int, int] = self._consumer.get_watermark_offsets(TopicPartition(self._topic, partition), timeout=10)
        return ends[1]

    def close(self) -> None:
        """Let go of a reader that was never started."""
        self._consumer.close()

    def stop(self) -> None:
        self._stopping.set()
        self.join(5)
        self._consumer.close()


def measure(command: list[str], job: Job, *, rate: int, seconds: float, partitions: int = PARTITIONS) -> Latency:
    """Run `command` on the events of an open loop at `rate` a second for `seconds`, after a warm-up."""
    vector = vector_of(job.workload)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    reader = Reader(job.bootstrap, job.output, partitions)
    reader.start()
    try:
        producer = Producer({"bootstrap.servers": job.bootstrap, "linger.ms": 1})
        until_first(producer, reader, job.topic, vector)
        sent = send(producer, job.topic, partitions, rate, WARM_S + seconds, vector)
        deadline = time.monotonic() + DRAIN_S
        while len(reader.due_ns) < sent and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        process.terminate()
        process.wait(60)
        reader.stop()
    due = np.array(reader.due_ns, dtype=np.int64)
    read = np.array(reader.read_ns[: len(due)], dtype=np.int64)
    from_ns = due.max() - int(seconds * 1e9)
    latency_ms = (read - due)[due >= from_ns] / 1e6
    p50, p95, p99 = np.percentile(latency_ms, [50, 95, 99])
    return Latency(events=len(latency_ms), p50_ms=p50, p95_ms=p95, p99_ms=p99)


def vector_of(workload: Workload) -> str:
    """The JSON array of the workload's first event."""
    return workload.events(1)[0].split(b'"x":')[1][:-1].decode()


def until_first(producer: Producer, reader: Reader, topic: str, vector: str) -> None:
    """Send until a prediction comes back."""
    deadline = time.monotonic() + 60
    while not reader.due_ns:
        if time.monotonic() > deadline:
            raise RuntimeError("no prediction within 60 s")
        producer.produce(topic, f'{{"id":"{time.time_ns()}","x":{vector}}}', partition=0)
        producer.flush()
        time.sleep(0.2)


def send(
    producer: Producer,
    topic: str,
    partitions: int,
    rate: int,
    seconds: float,
    vector: str,
    over: Callable[[], bool] = lambda: False,
) -> int:
    """An open loop of `rate` events a second, until the time or the run is over. Returns: how many were sent."""
    start_ns = time.time_ns()
    step_ns = 1e9 / rate
    total = int(rate * seconds)
    sent = 0
    while sent < total and not over():
        now_ns = time.time_ns()
        due = min(total, int((now_ns - start_ns) / step_ns) + 1)
        while sent < due:
            due_ns = start_ns + int(sent * step_ns)
            producer.produce(topic, f'{{"id":"{due_ns}","x":{vector}}}', b"k%d" % (sent % 100), sent % partitions)
            sent += 1
        producer.poll(0)
        time.sleep(max(0.0, min(0.001, (start_ns + sent * step_ns - time.time_ns()) / 1e9)))
    producer.flush()
    return sent
