"""How inputs are named in messages."""

from __future__ import annotations

from streamserve.ports import TensorSpec


def shape_text(spec: TensorSpec) -> str:
    """Dtype and shape as people write them: `float32[batch, 16]`."""
    axes = ["batch", *("any" if axis < 0 else str(axis) for axis in spec.shape[1:])]
    return f"{spec.dtype}[{', '.join(axes)}]"
