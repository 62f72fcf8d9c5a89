"""Writes model.onnx, event.json and events.jsonl of the quickstart: a logistic curve over three readings of a machine.

    python examples/quickstart/make_model.py

A toy: the weights are written here, not learned. Needs the package `onnx`.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper, save_model

FOLDER = Path(__file__).parent
WEIGHTS = {"temperature": 0.08, "vibration": 1.5, "load": 2.0}
BIAS = -10.0
START_MS = 1_767_225_600_000  # 2026-01-01, UTC


def main() -> None:
    weights = np.array(list(WEIGHTS.values()), dtype=np.float32).reshape(-1, 1)
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["readings", "weights", "bias"], ["score"]),
            helper.make_node("Sigmoid", ["score"], ["sigmoid"]),
            helper.make_node("Reshape", ["sigmoid", "rows"], ["probability"]),
        ],
        "failure",
        [helper.make_tensor_value_info("readings", TensorProto.FLOAT, ["batch", len(WEIGHTS)])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["batch"])],
        [
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(np.array([BIAS], dtype=np.float32), "bias"),
            numpy_helper.from_array(np.array([-1], dtype=np.int64), "rows"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    save_model(model, FOLDER / "model.onnx")

    generator = random.Random(7)
    events = []
    for number in range(20):
        event = {
            "id": f"reading-{number:02}",
            "machine": f"press-{number % 4}",
            "event_time": START_MS + number * 60_000,
            "temperature": round(generator.uniform(40, 95), 1),
            "vibration": round(generator.uniform(0, 2), 2),
            "load": round(generator.uniform(0.2, 1.0), 2),
        }
        if number == 13:
            del event["vibration"]  # one reading is refused and ends among the dead letters
        events.append(json.dumps(event))
    (FOLDER / "event.json").write_text(events[0] + "\n", encoding="utf-8")
    (FOLDER / "events.jsonl").write_text("\n".join([*events, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
