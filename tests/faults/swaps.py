"""Row J: versions swapped under load, by commands on the real topic; broken ones among them, slots killed in between.

Which version made a prediction is judged three ways that share no code with the worker's switch: the version in the
prediction, the version that the topic's history names for its offset, and the value that this version's file gives.
"""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

from benchmarks import models
from streamserve.config.loading import load
from streamserve.kafka.rollout_topic import RolloutReader, RolloutWriter
from streamserve.registry.model import Manifest, render_manifest
from streamserve.rollout.log import RolloutLog
from streamserve.rollout.records import Command, Promote, Rollback, new_id
from tests.faults.observe import wait_for
from tests.faults.oracle import Evidence, Verdict
from tests.faults.scene import Scale, Scene, classic, made, scene
from tests.faults.workload import WIDTH, Pipeline, vectors
from tests.services import create_topic

GOOD = ("1", "2", "3")
TOLERANCE = 1e-6
"""Batches of other sizes add up otherwise."""


def _nan(path: Path) -> None:
    model = onnx.load(path)
    weights = model.graph.initializer[0]
    weights.CopyFrom(numpy_helper.from_array(np.full_like(numpy_helper.to_array(weights), np.nan), weights.name))
    onnx.save(model, path)


def _wrong_digest(path: Path) -> None:
    manifest = Manifest(files={"model.onnx": "0" * 64})
    (path.parent / "model.yaml").write_text(render_manifest(manifest))


BROKEN: dict[str, Callable[[Path], object]] = {
    "11": lambda path: path.write_bytes(path.read_bytes()[:-500]),
    "12": _wrong_digest,
    "13": lambda path: models.save(models.mlp((WIDTH + 1, 8, 1)), path.parent),
    "14": _nan,
    "15": lambda path: path.write_bytes(b""),
}
"""Version -> what is wrong with it: truncated, digest, shape, outputs that are NaN, empty."""


def equip(target: Pipeline) -> None:
    """Give a pipeline the topics of a rollout, three good versions and the broken ones."""
    create_topic(target.bootstrap, f"{target.name}.rollout", 1, {"cleanup.policy": "compact"})
    create_topic(target.bootstrap, f"{target.name}.shadow", 1)
    folder = target.folder / "models" / "mlp"
    for version in (*GOOD, *BROKEN):
        path = models.save(models.mlp(seed=int(version)), folder / version)
        BROKEN.get(version, lambda _: None)(path)


class Control:
    """Gives commands and waits for the slots' answers; a context manager."""

    def __init__(self, target: Pipeline, slots: Sequence[str]) -> None:
        settings = load(str(target.config), {}).settings
        self.log = RolloutLog()
        self._slots = slots
        self._reader = RolloutReader(settings)
        self._writer = RolloutWriter(settings)

    def __enter__(self) -> Self:
        self._reader.open()
        self._writer.open()
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()
        self._writer.close()

    def give(self, kind: type[Command], **fields: Any) -> int:
        """Publish a command. Returns: its revision."""
        return self._writer.publish(kind(id=new_id(), by="test", at_ms=int(time.time() * 1000), **fields))

    def read(self, timeout_s: float = 0.0) -> RolloutLog:
        """What the topic says by now."""
        for entry in self._reader.poll(timeout_s):
            self.log.add(*entry)
        return self.log

    def answered(self, revision: int, within_s: float = 30) -> bool:
        """Whether every slot has answered this revision in time, or it had no effect."""

        def done() -> bool:
            log = self.read(0.05)
            if any(given.offset == revision and given.refused for given in log.history):
                return True
            acks = log.acknowledgements
            return all(slot in acks and acks[slot].revision >= revision for slot in self._slots)

        return wait_for(done, within_s, 0.0)

    def to_end(self) -> RolloutLog:
        """Everything that the topic says now."""
        for entry in self._reader.read_to_end(30):
            self.log.add(*entry)
        return self.log


def plan(swaps: int, draw: random.Random) -> list[list[str | None]]:
    """Versions to promote in each of so many steps, None for a rollback: each broken one once, and two at once."""
    steps: list[list[str | None]] = [[GOOD[(at + 1) % len(GOOD)]] for at in range(swaps)]
    for version, at in zip(BROKEN, draw.sample(range(1, swaps), min(len(BROKEN), swaps - 1)), strict=False):
        steps[at] = [version]
    free = [at for at in range(1, swaps) if steps[at][0] in GOOD]
    if len(free) >= 3:
        twice, mixed, back = draw.sample(free, 3)
        steps[twice] = ["13", "15"]
        steps[mixed] = ["11", draw.choice(GOOD)]
        steps[back] = [None]
    return steps


def swaps(bootstrap: str, scale: Scale, *, kills: bool = False) -> Verdict:
    """`scale.faults` swaps spread over the load; with `kills` a slot dies by SIGKILL soon after each third command."""
    draw = random.Random(scale.seed)
    names = ("w0", "w1")
    with (
        _target(bootstrap, scale) as target,
        scene(target, scale.rate, names) as stage,
        Control(target, names) as control,
    ):
        steps = plan(scale.faults, draw)
        unanswered = 0
        for number, versions in enumerate(steps):
            stage.sleep_until(scale.seconds * (number + 0.5) / len(steps))
            for version in versions:
                revision = control.give(Rollback) if version is None else control.give(Promote, version=version)
            if kills and number % 3 == 0:
                _kill(stage, draw)
            else:
                unanswered += not control.answered(revision)
        stage.sleep_until(scale.seconds)
        verdict, evidence = stage.verdict()
        log = control.to_end()
    verdict.notes |= judged(evidence, log, target.folder)
    verdict.notes |= {"swaps": len(steps), "unanswered": unanswered, "steps": steps}
    return verdict


def judged(evidence: Evidence, log: RolloutLog, folder: Path) -> dict[str, object]:
    """How many predictions are not of the version that history names, or have not the value that it gives."""
    expected = {version: outputs(folder / "models" / "mlp" / version / "model.onnx") for version in GOOD}
    inconsistent = wrong = 0
    served: Counter[str] = Counter()
    for output in evidence.predictions:
        document = json.loads(output.value)
        version = document["version"]
        served[version] += 1
        topic = document["source"]["topic"]
        inconsistent += log.version_at(topic, *output.place, output.key) != version
        sequence = int(document["id"].split("-")[1])
        value = np.reshape(document["outputs"]["probability"], -1)[0]
        row = expected.get(version)
        wrong += row is None or abs(row[sequence % len(row)] - value) > TOLERANCE
    return {
        "failed_records": len(evidence.dead_letters),
        "inconsistent": inconsistent,
        "wrong_values": wrong,
        "served": dict(served),
        "switch_points": sum(map(len, log.switches.values())),
    }


def outputs(path: Path) -> list[float]:
    """The probability of each vector of the workload."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.run(["probability"], {"x": np.array(vectors(), dtype=np.float32)})[0]
    return [float(value) for value in found.reshape(-1)]


@contextlib.contextmanager
def _target(bootstrap: str, scale: Scale) -> Iterator[Pipeline]:
    extra = "rollout: {}\nengine: {memory_budget_mb: 64}"
    with made(bootstrap, "swaps", kafka=classic(scale.session_ms), extra=extra) as target:
        equip(target)
        target.config.write_text(target.config.read_text().replace("name: mlp,", 'name: mlp, version: "1",'))
        yield target


def _kill(stage: Scene, draw: random.Random) -> None:
    """SIGKILL to a slot within the second after a command, and a new life for it."""
    time.sleep(draw.uniform(0, 0.6))
    victim = draw.choice(stage.slots.all)
    victim.kill()
    victim.start()
