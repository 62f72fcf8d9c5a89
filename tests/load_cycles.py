"""Loads a model, infers with it and lets it go, again and again; prints resident memory after each cycle, in bytes.

    python -m tests.load_cycles MODEL CYCLES

A process of its own, so that nobody else's memory counts. MODEL is an `mlp` of `SIZES`, 6 MB, in any format.
"""

from __future__ import annotations

import sys

import numpy as np

from streamserve.config.engine_settings import EngineSettings
from streamserve.engines import build_engine
from streamserve.engines.memory import give_back, resident_bytes
from streamserve.ports import Signature, TensorSpec
from tests.unit.engines.files import model_files

SIZES = (512, 1024, 1024, 8)
SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", dtype="float32", shape=(-1, SIZES[0])),),
    outputs=(TensorSpec(name="probability", dtype="float32", shape=(-1, SIZES[-1])),),
)


def main() -> None:
    path, cycles = sys.argv[1], int(sys.argv[2])
    for _ in range(cycles):
        engine = build_engine(model_files(path, SIGNATURE), EngineSettings(device="cpu"))
        engine.warm([1, 64])
        engine.infer({"x": np.zeros((33, SIZES[0]), np.float32)})
        engine.close()
        del engine
        give_back()
        print(resident_bytes(), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
