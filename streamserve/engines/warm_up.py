"""The first runs of a model: inputs that any model must take, and what must hold of the outputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from streamserve.batch import Tensor, Tensors
from streamserve.errors import ContractError
from streamserve.ports import Signature, TensorSpec


def dummies(signature: Signature, rows: int) -> Tensors:
    """`rows` of zeros (False, empty strings) for every input; free axes other than the batch are 1 long."""
    return {
        spec.name: np.full(
            (rows, *(1 if size < 0 else size for size in spec.shape[1:])),
            "" if spec.dtype == "str" else 0,
            dtype=object if spec.dtype == "str" else spec.dtype,
        )
        for spec in signature.inputs
    }


def check_outputs(specs: Sequence[TensorSpec], values: Sequence[Tensor], rows: int) -> None:
    """Hold the outputs of a warm-up against the batch and the declared signature.

    Raises:
        ContractError: the first axis is not the batch, or the rank or dtype is not the declared one.
    """
    for spec, value in zip(specs, values, strict=True):
        if value.shape[:1] != (rows,):
            raise ContractError(
                f"output {spec.name!r} has shape {list(value.shape)} for a batch of {rows}: its first axis must"
                " be the batch; name the outputs to use, or export the model without this one"
            )
        if spec.shape and len(spec.shape) != value.ndim:
            raise ContractError(f"output {spec.name!r} is declared {list(spec.shape)} and comes as {list(value.shape)}")
        if spec.dtype not in ("str", value.dtype.name):
            raise ContractError(f"output {spec.name!r} is declared {spec.dtype} and comes as {value.dtype}")


def wrong_length(names: Sequence[str], values: Sequence[Tensor], rows: int) -> str:
    """The message for outputs whose first axis is not the batch."""
    shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in zip(names, values, strict=True))
    return f"the model gave {shapes} for a batch of {rows}: the first axis must be the batch"
