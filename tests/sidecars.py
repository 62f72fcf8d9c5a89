"""Sidecars for tests: a pipeline's drift topics, chunks written as workers write them, and sidecar processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import orjson
from confluent_kafka import Producer

from streamserve.drift.chunk import SampleChunk, Span
from streamserve.sidecar.publisher import PARTITION_HEADER
from tests.services import create_topic, read_all, unique

ROOT = Path(__file__).resolve().parent.parent
SESSION_MS = 3000
PARTITIONS = 2


def sample_chunk(pipeline, first, count, *, model="m", partition=0, name="e"):
    """A chunk of `count` rows from offset `first` of source partition `partition`, all of level 0."""
    index = np.arange(count)
    return SampleChunk(
        pipeline=pipeline,
        model=model,
        version="1",
        role="stable",
        reference="",
        spans=(Span("events", partition, first, first + count, count),),
        span=np.zeros(count, np.uint32),
        offset=index + first,
        event_time_ms=np.full(count, 1_700_000_000_000, np.int64),
        timestamp_ms=np.full(count, 1_700_000_000_000, np.int64),
        level=np.zeros(count, np.uint8),
        id=[f"{name}{first + i}" for i in range(count)],
        entity=[None] * count,
        columns={"x": index.astype(np.float64)},
        rejects=(),
        written_ms=round(time.time() * 1000),
    )


class Writer:
    """Writes chunks in transactions."""

    def __init__(self, bootstrap, topic) -> None:
        self._topic = topic
        self._producer = Producer(
            {"bootstrap.servers": bootstrap, "transactional.id": unique("t"), "log_level": 0, "linger.ms": 0}
        )
        self._producer.init_transactions(30)

    def write(self, *values, partition=0, commit=True):
        self._producer.begin_transaction()
        for value in values:
            self._producer.produce(self._topic, value, b"m", partition)
        self._producer.flush(30)
        self._producer.commit_transaction() if commit else self._producer.abort_transaction()


@dataclass
class Pipeline:
    """Topics and a configuration file with a drift block."""

    bootstrap: str
    folder: Path
    drift: dict = field(default_factory=dict)
    kafka: dict = field(default_factory=dict)
    stall_s: float = 60
    name: str = field(default_factory=lambda: unique("p"))

    def __post_init__(self) -> None:
        self.samples, self.reports, self.alerts, self.labels = (
            f"{self.name}.{kind}" for kind in ("samples", "drift.reports", "drift.alerts", "labels")
        )
        self.events = f"{self.name}.in"
        create_topic(self.bootstrap, self.samples, PARTITIONS)
        for topic in (self.reports, self.alerts, self.labels, self.events):
            create_topic(self.bootstrap, topic)
        self.file = self.folder / f"{self.name}.yaml"
        document = {
            "version": 1,
            "pipeline": self.name,
            "kafka": {
                "bootstrap.servers": self.bootstrap,
                "session.timeout.ms": SESSION_MS,
                "heartbeat.interval.ms": 500,
                **self.kafka,
            },
            "input": {"topics": [self.events]},
            "features": [{"name": "x"}],
            "model": {"name": "m", "repository": str(self.folder)},
            "output": {"topic": f"{self.name}.out"},
            "dead_letter": {"topic": f"{self.name}.dlq"},
            "delivery": {"stall_s": self.stall_s},
            "drift": {"http_port": 0, **self.drift},
        }
        self.file.write_text(json.dumps(document))

    def told(self, topic, kind):
        """Committed documents of a kind, in order."""
        documents = [orjson.loads(message.value()) for message in read_all(self.bootstrap, topic)]
        return [document for document in documents if document["kind"] == kind]

    def incidents(self):
        """How often each incident was told to have opened."""
        return Counter(alert["incident"] for alert in self.told(self.alerts, "alert"))

    def state(self, model="m"):
        """The newest state of a model, and the samples partition it was told for."""
        found = None
        for message in read_all(self.bootstrap, self.reports):
            document = orjson.loads(message.value())
            if document["kind"] == "state" and document["model"] == model:
                found = document, int(dict(message.headers())[PARTITION_HEADER])
        return found


class SidecarProcess:
    """A sidecar with the counting monitor; a context manager."""

    def __init__(self, pipeline, *, program=("-m", "tests.unit.sidecar.counting_sidecar")) -> None:
        self._log = pipeline.folder / f"{unique('sidecar')}.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, *program, str(pipeline.file)],
                cwd=ROOT,
                stderr=log,
                stdout=log,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        self._address = ""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait(10)

    @property
    def log(self):
        return self._log.read_text()

    def lines(self, event):
        """Log lines of an event."""
        found = [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]
        return [line for line in found if line["event"] == event]

    def get(self, path):
        """A page; None while nobody answers."""
        if not self._address:
            told = [line for line in self.log.splitlines() if line.startswith("dashboard: ")]
            if not told:
                return None
            self._address = told[0].removeprefix("dashboard: ").strip()
        try:
            with urllib.request.urlopen(self._address + path, timeout=5) as answer:  # noqa: S310  our own address
                return answer.read()
        except OSError:
            return None

    def rows(self):
        """Rows merged per model, as the page shows them."""
        body = self.get("api/overview")
        return {each["model"]: each["rows"] for each in orjson.loads(body)["models"]} if body else {}

    def metric(self, name, **labels):
        """The value of a series, or None."""
        for line in (self.get("metrics") or b"").decode().splitlines():
            if line.startswith(f"streamserve_{name}{{") and all(f'{k}="{v}"' in line for k, v in labels.items()):
                return float(line.rsplit(" ", 1)[1])
        return None

    def wait_for(self, fact, timeout_s=30.0):
        """Wait until `fact()` is true and return it."""
        deadline = time.monotonic() + timeout_s
        while not (found := fact()):
            assert self.process.poll() is None, f"the sidecar ended: {self.log[-3000:]}"
            assert time.monotonic() < deadline, f"not in {timeout_s} s: {self.log[-3000:]}"
            time.sleep(0.05)
        return found

    def wait_ready(self):
        """Wait until its partitions are rebuilt."""
        self.wait_for(lambda: self.get("v2/health/ready"))
