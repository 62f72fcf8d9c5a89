"""PyTorch as an `Engine`: `torch.export` archives and TorchScript, on the CPU or on a GPU.

On the CPU arrays and tensors share their memory both ways. On a GPU a batch goes through `staging`.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Sequence
from pathlib import Path

import torch

from streamserve.batch import Tensor, Tensors
from streamserve.config.engine_settings import EngineSettings
from streamserve.engines.faults import engine_error
from streamserve.engines.lanes import Run
from streamserve.engines.staging import Staging
from streamserve.engines.torch_program import Program, load_program
from streamserve.engines.warm_up import check_outputs, dummies, wrong_length
from streamserve.errors import ContractError, EngineError
from streamserve.ports import Signature

CPU = "TorchCPU"
CUDA = "TorchCUDA"
WARM_RUNS = 2
"""Runs of each batch size: TorchScript records the first and specialises in the second."""


class TorchEngine:
    """A model in PyTorch. `infer` may be called by several threads; on a GPU two are served at a time.

    Args:
        path: the model file, `.pt2` or `.ts`. Loading it runs its code.
        signature: inputs and outputs as declared.
        settings: device, threads, compilation, CUDA graphs.

    Raises:
        ModelCorrupt: PyTorch refuses the file, or it holds something else than what is declared.
        ContractError: the device or the batch axis is not what is needed.
    """

    def __init__(self, path: str | Path, signature: Signature, settings: EngineSettings) -> None:
        _check_signature(signature)
        device = _device(settings)
        _use_threads(settings.threads)
        program = load_program(str(path), signature, device, compiled=settings.compile)
        self._signature = signature
        self._outputs = [spec.name for spec in signature.outputs]
        self._first_input = signature.inputs[0].name
        self._provider = CUDA if device.type == "cuda" else CPU
        self._program = program
        self._run: Run = (
            Staging(program, device, graphs=settings.cuda_graphs).run if device.type == "cuda" else _in_place(program)
        )

    @property
    def signature(self) -> Signature:
        return self._signature

    @property
    def provider(self) -> str:
        return self._provider

    def infer(self, inputs: Tensors) -> Tensors:
        try:
            values = self._run(inputs)
        except EngineError:
            raise
        except Exception as error:
            traceback.clear_frames(error.__traceback__)  # or they would hold tensors while the batch is tried in parts
            raise engine_error(error) from error
        rows = len(inputs[self._first_input])
        for value in values:
            if value.shape[:1] != (rows,):
                raise EngineError(wrong_length(self._outputs, values, rows))
        return dict(zip(self._outputs, values, strict=True))

    def warm(self, sizes: Sequence[int]) -> None:
        """Run every batch size on zeros, and check what comes out.

        Raises:
            ContractError: outputs are not the declared ones, or their first axis is not the batch. EngineError: the
            model fails, as it does for a size that it was not exported for.
        """
        for rows in sizes:
            inputs = dummies(self._signature, rows)
            for _ in range(WARM_RUNS):
                try:
                    values = self._run(inputs)
                except (ContractError, EngineError):
                    raise
                except Exception as error:
                    raise engine_error(error, f"warm-up with a batch of {rows} failed: ") from error
            check_outputs(self._signature.outputs, values, rows)

    def close(self) -> None:
        """Free the model and its buffers; the engine cannot infer any more. Idempotent.

        No inference may be under way: it would fail.
        """
        self._run = _closed
        self._program.close()
        if self._provider == CUDA:
            torch.cuda.empty_cache()  # or PyTorch would keep the memory from everybody else on the device


def _in_place(program: Program) -> Run:
    """Runs a program on the CPU, on the memory of the arrays."""

    def run(inputs: Tensors) -> list[Tensor]:
        # PyTorch has no read-only tensors, and would warn.
        tensors = {
            name: torch.from_numpy(array if array.flags.writeable else array.copy()) for name, array in inputs.items()
        }
        return [output.contiguous().numpy() for output in program(tensors)]

    return run


def _closed(_: Tensors) -> list[Tensor]:
    raise EngineError("the engine is closed")


def _check_signature(signature: Signature) -> None:
    if not signature.inputs:
        raise ContractError("the model has no inputs, so it has no batch")
    for spec in (*signature.inputs, *signature.outputs):
        if not isinstance(getattr(torch, spec.dtype, None), torch.dtype):
            raise ContractError(f"{spec.name!r} is declared {spec.dtype}: PyTorch has tensors of numbers and booleans")
    for spec in signature.inputs:
        if not spec.shape or spec.shape[0] != -1:
            raise ContractError(
                f"input {spec.name!r} is declared {list(spec.shape)}: its first axis must be the batch, -1"
            )


def _device(settings: EngineSettings) -> torch.device:
    """Where to run, if that is what was wanted."""
    if settings.device == "tensorrt":
        raise ContractError("engine.device: tensorrt is for ONNX models; for PyTorch set engine.device: cuda")
    wanted = settings.device == "cuda" or (settings.device == "auto" and torch.cuda.is_available())
    if settings.cuda_graphs and not torch.cuda.is_available() and not settings.allow_cpu_fallback:
        raise ContractError("engine.cuda_graphs is set, but PyTorch finds no GPU that it can use: leave it out")
    if wanted and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if wanted and not settings.allow_cpu_fallback:
        raise ContractError(
            f"engine.device is {settings.device}, but PyTorch {torch.__version__} finds no GPU that it can use. To run"
            " on the CPU, set engine.device: cpu, or engine.allow_cpu_fallback: true"
        )
    return torch.device("cpu")


def _use_threads(threads: int) -> None:
    """Threads of one inference, process-wide. The pool between operators can be set once, and only before its use."""
    torch.set_num_threads(threads)
    with contextlib.suppress(RuntimeError):
        torch.set_num_interop_threads(1)
