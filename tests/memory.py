"""What tests of workers in memory share: a model that doubles, topics, an oracle, waiting for a condition."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

import orjson

from streamserve.ports import Signature, TensorSpec
from streamserve.testing import FunctionEngine, MemoryWorker, memory_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamserve.testing import MemoryBroker

DOUBLE = Signature(
    inputs=(TensorSpec(name="in", dtype="float32", shape=(-1, 1)),),
    outputs=(TensorSpec(name="y", dtype="float32", shape=(-1, 1)),),
)


def doubled(inputs):
    return {"y": inputs["in"] * 2}


class Gate:
    """An engine's function that waits while it is shut."""

    def __init__(self):
        self.open = threading.Event()
        self.entered = threading.Event()

    def __call__(self, inputs):
        self.entered.set()
        assert self.open.wait(20)
        return doubled(inputs)


def topics(broker: MemoryBroker, partitions: int = 1) -> MemoryBroker:
    for topic in ("events", "predictions", "dead"):
        broker.create_topic(topic, partitions)
    return broker


def fill(broker: MemoryBroker, count: int, *, partitions: int = 1, start: int = 0) -> None:
    """Events `start`, `start` + 1, ... round the partitions; the key is the partition's."""
    for n in range(start, start + count):
        broker.produce("events", b'{"x": %d}' % n, key=b"k%d" % (n % partitions), partition=n % partitions)


def worker(broker: MemoryBroker, function=doubled, *, slot="memory-0", everything=True, **blocks) -> MemoryWorker:
    return MemoryWorker(
        memory_settings([{"name": "x"}], **blocks),
        FunctionEngine(function, DOUBLE),
        broker,
        slot=slot,
        everything=everything,
    )


def until(condition: Callable[[], object], timeout_s: float = 20) -> None:
    """Wait for a condition that another thread brings about."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition never came to be"
        time.sleep(0.002)


def seen(broker: MemoryBroker) -> Counter[int]:
    """How often each event's prediction or dead letter was committed."""
    values = [round(orjson.loads(r.value)["outputs"]["y"] / 2) for r in broker.records("predictions")]
    return Counter(values + [orjson.loads(r.value)["x"] for r in broker.records("dead")])


def inversions(broker: MemoryBroker) -> int:
    """Predictions of a partition that come before one of an earlier event."""
    last: dict[int, int] = {}
    found = 0
    for record in broker.records("predictions"):
        offset = orjson.loads(record.value)["source"]["offset"]
        found += offset <= last.get(record.partition, -1)
        last[record.partition] = offset
    return found


def exactly_once(broker: MemoryBroker, count: int) -> None:
    """Events 0 to `count` - 1: lost 0, duplicated 0, inversions 0, offsets at the end and never back."""
    assert seen(broker) == Counter(range(count))
    assert inversions(broker) == 0
    last: dict[object, int] = {}
    for positions in broker.commits:
        for tp, position in positions.items():
            assert position > last.get(tp, 0)
            last[tp] = position
    assert sum(last.values()) == count
