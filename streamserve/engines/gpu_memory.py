"""How much memory of the GPU is in use, by whoever uses it: this process, other slots, other programs."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from streamserve.engines import on_gpu
from streamserve.ports import Engine


def gpu_memory(engine: Engine) -> Callable[[], float] | None:
    """What tells the bytes in use on an engine's GPU: PyTorch where it is the runtime, else the driver's library.

    Returns:
        A function for any thread; None when the engine is on the CPU, or nothing here can tell.
    """
    if not on_gpu(engine):
        return None
    return _by_torch() if engine.provider.startswith("Torch") else _by_driver()


def _by_torch() -> Callable[[], float]:
    import torch

    device = torch.cuda.current_device()

    def used() -> float:
        free, total = torch.cuda.mem_get_info(device)
        return float(total - free)

    return used


def _by_driver() -> Callable[[], float] | None:
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        handle = _visible(pynvml, os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip())
    except pynvml.NVMLError:
        return None
    return lambda: float(pynvml.nvmlDeviceGetMemoryInfo(handle).used)


def _visible(pynvml: Any, name: str) -> Any:
    """The device that CUDA calls its first: an index or a UUID of `CUDA_VISIBLE_DEVICES`, else the driver's first."""
    if name.startswith(("GPU-", "MIG-")):
        return pynvml.nvmlDeviceGetHandleByUUID(name)
    return pynvml.nvmlDeviceGetHandleByIndex(int(name) if name.isdecimal() else 0)
