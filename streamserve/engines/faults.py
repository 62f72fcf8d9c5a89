"""Failures of native runtimes: the one place where their exceptions are mapped to the error tree.

Neither ONNX Runtime nor PyTorch has an error code for every cause: a failed allocation or a lost device is often a
plain `RuntimeError`, and its text alone tells.
"""

from __future__ import annotations

import re

from streamserve.errors import EngineError, EngineOutOfMemory

# The words of the C++ library, of both runtimes' allocators, of CUDA, cuBLAS and cuDNN.
OUT_OF_MEMORY = re.compile(
    r"Failed to allocate memory|bad[ _]alloc|out of memory|ALLOC_FAILED|Could not allocate"
    r"|can't allocate memory|not enough memory",
    re.IGNORECASE,
)
# After one of these the CUDA context of the process is void, whatever batch comes next.
DEVICE_FAULT = re.compile(
    r"illegal (memory access|address|instruction)|misaligned address|device-side assert|launch failure"
    r"|uncorrectable ECC|hardware stack error|CUDA failure (4|46|70[0-9]|71[0-9]|999)\b|DEVICE_?RESET",
    re.IGNORECASE,
)
_PREFIX = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")
_SOURCE_PLACE = re.compile(r"/\S+\.(?:cc|cu|h|cuh):\d+ [^!]*?\) (?=\S)|^\[enforce fail at [^\]]*\] [^.]*\. ")
_SCRIPT_TRACEBACK = re.compile(r"^The following operation failed in the TorchScript interpreter\..*\n", re.DOTALL)
_CUDA_ADVICE = re.compile(
    r"\n(?:Search for `|CUDA kernel errors might|For debugging consider|Compile with `).*", re.DOTALL
)
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f]+")
MESSAGE_CHARS = 300


def engine_error(error: Exception, prefix: str = "") -> EngineError:
    """A runtime's exception in our words.

    Returns:
        EngineOutOfMemory for want of memory; an EngineError marked `retryable` when the device is gone, so
        that another process may succeed; an EngineError otherwise.
    """
    text = str(error)
    message = prefix + short(text)
    if isinstance(error, MemoryError) or OUT_OF_MEMORY.search(text):
        return EngineOutOfMemory(message)
    fault = type(error).__name__ == "DeviceReset" or DEVICE_FAULT.search(text) is not None
    return EngineError(message, retryable=fault)


def short(text: str) -> str:
    """A message of a runtime without its codes, source places, general advice and control characters."""
    text = _CUDA_ADVICE.sub("", _SCRIPT_TRACEBACK.sub("", text.rstrip()))
    text = _SOURCE_PLACE.sub("", _PREFIX.sub("", text))
    text = text.replace("Non-zero status code returned while running ", "").removeprefix("RuntimeError: ")
    text = _UNPRINTABLE.sub(" ", text).strip() or "inference failed"
    return text if len(text) <= MESSAGE_CHARS else text[: MESSAGE_CHARS - 1] + "…"
