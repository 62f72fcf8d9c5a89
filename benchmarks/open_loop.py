"""Load at a fixed rate, and a reader of what becomes of it.

An open loop: each event has a time at which it is due and is sent then, whatever became of those before it. The due
time travels in the event's id, and latency counts from it, so that a stall delays what is behind it and shows (no
coordinated omission). How late the sender itself was is kept beside it: a latency is honest only where that is small.

Sender and reader are cheap (about 1 µs of Python an event each); they can be threads, or processes (`send_apart`,
`read_apart`).
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import numpy.typing as npt
from confluent_kafka import Consumer, Producer, TopicPartition

from benchmarks.workloads import Workload

Times = npt.NDArray[np.int64]

BURST = 500
"""Most events that are sent on one look at the clock: half a millisecond's worth."""
KEYS = [b"k%d" % number for number in range(100)]
ID = slice(7, 26)
"""Where the due time stands in `{"id":"1766000000000000000",…`, in events as in predictions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What a sender did.

    Attributes:
        events: how many it sent.
        start_ns: when the first was due, epoch nanoseconds; event i was due `i / rate` seconds later and went to
            partition `i % partitions`.
        late_ns: by how much each was handed to the client after it was due.
        cpu_share: CPU seconds a second of the process, if it was one of its own; its client's threads included.
    """

    events: int
    start_ns: int
    late_ns: Times
    cpu_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """What a reader saw: when each event was due and when its prediction was read, epoch nanoseconds."""

    due_ns: Times
    read_ns: Times
    cpu_share: float

    def latency_ms(self, from_ns: float, to_ns: float = float("inf")) -> npt.NDArray[np.float64]:
        """Of the events that were due in this window."""
        chosen = (self.due_ns >= from_ns) & (self.due_ns < to_ns)
        return (self.read_ns - self.due_ns)[chosen] / 1e6


class Reader(threading.Thread):
    """Collects due and read times of what comes in one topic."""

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
                "fetch.wait.max.ms": 100,
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
            values = [message.value() or b"" for message in messages if message.error() is None]
            self.due_ns.extend([int(value[ID]) for value in values])
            self.read_ns.extend(repeat(now_ns, len(values)))

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


def vector_of(workload: Workload) -> str:
    """The JSON array of the workload's first event."""
    return workload.events(1)[0].split(b'"x":')[1][:-1].decode()


def sender(bootstrap: str) -> Producer:
    """A producer for `send`."""
    return Producer(
        {
            "bootstrap.servers": bootstrap,
            "linger.ms": 1,
            "delivery.report.only.error": True,
            "queue.buffering.max.messages": 2_000_000,
        }
    )


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
    start_ns: int | None = None,
) -> Sent:
    """An open loop of `rate` events a second, until the time or the run is over."""
    start_ns = start_ns or time.time_ns()
    step_ns = 1e9 / rate
    total = int(rate * seconds)
    rest = f'","x":{vector}}}'.encode()
    produce = producer.produce
    bursts: list[tuple[int, int, int]] = []
    sent, began_cpu_s = 0, time.process_time()
    while sent < total and not over():
        now_ns = time.time_ns()
        due = min(total, sent + BURST, int((now_ns - start_ns) // step_ns) + 1)
        if due > sent:
            bursts.append((now_ns, sent, due))
        for number in range(sent, due):
            value = b'{"id":"%d%b' % (start_ns + int(number * step_ns), rest)
            produce(topic, value, KEYS[number % 100], number % partitions)
        sent = max(sent, due)
        producer.poll(0)
        wait_s = (start_ns + sent * step_ns - time.time_ns()) / 1e9
        if wait_s > 0:
            time.sleep(max(wait_s, 0.0005))
    producer.flush()
    cpu_s = time.process_time() - began_cpu_s
    late_ns = [now_ns - start_ns - np.arange(first, end) * step_ns for now_ns, first, end in bursts]
    return Sent(
        events=sent,
        start_ns=start_ns,
        late_ns=np.concatenate(late_ns).astype(np.int64) if late_ns else np.zeros(0, np.int64),
        cpu_share=cpu_s * rate / max(sent, 1),
    )


def send_apart(bootstrap: str, topic: str, partitions: int, rate: int, seconds: float, vector: str, at_ns: int) -> Sent:
    """`send` as the work of a process of its own; the first event is due at `at_ns`."""
    gc.disable()
    producer = sender(bootstrap)
    producer.list_topics(topic, timeout=10)
    return send(producer, topic, partitions, rate, seconds, vector, start_ns=at_ns)


def read_apart(bootstrap: str, topic: str, partitions: int, at_ns: int, events: int, until_ns: int) -> Arrived:
    """A `Reader` as the work of a process of its own: until it has seen `events` that were due from `at_ns` on.

    Args:
        until_ns: when it gives up.
    """
    gc.disable()
    reader = Reader(bootstrap, topic, partitions)
    began_s, began_cpu_s = time.monotonic(), time.process_time()
    reader.start()
    while time.time_ns() < until_ns:
        time.sleep(0.1)
        if len(reader.read_ns) >= events and np.count_nonzero(np.array(reader.due_ns) >= at_ns) >= events:
            break
    share = (time.process_time() - began_cpu_s) / (time.monotonic() - began_s)
    reader.stop()
    due, read = np.array(reader.due_ns, dtype=np.int64), np.array(reader.read_ns, dtype=np.int64)
    mine = due >= at_ns
    return Arrived(due_ns=due[mine], read_ns=read[mine], cpu_share=share)
