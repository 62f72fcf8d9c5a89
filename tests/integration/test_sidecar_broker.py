"""The sidecar through the death of its broker: it waits, goes on, and tells nothing twice."""

from __future__ import annotations

import signal
import time

import pytest

from streamserve.demo.local_kafka import LocalKafka
from streamserve.drift.chunk import encode
from tests.sidecars import Pipeline, SidecarProcess, Writer, sample_chunk


def write_rows(writer, pipeline, start, stop, *, step=25):
    for first in range(start, stop, step):
        writer.write(encode(sample_chunk(pipeline.name, first, step)))


@pytest.mark.usefixtures("kafka_jars")
def test_a_broker_that_dies_and_comes_back_is_waited_for(tmp_path):
    with LocalKafka() as cluster:
        pipeline = Pipeline(cluster.bootstrap, tmp_path)
        writer = Writer(pipeline.bootstrap, pipeline.samples)
        with SidecarProcess(pipeline) as sidecar:
            sidecar.wait_ready()
            write_rows(writer, pipeline, 0, 500)
            sidecar.wait_for(lambda: sidecar.rows() == {"m": 500})
            [broker] = cluster.brokers
            broker.kill()
            time.sleep(5)
            assert sidecar.process.poll() is None
            broker.restart()
            again = Writer(pipeline.bootstrap, pipeline.samples)
            write_rows(again, pipeline, 500, 1000)
            sidecar.wait_for(lambda: sidecar.rows() == {"m": 1000}, timeout_s=40)
            incidents = pipeline.incidents()
            [broker] = cluster.brokers
            broker.pause()
            sidecar.process.send_signal(signal.SIGTERM)
            assert sidecar.process.wait(20) == 0  # nobody answers, and it ends
        assert incidents == {f"m-{number}": 1 for number in range(1, 11)}
