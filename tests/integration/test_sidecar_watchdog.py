"""A sidecar that is of no use ends itself, and one that has nothing to do does not."""

from __future__ import annotations

import contextlib
import time

from confluent_kafka import Consumer

from streamserve.drift.chunk import encode
from tests.sidecars import SESSION_MS, Pipeline, SidecarProcess, Writer, sample_chunk


def test_partitions_that_a_dead_end_holds_end_the_process_with_1(kafka, tmp_path):
    pipeline = Pipeline(kafka.bootstrap, tmp_path, stall_s=4)
    writer = Writer(pipeline.bootstrap, pipeline.samples)
    writer.write(encode(sample_chunk(pipeline.name, 0, 25)), commit=False)
    properties = {
        "bootstrap.servers": pipeline.bootstrap,
        "group.id": f"{pipeline.name}.sidecar",
        "partition.assignment.strategy": "roundrobin",
        "session.timeout.ms": SESSION_MS,
        "client.id": "a",
    }  # the first by name, so that they get the partitions; they never commit
    stuck = [Consumer(properties) for _ in range(2)]
    try:
        for each in stuck:
            each.subscribe([pipeline.samples])
        deadline = time.monotonic() + 30
        while sum(len(each.assignment()) for each in stuck) < 2 and time.monotonic() < deadline:
            for each in stuck:
                each.poll(0.1)
        with SidecarProcess(pipeline) as sidecar:
            while not sidecar.lines("partitions_assigned") and time.monotonic() < deadline:
                for each in stuck:
                    each.poll(0.1)
            writer.write(encode(sample_chunk(pipeline.name, 0, 25)))
            while sidecar.process.poll() is None and time.monotonic() < deadline + 30:
                for each in stuck:
                    each.poll(0.1)
            assert sidecar.process.wait(1) == 1
            assert sidecar.lines("watchdog")[0]["why"][0].startswith("no progress for")
    finally:
        for each in stuck:
            each.close()


def test_a_sidecar_without_a_partition_waits_while_others_work(kafka, tmp_path):
    pipeline = Pipeline(kafka.bootstrap, tmp_path, stall_s=4)
    writer = Writer(pipeline.bootstrap, pipeline.samples)
    with contextlib.ExitStack() as stack:
        sidecars = [stack.enter_context(SidecarProcess(pipeline)) for _ in range(3)]
        for sidecar in sidecars:
            sidecar.wait_ready()
        sidecars[0].wait_for(lambda: sorted(s.metric("drift_owned_partitions") or 0 for s in sidecars) == [0, 1, 1])
        first, until_s = 0, time.monotonic() + 15
        while time.monotonic() < until_s:
            for partition in (0, 1):
                chunk = sample_chunk(pipeline.name, first, 5, partition=partition, model=f"m{partition}")
                writer.write(encode(chunk), partition=partition)
            first += 5
            time.sleep(0.1)
        assert [sidecar.process.poll() for sidecar in sidecars] == [None] * 3
        merged = {name: rows for sidecar in sidecars for name, rows in sidecar.rows().items()}
        sidecars[0].wait_for(
            lambda: {n: r for s in sidecars for n, r in s.rows().items()} == {"m0": first, "m1": first}
        )
        assert set(merged) == {"m0", "m1"}
