"""Row D: one event in a hundred is bad; row I: one row in the topic brings the native engine or the device down."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Self

import msgspec
import numpy as np
import onnxruntime

from streamserve.worker.quarantine import DEVICE_FAULT_EXIT_CODE
from tests.faults.crashing_slot import FAULT, MARK
from tests.faults.observe import read_topic
from tests.faults.oracle import Evidence, Verdict
from tests.faults.scene import Scale, classic, made, scene
from tests.faults.workload import KEYS, PARTITIONS, WIDTH, JsonEvents, Pipeline, vectors

EVERY = 100
TOLERANCE = 1e-6
"""Largest difference of a probability from that of a batch of one: matrix products of other sizes add up otherwise."""

Event = dict[str, object]
POISON: list[tuple[str, Callable[[Event, list[float]], object]]] = [
    ("non_finite", lambda event, x: {**event, "x": [math.nan, *x[1:]]}),
    ("out_of_range", lambda event, x: {**event, "x": [*x[:-1], 1e6]}),
    ("missing_feature", lambda event, _: event),
    ("schema", lambda event, x: {**event, "x": ["1.5", *x[1:]]}),
    ("schema", lambda event, x: {**event, "x": x[:-1]}),
    ("non_finite", lambda event, x: {**event, "x": [*x[:-1], -math.inf]}),
    ("decode", lambda event, _: [event["id"]]),
    ("schema", lambda event, x: {**event, "x": [True, *x[1:]]}),
]
"""Reason, and what becomes of a good event `{id, x}` without its x."""


class PoisonedEvents:
    """MessagePack events; one in each hundred is poison when `poisoned`, each time at another place and key."""

    def __init__(self, *, poisoned: bool) -> None:
        self._poisoned = poisoned
        self._vectors = vectors()
        self._encode = msgspec.msgpack.Encoder().encode

    @staticmethod
    def kind(sequence: int) -> str | None:
        """Why this event is refused, if it is."""
        block, place = divmod(sequence, EVERY)
        return POISON[block % len(POISON)][0] if place == block * 37 % EVERY else None

    def __call__(self, sequence: int) -> tuple[bytes, int, bytes]:
        number = sequence * 7919 % KEYS
        event: Event = {"id": f"s-{sequence}-k{number}"}
        x = self._vectors[sequence % len(self._vectors)]
        value: object = {**event, "x": x}
        if self._poisoned and self.kind(sequence):
            value = POISON[sequence // EVERY % len(POISON)][1](event, x)
        return b"k%d" % number, number % PARTITIONS, self._encode(value)


def msgpack_id(value: bytes) -> str:
    event = msgspec.msgpack.decode(value)
    return str(event["id"] if isinstance(event, dict) else event[0])


def poisoned(bootstrap: str, redis_url: str | None, scale: Scale) -> Verdict:
    """`seconds * rate` events with poison, and the same once more without; compare both, and both with batches of one."""
    count = int(scale.seconds * scale.rate)
    verdict, letters, spoiled = _run(bootstrap, redis_url, scale, count, poison=True)
    clean_verdict, _, clean = _run(bootstrap, redis_url, scale, count, poison=False)
    expected = Counter(kind for kind in map(PoisonedEvents.kind, range(count)) if kind)
    alone = batches_of_one()
    outputs = {id_: alone[int(id_.split("-")[1]) % len(alone)] for id_ in clean}
    verdict.notes |= {
        "poison": sum(expected.values()),
        "wrong_reasons": sum(PoisonedEvents.kind(int(id_.split("-")[1])) != reason for id_, reason in letters.items()),
        "reasons": dict(Counter(letters.values())),
        "reasons_expected": dict(expected),
        "clean_run": clean_verdict.broken(),
        "differ_bitwise_from_clean": sum(clean[id_] != value for id_, value in spoiled.items()),
        "differ_bitwise_from_one": sum(outputs[id_] != value for id_, value in spoiled.items()),
        "beyond_tolerance": sum(abs(outputs[id_] - value) > TOLERANCE for id_, value in spoiled.items()),
        "largest_difference": max(abs(outputs[id_] - value) for id_, value in spoiled.items()),
    }
    return verdict


def _run(
    bootstrap: str, redis_url: str | None, scale: Scale, count: int, *, poison: bool
) -> tuple[Verdict, dict[str, str], dict[str, float]]:
    """Verdict, dead letters by id with their reason, predictions by id."""
    with made(bootstrap, "poison", redis_url=redis_url, formatted="msgpack") as target:
        make = PoisonedEvents(poisoned=poison)
        with scene(target, scale.rate, limit=count, make=make, id_of=msgpack_id) as stage:
            stage.feeder.wait()
            verdict, evidence = stage.verdict()
        letters = {
            msgpack_id(message.value()): dict(message.headers())["streamserve.reason"].decode()
            for message in read_topic(bootstrap, target.dead_letters)
        }
    return verdict, letters, probabilities(evidence)


def probabilities(evidence: Evidence) -> dict[str, float]:
    found = {}
    for output in evidence.predictions:
        value = json.loads(output.value)["outputs"]["probability"]
        found[output.id] = float(value[0] if isinstance(value, list) else value)
    return found


def batches_of_one() -> list[float]:
    """The probability of each vector, inferred alone, as it stands in a prediction."""
    from benchmarks import models

    session = onnxruntime.InferenceSession(models.mlp().SerializeToString(), providers=["CPUExecutionProvider"])
    rows = np.array(vectors(), dtype=np.float32)
    assert rows.shape[1] == WIDTH
    results = [session.run(["probability"], {"x": row[None, :]})[0].reshape(-1)[0] for row in rows]
    return [float(str(value)) for value in results]


class MarkedEvents(JsonEvents):
    """JSON events of which one, at `sequence`, carries the mark that brings the engine down."""

    def __init__(self, sequence: int) -> None:
        super().__init__()
        self._marked = sequence

    def __call__(self, sequence: int) -> tuple[bytes, int, bytes]:
        key, partition, value = super().__call__(sequence)
        if sequence == self._marked:
            start = value.index(b"[")
            value = value[: start + 1] + b"%r" % MARK + value[value.index(b",", start) :]
        return key, partition, value


def native_crash(bootstrap: str, redis_url: str | None, scale: Scale, *, fault: str = "SIGSEGV") -> Verdict:
    """One event makes the engine die, under the real supervisor with two slots.

    Args:
        bootstrap, redis_url, scale: as everywhere.
        fault: a real `SIGSEGV`, or `device`: the runtime says that the GPU's context is void.
    """
    marked = int(scale.rate * scale.seconds / 2)
    with (
        made(bootstrap, "segv", redis_url=redis_url, kafka=classic(scale.session_ms)) as target,
        scene(target, scale.rate, (), make=MarkedEvents(marked)) as stage,
        Supervised(target, fault) as supervised,
    ):
        stage.sleep_until(scale.seconds)
        verdict, evidence = stage.verdict()
        code = supervised.drain()
    letters = [output.id for output in evidence.dead_letters]
    verdict.notes |= {
        "marked": f"s-{marked}",
        "dead_lettered": letters,
        "only_the_marked_row": [id_.rpartition("-")[0] for id_ in letters] == [f"s-{marked}"],
        "crashes": supervised.crashes(),
        "supervisor_code": code,
    }
    return verdict


class Supervised:
    """`streamserve run` with two slots whose engine can die; a context manager."""

    def __init__(self, target: Pipeline, fault: str) -> None:
        self._fault = fault
        self.log: Path = target.folder / "supervisor.log"
        self._command = [sys.executable, "-m", "tests.faults.crashing_slot", "--supervise", str(target.config)]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env={**os.environ, FAULT: self._fault}
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def crashes(self) -> int:
        """How often a slot ended by the fault."""
        ended = f"exit {DEVICE_FAULT_EXIT_CODE}" if self._fault == "device" else self._fault
        return self.log.read_text().count(f'"exit":"{ended}","up_s"')

    def drain(self) -> int:
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(60)
