"""Eight-bit integers: weights once, activations by the batch (`int8`) or by ranges seen on the rows (`int8-static`).

Weights get a scale per output channel. Static quantisation writes the standard's QuantizeLinear and DequantizeLinear
pairs around operators; dynamic quantisation leaves convolutions alone, which it makes slower on CPUs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import onnx

from streamserve.batch import Tensors
from streamserve.optimise.errors import NotOptimised
from streamserve.optimise.graph import copy_of, hoist_constants, in_batches
from streamserve.optimise.quiet import quiet
from streamserve.optimise.wish import Step, Wish

DYNAMIC: Final = ["MatMul", "Gemm", "Attention", "LSTM"]
STATIC: Final = ["MatMul", "Gemm", "Conv", "ConvTranspose", "Add", "Mul", "Relu", "MaxPool", "AveragePool", "Concat"]
CALIBRATION_BATCH: Final = 64


def int8_dynamic(model: onnx.ModelProto, wish: Wish) -> Step:  # noqa: ARG001  a method
    """Quantise the weights of dense layers; activations are quantised while it runs, by each batch's own range."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    return _quantised(
        "int8",
        model,
        lambda prepared, path: quantize_dynamic(
            prepared,
            path,
            op_types_to_quantize=DYNAMIC,
            per_channel=True,
            weight_type=QuantType.QInt8,
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        ),
    )


def int8_static(model: onnx.ModelProto, wish: Wish) -> Step:
    """Quantise weights and activations, these by the ranges that the rows show."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    return _quantised(
        "int8-static",
        model,
        lambda prepared, path: quantize_static(
            prepared,
            path,
            _Calibration(wish.rows),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=STATIC,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        ),
    )


def _quantised(method: str, model: onnx.ModelProto, write: Callable[[onnx.ModelProto, Path], None]) -> Step:
    """Run a quantiser, which changes the model it is given, and count what it did."""
    prepared = copy_of(model)
    hoist_constants(prepared)
    if not _weights(prepared, {onnx.TensorProto.FLOAT}):
        raise NotOptimised(_nothing(method))
    with tempfile.TemporaryDirectory() as folder, quiet():
        path = Path(folder) / "model.onnx"
        write(onnx.shape_inference.infer_shapes(prepared), path)
        made = onnx.load(str(path))
    integers = _weights(made, {onnx.TensorProto.INT8, onnx.TensorProto.UINT8})
    if not integers:
        raise NotOptimised(_nothing(method))
    return Step(made, f"{integers} matrices in 8 bits, a scale per channel")


def _nothing(method: str) -> str:
    return (
        f"{method}: nothing to quantise: the model multiplies by no float32 matrix (trees and look-ups compare and"
        " pick, they do not multiply)"
    )


def _weights(model: onnx.ModelProto, kinds: set[int]) -> int:
    """How many constant matrices or larger of these types there are."""
    return sum(tensor.data_type in kinds and len(tensor.dims) >= 2 for tensor in model.graph.initializer)


class _Calibration:
    """The rows in batches, as the calibrator asks for them."""

    def __init__(self, rows: Tensors) -> None:
        self._batches = in_batches(rows, CALIBRATION_BATCH)

    def get_next(self) -> Tensors | None:
        return next(self._batches, None)
