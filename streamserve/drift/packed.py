"""Arrays in JSON: the dtype, the shape and the little-endian bytes, so that every value comes back to the bit."""

from __future__ import annotations

import base64
import math

import msgspec
import numpy as np

from streamserve.batch import F64, I64


class Packed(msgspec.Struct, frozen=True):
    """An array of float64 (`<f8`) or int64 (`<i8`)."""

    dtype: str
    shape: list[int]
    data: str


def pack(array: F64 | I64) -> Packed:
    """The array, to be written."""
    little = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
    return Packed(little.dtype.str, list(array.shape), base64.b64encode(little.tobytes()).decode("ascii"))


def floats(packed: Packed) -> F64:
    """An array of float64, writable. Raises: ValueError when it is none."""
    return np.frombuffer(_bytes(packed, "<f8"), dtype="<f8").astype(np.float64).reshape(packed.shape)


def integers(packed: Packed) -> I64:
    """An array of int64, writable. Raises: ValueError when it is none."""
    return np.frombuffer(_bytes(packed, "<i8"), dtype="<i8").astype(np.int64).reshape(packed.shape)


def _bytes(packed: Packed, dtype: str) -> bytes:
    data = base64.b64decode(packed.data, validate=True)
    if packed.dtype != dtype or min(packed.shape, default=0) < 0 or math.prod(packed.shape) * 8 != len(data):
        raise ValueError(f"{len(data)} bytes are no array of {packed.dtype!r} and shape {packed.shape}")
    return data
