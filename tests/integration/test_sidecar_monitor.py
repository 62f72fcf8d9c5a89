"""`streamserve sidecar` as a user starts it, with the real monitor, on a real broker: a shift is one incident."""

from __future__ import annotations

import dataclasses
import json
import signal
import time
from itertools import pairwise

import orjson

from streamserve.drift.chunk import encode
from tests.sidecars import Pipeline, SidecarProcess, Writer
from tests.unit.drift.streams import MODEL, START_MS, VERSION, Stream, reference

PROGRAM = ("-c", "from streamserve.cli import main; main()", "sidecar", "-c")
SECONDS = 1500


def shifted(seed=3):
    """A stream that ends now, shifted in its second half."""
    stream = Stream(SECONDS, 50, seed=seed, shift=1.0, shift_at_s=700)
    stream.time_ms += round(time.time() * 1000) - START_MS - SECONDS * 1000
    return stream


def overview(sidecar):
    return orjson.loads(sidecar.get("api/overview") or b"null") or {"state": None}


def test_a_shift_is_one_incident_through_kills_on_the_page_and_in_the_metrics(kafka, tmp_path):
    pipeline = Pipeline(kafka.bootstrap, tmp_path, drift={"windows_s": [60, 600], "samples_per_s": "all"})
    folder = tmp_path / MODEL / VERSION
    folder.mkdir(parents=True)
    frozen = reference()
    (folder / "reference.json").write_bytes(frozen.to_json())
    chunks = [encode(dataclasses.replace(chunk, pipeline=pipeline.name)) for chunk in shifted().chunks(250)]
    writer = Writer(pipeline.bootstrap, pipeline.samples)
    cuts = [0, 120, 170, 240, len(chunks)]
    for start, stop in pairwise(cuts):
        with SidecarProcess(pipeline, program=PROGRAM) as sidecar:
            sidecar.wait_ready()
            for chunk in chunks[start:stop]:
                writer.write(chunk)
            if stop < len(chunks):
                # Somewhere in the middle of what was written.
                sidecar.wait_for(lambda: overview(sidecar)["models"])
                sidecar.process.kill()
                continue
            sidecar.wait_for(lambda: overview(sidecar)["state"] == "alarm")
            sidecar.wait_for(lambda: sidecar.metric("drift_behind_seconds") == 0)
            sidecar.wait_for(lambda: sidecar.metric("drift_alarm", feature="x", window="600") == 1)
            assert sidecar.metric("drift_open_incidents") == 1
            assert sidecar.metric("drift_reference_info", reference=frozen.hash) == 1
            assert sidecar.metric("drift_score", feature="x", statistic="psi", window="600") > 0.1
            [incident] = overview(sidecar)["incidents"]
            query = f"model={MODEL}&version={VERSION}&window_s=600&segment=&name=x"
            assert json.loads(sidecar.get(f"api/column?{query}"))["rows"] > 10_000
            sidecar.process.send_signal(signal.SIGTERM)
            assert sidecar.process.wait(10) == 0
            assert not sidecar.lines("monitor_failed")
    alerts = pipeline.told(pipeline.alerts, "alert")
    assert [each["alert"] for each in alerts].count("opened") == 1
    assert {each["incident"] for each in alerts} == {incident["id"]}
    assert [each["sequence"] for each in alerts] == list(range(len(alerts)))
    reports = [
        (each["segment"], each["window_s"], each["end_ms"]) for each in pipeline.told(pipeline.reports, "report")
    ]
    assert len(reports) == len(set(reports)) > 100
