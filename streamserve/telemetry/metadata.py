"""A model as the Open Inference Protocol describes it: name, versions, platform, tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

ONNX_PLATFORM = "onnx_onnxv1"

DATATYPES: Mapping[str, str] = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    "str": "BYTES",
    "string": "BYTES",
    "object": "BYTES",
}
"""numpy's dtype name -> the protocol's."""


class Tensor(Protocol):
    """What is said about an input or output (`streamserve.ports.TensorSpec` fits)."""

    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelMetadata:
    """A version that a worker serves.

    Attributes:
        name, version: identity of the model.
        inputs, outputs: its signature; the first axis is the batch.
        platform: the protocol's name of runtime and format.
    """

    name: str
    version: str
    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]
    platform: str = ONNX_PLATFORM

    def document(self, versions: Sequence[str]) -> dict[str, object]:
        """The protocol's metadata response; `versions` are all that serve."""
        return {
            "name": self.name,
            "versions": list(versions),
            "platform": self.platform,
            "inputs": [_tensor(tensor) for tensor in self.inputs],
            "outputs": [_tensor(tensor) for tensor in self.outputs],
        }


def _tensor(tensor: Tensor) -> dict[str, object]:
    datatype = DATATYPES.get(tensor.dtype, tensor.dtype.upper())
    return {"name": tensor.name, "datatype": datatype, "shape": list(tensor.shape)}
