"""A worker slot whose engine fails for good on a marked row: `streamserve.slot` with one method replaced.

It dies of SIGSEGV, or with `ENGINE_FAULT=device` raises what a runtime raises when the GPU's context is void. With
`--supervise CONFIG` it is the supervisor of two such slots instead.
"""

from __future__ import annotations

import ctypes
import os
import random
import sys

FAULT = "ENGINE_FAULT"
MARK = 77.25
"""First feature of the row that brings the engine down."""


def arm() -> None:
    """Replace the engine's `infer`."""
    from streamserve.batch import Tensors
    from streamserve.engines.faults import engine_error
    from streamserve.engines.onnx import OnnxEngine

    infer = OnnxEngine.infer

    def dies(self: OnnxEngine, inputs: Tensors) -> Tensors:
        if any((tensor[:, 0] == MARK).any() for tensor in inputs.values()):
            if os.environ.get(FAULT) == "device":
                raise engine_error(RuntimeError("CUDA failure 700: an illegal memory access was encountered"))
            ctypes.string_at(0)  # a real segmentation fault, as in native code
        return infer(self, inputs)

    OnnxEngine.infer = dies  # type: ignore[method-assign]


def supervise(config: str) -> int:
    """The supervisor as `streamserve run` makes it, but for the slots' module."""
    from streamserve.clock import SystemClock
    from streamserve.telemetry.logs import Log
    from streamserve.worker.supervisor import Supervisor, SupervisorSettings, slot_names

    def command(name):
        module = [sys.executable, "-m", "tests.faults.crashing_slot", "--config", config]
        return [*module, "--slot-index", str(name.index), "--slot-name", name.name, "--set", "http.port=0"]

    return Supervisor(
        command,
        slot_names("w", 2),
        settings=SupervisorSettings(),
        log=Log.open(verbosity=0),
        clock=SystemClock(),
        rng=random.Random(1),
    ).run()


if __name__ == "__main__":
    if sys.argv[1] == "--supervise":
        sys.exit(supervise(sys.argv[2]))
    from streamserve.slot import main

    arm()
    sys.exit(main())
