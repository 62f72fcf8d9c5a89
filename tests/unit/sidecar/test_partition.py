"""An owned partition: merges run beside the event loop, in order, and what is shown meanwhile is the last look."""

from __future__ import annotations

import asyncio
import threading

import pytest

from streamserve.clock import SystemClock
from streamserve.drift.chunk import encode
from streamserve.kafka.reading import StoredRecord
from streamserve.sidecar.partition import OwnedPartition, Parts
from streamserve.sidecar.recovery import Memory
from streamserve.sidecar.shared_monitor import MAX_COLUMNS, SharedMonitor
from streamserve.telemetry.logs import Log
from streamserve.testing import memory_settings
from tests.sidecars import sample_chunk
from tests.unit.sidecar.counting_monitor import CountingMonitor

PIPELINE = "memory"


class SlowMonitor(CountingMonitor):
    """Every call of `chunk` and `labels` waits until it may go on."""

    def __init__(self) -> None:
        super().__init__(memory_settings([{"name": "x"}]), None)
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.threads = set()
        self.order = []

    def _wait(self, what):
        self.threads.add(threading.current_thread())
        self.order.append(what)
        self.begun.set()
        assert self.go_on.wait(20)

    def chunk(self, data, offset, wall_ms):
        self._wait(offset)
        return super().chunk(data, offset, wall_ms)

    def labels(self, records):
        self._wait("labels")
        super().labels(records)

    def column(self, model, version, window_s, segment, name):
        return {"name": name, "rows": self.rows[model]}


class Kept:
    """Keeps what is published; nothing came before."""

    labels_topic = "labels"
    next_offset = 0
    labels: dict[int, int] = {}  # noqa: RUF012  never changed

    def __init__(self) -> None:
        self.events = []

    def open(self):
        pass

    def publish(self, events):
        self.events += events
        return 0

    def close(self):
        pass

    def memory(self, wall_ms):
        return Memory(documents=[], told_ms=[], records=0)

    def samples(self, start):
        return self

    def records(self, wall_ms):
        return iter(())


def rows(count, first=0):
    return encode(sample_chunk(PIPELINE, first, count))


def owned(monitor, kept):
    parts = Parts(
        make_monitor=lambda: monitor, publisher=kept, recovery=kept, closed=threading.Event(), progress=lambda: None
    )
    return OwnedPartition(0, parts, SystemClock(), Log.open(verbosity=-3))


def test_the_loop_turns_while_a_chunk_is_merged_and_chunks_and_labels_stay_in_order():
    monitor, kept = SlowMonitor(), Kept()

    async def go():
        partition = owned(monitor, kept)
        await partition.open()
        label = StoredRecord(topic="labels", partition=0, offset=0, timestamp_ms=1, key=None, value=b'{"id":"e1"}')
        feeding = [
            asyncio.create_task(partition.chunk(0, None, rows(100))),
            asyncio.create_task(partition.labels([label])),
            asyncio.create_task(partition.chunk(1, None, rows(100, 100))),
        ]
        await asyncio.to_thread(monitor.begun.wait, 20)
        shown = partition.monitor
        assert shown.overview(1)["models"] == []
        assert sum(shown.metrics()["rows"].values()) == 0
        assert shown.column("m", "1", 60.0, "", "x") is None
        assert not any(each.done() for each in feeding)
        monitor.go_on.set()
        await asyncio.gather(*feeding)
        assert partition.next_offset == 2
        assert shown.overview(1)["models"][0]["rows"] == 200
        assert shown.column("m", "1", 60.0, "", "x")["rows"] == 200
        await asyncio.wrap_future(partition.close())
        assert partition.monitor is None

    asyncio.run(go())
    assert monitor.order == [0, "labels", 1]
    assert threading.main_thread() not in monitor.threads
    assert [event.kind for event in kept.events] == ["alert", "state", "alert", "state"]


def test_what_is_merged_when_the_partition_is_given_up_is_not_published():
    monitor, kept = SlowMonitor(), Kept()

    async def go():
        partition = owned(monitor, kept)
        await partition.open()
        feeding = asyncio.create_task(partition.chunk(0, None, rows(100)))
        await asyncio.to_thread(monitor.begun.wait, 20)
        left = partition.close()
        monitor.go_on.set()
        await asyncio.wrap_future(left)
        await feeding

    asyncio.run(go())
    assert kept.events == []


def test_a_look_during_a_merge_shows_the_last_look_and_the_one_after_it_what_is_new():
    monitor = SlowMonitor()
    shared = SharedMonitor(monitor, 1)
    monitor.go_on.set()
    shared.chunk(rows(10), 0, 1)
    before = shared.overview(1), shared.metrics(), shared.column("m", "1", 60.0, "", "x")
    assert before[2] == {"name": "x", "rows": 10}
    monitor.begun.clear()
    monitor.go_on.clear()
    feeding = threading.Thread(target=shared.chunk, args=(rows(10, 10), 1, 1))
    feeding.start()
    assert monitor.begun.wait(20)
    assert (shared.overview(1), shared.metrics(), shared.column("m", "1", 60.0, "", "x")) == before
    monitor.go_on.set()
    feeding.join()
    assert shared.column("m", "1", 60.0, "", "x")["rows"] == 20


@pytest.mark.parametrize("more", [0, 1])
def test_so_many_columns_are_remembered(more):
    monitor = SlowMonitor()
    shared = SharedMonitor(monitor, 1)
    for number in range(MAX_COLUMNS + more):
        shared.column("m", "1", 60.0, "", f"x{number}")
    with shared._lock:
        assert (shared.column("m", "1", 60.0, "", "x0") is None) == bool(more)
        assert shared.column("m", "1", 60.0, "", f"x{MAX_COLUMNS - 1 + more}") is not None
