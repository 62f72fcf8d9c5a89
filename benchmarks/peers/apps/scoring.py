"""What the peers' applications share: options, the event and the prediction, the ONNX session.

They run in environments of their own, so nothing of this project is imported.
"""

from __future__ import annotations

import argparse
from typing import Any

import msgspec
import numpy as np
import onnxruntime

BATCH = 512
LINGER_MS = 5
TRANSACTION_S = 0.1


class Event(msgspec.Struct):
    id: str
    x: list[float]


class Prediction(msgspec.Struct):
    id: str
    model: str
    version: str
    outputs: dict[str, Any]
    event_time: int
    source: dict[str, Any]


decode = msgspec.json.Decoder(Event).decode
encode = msgspec.json.Encoder().encode


def options() -> argparse.Namespace:
    """The options that `benchmarks.peers.environment.PythonPeer` gives."""
    parser = argparse.ArgumentParser()
    for name in ("guarantee", "bootstrap", "topic", "output", "model", "group", "folder"):
        parser.add_argument(f"--{name}", required=True)
    return parser.parse_args()


class Model:
    """An ONNX file, one thread; the first input and the first output."""

    def __init__(self, path: str) -> None:
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
        self._feature = self._session.get_inputs()[0].name
        self.output = self._session.get_outputs()[0].name

    def score(self, events: list[Event]) -> list[Any]:
        """One number or one list an event, in order."""
        x = np.array([event.x for event in events], dtype=np.float32)
        scores = self._session.run([self.output], {self._feature: x})[0].tolist()
        return [score[0] if len(score) == 1 else score for score in scores]

    def prediction(
        self, event: Event, score: object, *, topic: str, partition: int, offset: int, time_ms: int
    ) -> Prediction:
        return Prediction(
            id=event.id,
            model="m",
            version="1",
            outputs={self.output: score},
            event_time=time_ms,
            source={"topic": topic, "partition": partition, "offset": offset},
        )
