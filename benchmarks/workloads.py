"""The workloads: models and their events, seeded.

`mlp`: 16 floats, about 130 bytes of JSON, a perceptron 16-64-64-1. `ffnn`: 784 floats, about 6 kB of JSON, the network
of Crayfish (EDBT 2024) 784-32-32-32-10. `perceptron(width)`: as many floats as you like and next to no model, so that
transport and decoding are what is measured. Each as JSON, as MessagePack and as raw tensors. A worker's configuration
for each is written here, so that all contenders read the same topic with the same model file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt
import onnx

from benchmarks import models

Format = Literal["json", "msgpack", "raw"]
PARTITIONS = 4
DISTINCT = 2000
"""Vectors of a topic; they repeat after so many, ids do not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A model and its events.

    Attributes:
        name: of the model; `mlp`, `ffnn` and the like.
        width: floats an event.
        output: the model's output, and what the prediction calls it.
        backlog: events of one throughput run.
        format: how events are encoded.
        model: makes the model.
    """

    name: str
    width: int
    output: str
    backlog: int
    format: Format = "json"
    model: Callable[[], onnx.ModelProto] = models.mlp

    @property
    def case(self) -> str:
        """Name in figures and of topics."""
        return f"{self.name}.{self.format}"

    def events(self, count: int, seed: int = 1) -> list[bytes]:
        """Events with an id and a vector; raw ones are the vector alone."""
        return list(self.stream(count, seed))

    def stream(self, count: int, seed: int = 1) -> Iterator[bytes]:
        """`events` one by one: a long backlog of wide ones does not fit into a list."""
        distinct = min(count, DISTINCT)
        vectors = np.random.default_rng(seed).standard_normal((distinct, self.width)).astype(np.float32).round(4)
        head, body = ENCODERS[self.format]
        bodies = [body(vector) for vector in vectors]
        for number in range(count):
            yield head(number) + bodies[number % distinct]

    def save_model(self, repository: Path) -> Path:
        """Write the model into a repository folder. Returns: the file."""
        return models.save(self.model(), repository / self.name / "1")

    def features(self) -> str:
        """The `features` of its configuration, as YAML in one line."""
        return f"{{field: x, size: {self.width}}}"

    def _input(self) -> str:
        """The format, and the field of the id where there are fields."""
        return f"format: {self.format}" + ("" if self.format == "raw" else ", id: id")

    def config(
        self, *, bootstrap: str, repository: Path, topic: str, pipeline: str, output: str, extra: str = ""
    ) -> str:
        """`streamserve.yaml` of this workload; `extra` is more YAML at the top level."""
        return f"""
version: 1
pipeline: {pipeline}
kafka: {{bootstrap.servers: "{bootstrap}"}}
input: {{topics: [{topic}], {self._input()}}}
features: {self.features()}
model: {{name: {self.name}, repository: "{repository}"}}
engine: {{max_batch_size: 512}}
output: {{topic: {output}, outputs: {{{self.output}: {self.output}}}}}
dead_letter: {{topic: {pipeline}.dlq}}
http: {{port: 0}}
{extra}
"""


def _json_head(number: int) -> bytes:
    return b'{"id":"e%d","x":' % number


def _json_body(vector: npt.NDArray[np.float32]) -> bytes:
    numbers = json.dumps(vector.astype(float).round(4).tolist(), separators=(",", ":"))
    return numbers.replace("e-05", "e-5").encode() + b"}"


def _msgpack_head(number: int) -> bytes:
    return (
        b"\x82\xa2id" + msgspec.msgpack.encode(f"e{number}") + b"\xa1x"
    )  # a map of two members, the names as short strings


def _msgpack_body(vector: npt.NDArray[np.float32]) -> bytes:
    """Doubles, as MessagePack libraries write the floats of Python."""
    return msgspec.msgpack.encode(vector.astype(float).round(4).tolist())


ENCODERS: dict[Format, tuple[Callable[[int], bytes], Callable[[npt.NDArray[np.float32]], bytes]]] = {
    "json": (_json_head, _json_body),
    "msgpack": (_msgpack_head, _msgpack_body),
    "raw": (lambda _: b"", lambda vector: vector.astype("<f4").tobytes()),
}
"""The event of a number up to its vector, and the vector."""

WORKLOADS = {
    "mlp": Workload(name="mlp", width=16, output="probability", backlog=600_000),
    "ffnn": Workload(name="ffnn", width=784, output="scores", backlog=60_000, model=models.ffnn),
}


BACKLOGS: dict[tuple[str, Format], int] = {
    ("mlp", "json"): 700_000,
    ("mlp", "msgpack"): 700_000,
    ("mlp", "raw"): 1_000_000,
    ("ffnn", "json"): 130_000,
    ("ffnn", "msgpack"): 130_000,
    ("ffnn", "raw"): 400_000,
}
"""Two seconds and a half and more of the fastest contender."""


def formatted(name: str, format: Format) -> Workload:
    """One of `WORKLOADS` with its events in another format, and as many as its fastest contender needs."""
    return replace(WORKLOADS[name], format=format, backlog=BACKLOGS[name, format])


def perceptron(width: int, format: Format = "json") -> Workload:
    """A perceptron of any width whose hidden layer is small."""
    return Workload(
        name=f"perceptron-{width}",
        width=width,
        output="probability",
        backlog=min(700_000, 90_000_000 // width),
        format=format,
        model=partial(models.mlp, (width, 16, 1)),
    )
