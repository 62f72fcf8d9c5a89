"""`FunctionEngine`: a Python function as an engine, the in-memory twin of the runtimes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from streamserve.batch import Tensors
from streamserve.errors import ContractError, EngineError
from streamserve.ports import Signature, TensorSpec

SIXTEEN_TO_ONE = Signature(
    inputs=(TensorSpec(name="x", dtype="float32", shape=(-1, 16)),),
    outputs=(TensorSpec(name="probability", dtype="float32", shape=(-1, 1)),),
)


class FunctionEngine:
    """An engine that calls a function.

    Args:
        function: inputs -> outputs. May raise EngineError or EngineOutOfMemory; anything else it raises
            becomes an
            EngineError, as a runtime's exceptions do.
        signature: what it says it takes and gives.

    Attributes:
        batches: rows of every inference so far, warm-up included, failed ones too.
    """

    provider = "Function"

    def __init__(self, function: Callable[[Tensors], Tensors], signature: Signature = SIXTEEN_TO_ONE) -> None:
        self._function = function
        self._signature = signature
        self._closed = False
        self.batches: list[int] = []

    @property
    def signature(self) -> Signature:
        return self._signature

    def infer(self, inputs: Tensors) -> Tensors:
        if self._closed:
            raise EngineError("the engine is closed")
        wanted = {spec.name for spec in self._signature.inputs}
        if set(inputs) != wanted:
            raise EngineError(f"inputs {sorted(inputs)} were given, {sorted(wanted)} are needed")
        rows = len(next(iter(inputs.values())))
        self.batches.append(rows)
        try:
            outputs = self._function(inputs)
        except EngineError:
            raise
        except Exception as error:
            raise EngineError(str(error)) from error
        for name, tensor in outputs.items():
            if tensor.shape[:1] != (rows,):
                raise EngineError(f"output {name} has shape {list(tensor.shape)} for a batch of {rows}")
        return outputs

    def warm(self, sizes: Sequence[int]) -> None:
        for rows in sizes:
            inputs: Tensors = {
                spec.name: np.full(
                    (rows, *(max(size, 1) for size in spec.shape[1:])),
                    "" if spec.dtype == "str" else 0,
                    dtype=object if spec.dtype == "str" else spec.dtype,
                )
                for spec in self._signature.inputs
            }
            outputs = self._function(inputs)
            self.batches.append(rows)
            for name, tensor in outputs.items():
                if tensor.shape[:1] != (rows,):
                    raise ContractError(f"output {name} has shape {list(tensor.shape)} for a batch of {rows}")

    def close(self) -> None:
        self._closed = True
