"""The pipeline under fault: topics, a small model, a configuration, and a feeder that never loses an event.

Every event's id is `<source>-<sequence>-<key>`, the sequence grows within the source, and the key decides the
partition, so order is told twice: by the offsets of a partition and by the sequence of a key.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from confluent_kafka import Producer

from benchmarks import models
from tests.services import create_topic, unique

PARTITIONS = 4
KEYS = 200
WIDTH = 16
TOPIC_SETTINGS = {"max.message.bytes": "1048576"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """Names and files of one pipeline on one cluster.

    Attributes:
        kafka: lines of its `kafka:` block.
        guarantee: `exactly_once` or `at_least_once`.
        redis_url: its cache, or None.
        formatted: how events are encoded.
        extra: more YAML at the top level.
        samples_per_s: what is sampled for the drift sidecar; None: nothing.
        module: what a slot's process runs.
    """

    folder: Path
    bootstrap: str
    name: str
    guarantee: str = "exactly_once"
    redis_url: str | None = None
    kafka: dict[str, object] = field(default_factory=dict)
    formatted: str = "json"
    extra: str = ""
    samples_per_s: int | str | None = None
    module: str = "streamserve.slot"

    @property
    def events(self) -> str:
        return f"{self.name}.events"

    @property
    def predictions(self) -> str:
        return f"{self.name}.predictions"

    @property
    def dead_letters(self) -> str:
        return f"{self.name}.dlq"

    @property
    def samples(self) -> str:
        return f"{self.name}.samples"

    @property
    def config(self) -> Path:
        return self.folder / f"{self.name}.yaml"

    def create(self) -> Pipeline:
        """Topics, model and configuration. Returns: itself."""
        for topic in (self.events, self.predictions, self.dead_letters):
            create_topic(self.bootstrap, topic, PARTITIONS, TOPIC_SETTINGS)
        if self.samples_per_s is not None:
            create_topic(self.bootstrap, self.samples, 1, TOPIC_SETTINGS)
        models.save(models.mlp(), self.folder / "models" / "mlp" / "1")
        kafka = {"bootstrap.servers": self.bootstrap, **self.kafka}
        cache = f"cache: {{url: {self.redis_url}}}" if self.redis_url else ""
        drift = f"drift: {{samples_per_s: {self.samples_per_s}}}" if self.samples_per_s is not None else ""
        identifier = "" if self.formatted == "raw" else ", id: id"
        self.config.write_text(
            f"""
version: 1
pipeline: {self.name}
kafka: {json.dumps(kafka)}
input: {{topics: [{self.events}], format: {self.formatted}{identifier}}}
features: {{field: x, size: {WIDTH}, min: -100, max: 100}}
model: {{name: mlp, repository: "{self.folder / "models"}"}}
output: {{topic: {self.predictions}, outputs: {{probability: probability}}}}
dead_letter: {{topic: {self.dead_letters}}}
delivery: {{guarantee: {self.guarantee}}}
state_dir: "{self.folder / "state"}"
{cache}
{drift}
{self.extra}
"""
        )
        return self


def pipeline(folder: Path, bootstrap: str, prefix: str, **settings: Any) -> Pipeline:
    """A new pipeline with a name of its own."""
    return Pipeline(folder=folder, bootstrap=bootstrap, name=unique(prefix).lower(), **settings).create()


def vectors(count: int = 500, seed: int = 7) -> list[list[float]]:
    """Feature vectors, four decimals."""
    drawn = np.random.default_rng(seed).standard_normal((count, WIDTH)).round(4)
    return [[float(value) for value in row] for row in drawn]


class JsonEvents:
    """Events by sequence number: key, partition and value."""

    def __init__(self, source: str = "s") -> None:
        self._source = source
        self._texts = [json.dumps(row, separators=(",", ":")) for row in vectors()]

    def __call__(self, sequence: int) -> tuple[bytes, int, bytes]:
        number = sequence * 7919 % KEYS
        identity = f"{self._source}-{sequence}-k{number}"
        text = self._texts[sequence % len(self._texts)]
        return b"k%d" % number, number % PARTITIONS, f'{{"id":"{identity}","x":{text}}}'.encode()


class Feeder:
    """Sends events at a rate from a thread, until `stop` or `limit`; a context manager.

    Args:
        rate: events a second; 0: as fast as it can.
        limit: how many at most.
    """

    def __init__(
        self,
        target: Pipeline,
        rate: float,
        *,
        limit: int | None = None,
        make: Callable[[int], tuple[bytes, int, bytes]] | None = None,
    ) -> None:
        self._topic = target.events
        self._rate = rate
        self._limit = limit
        self._make = make or JsonEvents()
        self._ended = threading.Event()
        self.sent = 0
        self.failures: list[str] = []
        self._producer = Producer(
            {
                "bootstrap.servers": target.bootstrap,
                "enable.idempotence": True,
                "linger.ms": 5,
                "compression.type": "lz4",
                "queue.buffering.max.messages": 1_000_000,
                "delivery.report.only.error": True,
                "on_delivery": self._delivered,
                "log_level": 2,
            }
        )
        self._thread = threading.Thread(target=self._run, name="feeder", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> int:
        """Stop and wait until all is delivered. Returns: how many were sent."""
        self._ended.set()
        self._thread.join()
        left = self._producer.flush(120)
        if left or self.failures:
            raise AssertionError(f"the feeder itself lost events: {left} queued, {self.failures[:3]}")
        return self.sent

    def wait(self) -> int:
        """Wait until `limit` is reached. Returns: how many were sent."""
        self._thread.join()
        return self.stop()

    def _delivered(self, error: object, _message: object) -> None:
        if error is not None:
            self.failures.append(str(error))

    def _run(self) -> None:
        began_s = time.monotonic()
        while not self._ended.is_set():
            due = int((time.monotonic() - began_s) * self._rate) if self._rate else self.sent + 1000
            if self._limit is not None:
                due = min(due, self._limit)
            while self.sent < due:
                self._send(self.sent)
            if self._limit is not None and self.sent >= self._limit:
                return
            self._producer.poll(0)
            time.sleep(0.01 if self._rate else 0)

    def _send(self, sequence: int) -> None:
        key, partition, value = self._make(sequence)
        while True:
            try:
                self._producer.produce(self._topic, value, key, partition)
            except BufferError:
                self._producer.poll(0.1)
                continue
            self.sent += 1
            return
