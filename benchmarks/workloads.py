"""The workloads: two models and their events, seeded.

`mlp`: 16 floats, about 171 bytes of JSON, a perceptron 16-64-64-1. `ffnn`: 784 floats, 7 kB of JSON, the network of
Crayfish (EDBT 2024) 784-32-32-32-10. A worker's configuration for each is written here, so that the hand-written loop
and the worker read the same topic with the same model file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import models

PARTITIONS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A model and its events.

    Attributes:
        name: `mlp` or `ffnn`.
        width: floats an event.
        output: the model's output, and what the prediction calls it.
        backlog: events of one throughput run.
    """

    name: str
    width: int
    output: str
    backlog: int

    def events(self, count: int, seed: int = 1) -> list[bytes]:
        """JSON events with an id and a vector; texts repeat after 2,000, ids do not."""
        generator = np.random.default_rng(seed)
        vectors = generator.standard_normal((min(count, 2000), self.width)).astype(np.float32).round(4)
        texts = [
            json.dumps(row.tolist(), separators=(",", ":")).replace("e-05", "e-5")
            for row in vectors.astype(float).round(4)
        ]
        return [f'{{"id":"e{i}","x":{texts[i % len(texts)]}}}'.encode() for i in range(count)]

    def save_model(self, repository: Path) -> Path:
        """Write the model into a repository folder. Returns: the file."""
        model = models.mlp() if self.name == "mlp" else models.ffnn()
        return models.save(model, repository / self.name / "1")

    def features(self) -> str:
        """The `features` of its configuration, as YAML in one line."""
        return f"{{field: x, size: {self.width}}}"

    def config(
        self, *, bootstrap: str, repository: Path, topic: str, pipeline: str, output: str, extra: str = ""
    ) -> str:
        """`streamserve.yaml` of this workload; `extra` is more YAML at the top level."""
        return f"""
version: 1
pipeline: {pipeline}
kafka: {{bootstrap.servers: "{bootstrap}"}}
input: {{topics: [{topic}], format: json, id: id}}
features: {self.features()}
model: {{name: {self.name}, repository: "{repository}"}}
engine: {{max_batch_size: 512}}
output: {{topic: {output}, outputs: {{{self.output}: {self.output}}}}}
dead_letter: {{topic: {pipeline}.dlq}}
http: {{port: 0}}
{extra}
"""


WORKLOADS = {
    "mlp": Workload(name="mlp", width=16, output="probability", backlog=600_000),
    "ffnn": Workload(name="ffnn", width=784, output="scores", backlog=60_000),
}
