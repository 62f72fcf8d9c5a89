"""The sidecar on a real broker, as a process of its own: what is merged, what is told, and what is told once."""

from __future__ import annotations

import signal

import orjson
import pytest

from streamserve.drift.chunk import encode
from tests.services import produce
from tests.sidecars import SESSION_MS, Pipeline, SidecarProcess, Writer, sample_chunk


@pytest.fixture
def pipeline(kafka, tmp_path):
    return Pipeline(kafka.bootstrap, tmp_path)


def write_rows(writer, pipeline, start, stop, *, step=25):
    for first in range(start, stop, step):
        writer.write(encode(sample_chunk(pipeline.name, first, step)))


def test_committed_chunks_are_merged_and_aborted_ones_never(pipeline):
    writer = Writer(pipeline.bootstrap, pipeline.samples)
    writer.write(encode(sample_chunk(pipeline.name, 0, 25)))
    writer.write(encode(sample_chunk(pipeline.name, 25, 1000)), commit=False)
    with SidecarProcess(pipeline) as sidecar:
        sidecar.wait_for(lambda: sidecar.rows() == {"m": 25})  # by the rebuild
        writer.write(encode(sample_chunk(pipeline.name, 25, 1000)), commit=False)
        writer.write(encode(sample_chunk(pipeline.name, 25, 25)))
        writer.write(encode(sample_chunk(pipeline.name, 0, 10, model="other")), partition=1)
        sidecar.wait_for(lambda: sidecar.rows() == {"m": 50, "other": 10})  # by the stream
        sidecar.wait_for(lambda: sidecar.metric("drift_chunks_total", outcome="merged") == 2)
        assert sidecar.metric("drift_owned_partitions") == 2

        sidecar.process.send_signal(signal.SIGTERM)
        assert sidecar.process.wait(10) == 0
    assert pipeline.state()[0]["rows"] == 50


def test_what_is_no_chunk_is_counted_and_never_fatal(pipeline):
    good = encode(sample_chunk(pipeline.name, 0, 25))
    writer = Writer(pipeline.bootstrap, pipeline.samples)
    with SidecarProcess(pipeline) as sidecar:
        sidecar.wait_ready()
        writer.write(b"", b"\xff" * 100, good[:-7], None, encode(sample_chunk("someone.else", 0, 5)), good, good)
        sidecar.wait_for(lambda: sidecar.metric("drift_chunks_total", outcome="duplicate") == 1)
        assert sidecar.metric("drift_chunks_total", outcome="broken") == 4
        assert sidecar.metric("drift_chunks_total", outcome="foreign") == 1
        assert sidecar.metric("drift_chunks_total", outcome="merged") == 1
        assert sidecar.rows() == {"m": 25}
        assert not sidecar.lines("monitor_failed")


def test_a_killed_sidecar_goes_on_where_it_was_and_pages_nobody_twice(pipeline):
    writer = Writer(pipeline.bootstrap, pipeline.samples)
    with SidecarProcess(pipeline) as first:
        first.wait_ready()
        write_rows(writer, pipeline, 0, 1000)
        first.wait_for(lambda: first.rows().get("m", 0) >= 500)
        first.process.send_signal(signal.SIGKILL)
    write_rows(writer, pipeline, 1000, 1100)
    with SidecarProcess(pipeline) as second:
        second.wait_for(lambda: second.rows() == {"m": 1100})
        write_rows(writer, pipeline, 1100, 1300)
        second.wait_for(lambda: second.rows() == {"m": 1300})
        second.process.send_signal(signal.SIGTERM)
        assert second.process.wait(10) == 0
    assert pipeline.incidents() == {f"m-{number}": 1 for number in range(1, 14)}
    assert pipeline.state()[0]["rows"] == 1300


def test_a_stopped_sidecar_is_fenced_and_its_pages_are_not_told_twice(pipeline):
    writer = Writer(pipeline.bootstrap, pipeline.samples)
    with SidecarProcess(pipeline) as first:
        first.wait_ready()
        write_rows(writer, pipeline, 0, 300)
        first.wait_for(lambda: first.rows() == {"m": 300})
        first.process.send_signal(signal.SIGSTOP)
        # What lies in its sockets and queues when it wakes up, others will have merged.
        write_rows(writer, pipeline, 300, 600)
        with SidecarProcess(pipeline) as second:
            second.wait_for(lambda: second.rows() == {"m": 600}, timeout_s=SESSION_MS / 1000 + 30)
            write_rows(writer, pipeline, 600, 800)
            second.wait_for(lambda: second.rows() == {"m": 800})
            first.process.send_signal(signal.SIGCONT)
            write_rows(writer, pipeline, 800, 1200)
            second.wait_for(lambda: 1200 in {*first.rows().values(), *second.rows().values()})
            for sidecar in (first, second):
                sidecar.wait_for(lambda sidecar=sidecar: sidecar.metric("drift_owned_partitions") == 1)
                sidecar.wait_ready()
            for sidecar in (first, second):
                sidecar.process.send_signal(signal.SIGTERM)
            assert [sidecar.process.wait(10) for sidecar in (first, second)] == [0, 0]
    assert pipeline.incidents() == {f"m-{number}": 1 for number in range(1, 13)}
    assert pipeline.state()[0]["rows"] == 1200


def test_labels_reach_every_partition_once(kafka, tmp_path):
    pipeline = Pipeline(kafka.bootstrap, tmp_path, drift={"labels": {"wait_s": 600}})
    produce(pipeline.bootstrap, pipeline.labels, [orjson.dumps({"id": f"old{i}"}) for i in range(20)])
    with SidecarProcess(pipeline) as sidecar:
        sidecar.wait_ready()
        produce(
            pipeline.bootstrap, pipeline.labels, [b"no json", *(orjson.dumps({"id": f"new{i}"}) for i in range(30))]
        )
        # Two partitions, so twice; the rebuild's labels are not news.
        sidecar.wait_for(lambda: sidecar.metric("drift_labels_total", outcome="joined") == 60)
        assert sidecar.metric("drift_labels_total", outcome="malformed") == 2
