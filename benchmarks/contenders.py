"""Who takes part in an end-to-end run: the hand-written loop, the worker, and peers (`benchmarks.peers`).

A contender is told what to read, what to score it with and where to write, and gives the command line of a process that
does so until SIGTERM.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal, Protocol

from benchmarks.workloads import Workload

Guarantee = Literal["exactly_once", "at_least_once"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run of one contender; topics and folder exist.

    Attributes:
        bootstrap: the broker.
        name: unique for the run: consumer group, transactional id and the like.
        topic, output: read from the beginning, written to; as many partitions each.
        workload: events and model.
        model: the ONNX file.
        guarantee: what it has to give.
        folder: for what it needs to write.
    """

    bootstrap: str
    name: str
    topic: str
    output: str
    workload: Workload
    model: Path
    guarantee: Guarantee
    folder: Path


class Contender(Protocol):
    """A way to score a topic.

    Attributes:
        name: in tables, and as the start of `Job.name`.
        guarantees: which it can give.
    """

    name: str
    guarantees: tuple[Guarantee, ...]

    def command(self, job: Job) -> list[str]:
        """The command line that does the job."""
        ...

    def versions(self) -> dict[str, str]:
        """Of what it consists, package to version."""
        ...


class HandWritten:
    """`benchmarks.handwritten`."""

    name = "loop"
    guarantees: tuple[Guarantee, ...] = ("exactly_once", "at_least_once")

    def command(self, job: Job) -> list[str]:
        command = [sys.executable, "-m", "benchmarks.handwritten", "--guarantee", job.guarantee, "--group", job.name]
        command += ["--bootstrap", job.bootstrap, "--topic", job.topic, "--output", job.output]
        return [*command, "--model", str(job.model), "--format", job.workload.format]

    def versions(self) -> dict[str, str]:
        return {name: version(name) for name in ("confluent-kafka", "onnxruntime", "msgspec")}


class Worker:
    """A worker slot.

    Args:
        extra: more YAML at the top level of its configuration.
        name: in tables.
        module: what is run as a slot, and its first arguments.
    """

    guarantees: tuple[Guarantee, ...] = ("exactly_once", "at_least_once")

    def __init__(self, extra: str = "", name: str = "worker", module: Sequence[str] = ("streamserve.slot",)) -> None:
        self.name = name
        self._extra = extra
        self._module = module

    def command(self, job: Job) -> list[str]:
        command = [sys.executable, "-m", *self._module, "--config", str(self.configure(job))]
        return [*command, "--slot-name", job.name, "--verbosity", "-2"]

    def configure(self, job: Job) -> Path:
        """Write its `streamserve.yaml`. Returns: where it is."""
        config = job.folder / f"{job.name}.yaml"
        config.write_text(
            job.workload.config(
                bootstrap=job.bootstrap,
                repository=job.model.parents[2],
                topic=job.topic,
                pipeline=job.name,
                output=job.output,
                extra=f"delivery: {{guarantee: {job.guarantee}}}\nstate_dir: {job.folder / job.name}\n{self._extra}",
            )
        )
        return config

    def versions(self) -> dict[str, str]:
        return {"streamserve": version("streamserve")}
