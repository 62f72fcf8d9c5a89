"""Raw tensors: a value is the packed little-endian numbers of one event, in the order of the features.

A vector is `size` numbers of its dtype; flat features follow each other without padding, each in its own
dtype (a bool is one byte, 0 or 1). A whole batch is one join and one view of it. Optional record headers say
what the producer meant, and are checked when they are there: `streamserve.tensor.dtype` (`<f4` or `float32`;
flat features of several dtypes separated by commas) and `streamserve.tensor.shape` (`784` or `1,784`). A raw
value has no names and no missing values: id, key and time are the record's own.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import numpy.typing as npt

from streamserve.batch import Column, EventBatch, Headers, RecordBatch, Reject, Tensor
from streamserve.codecs.columns import Trouble, event_batch
from streamserve.codecs.layout import EventLayout
from streamserve.codecs.typed import unreadable
from streamserve.errors import ConfigError, Problem

DTYPE_HEADER = "streamserve.tensor.dtype"
SHAPE_HEADER = "streamserve.tensor.shape"
_PACKED = {"float32": "<f4", "float64": "<f8", "int32": "<i4", "int64": "<i8", "bool": "|u1"}
_NAMES = {"<f4": "float32", "<f8": "float64", "<i4": "int32", "<i8": "int64", "|b1": "bool", "?": "bool"}
_NAMES |= {"f4": "float32", "f8": "float64", "i4": "int32", "i8": "int64"}
_HEADER_BYTES = 4096


class RawDecoder:
    """A `Decoder` of packed numbers.

    Args:
        layout: the fields; a string feature, or an id, key or time taken from a field, cannot be raw.
        max_record_bytes: larger values are rejected as `too_large`.

    Raises:
        ConfigError: the layout cannot be raw.
    """

    def __init__(self, layout: EventLayout, *, max_record_bytes: int) -> None:
        self._layout = layout
        self._max_record_bytes = max_record_bytes
        _check(layout, max_record_bytes)
        self._dtypes = _dtypes(layout)
        self._record: npt.DTypeLike
        if layout.vector is not None:
            self._record = np.dtype((_PACKED[layout.vector.dtype], (layout.vector.size,)))
        else:
            self._record = np.dtype([(feature.name, _PACKED[feature.dtype]) for feature in layout.features])
        self._size_bytes = np.dtype(self._record).itemsize

    def decode(self, records: RecordBatch) -> tuple[EventBatch, list[Reject]]:
        values = cast("list[bytes]", records.value)
        try:
            usual = set(map(len, values)) <= {self._size_bytes} and not records.headers()
        except TypeError:  # a null value
            usual = False
        if usual:
            fields, doubtful = self._fields(b"".join(values), len(values))
            if not doubtful:
                return event_batch(records, list(range(len(values))), fields), []
        return self._one_by_one(records)

    def _one_by_one(self, records: RecordBatch) -> tuple[EventBatch, list[Reject]]:
        kept: list[int] = []
        rejects: list[Reject] = []
        headers = records.headers() or [None] * len(records)
        for i, (value, header) in enumerate(zip(records.value, headers, strict=True)):
            trouble = self._trouble(value, header)
            if trouble is None:
                kept.append(i)
            else:
                rejects.append(trouble.at(i))
        fields, _ = self._fields(b"".join(cast("bytes", records.value[i]) for i in kept), len(kept))
        return event_batch(records, kept, fields), rejects

    def _fields(self, joined: bytes, count: int) -> tuple[dict[str, Column], bool]:
        """The columns of `count` packed records, and whether a row of them needs a closer look."""
        if self._layout.vector is not None:
            spec = self._layout.vector
            block = np.frombuffer(joined, _PACKED[spec.dtype]).reshape(count, spec.size)
            return {spec.field: block.astype(spec.dtype, copy=False)}, False
        packed = np.frombuffer(joined, self._record, count)
        fields: dict[str, Column] = {}
        doubtful = False
        for feature in self._layout.features:
            wide = "float64" if feature.dtype in {"float32", "float64"} else "int64"
            with np.errstate(invalid="ignore"):
                column: Tensor = packed[feature.name].astype(wide)
            if wide == "float64":
                doubtful |= bool(np.isnan(column).any())
            elif feature.dtype == "bool":
                doubtful |= bool((column > 1).any())  # type: ignore[operator]  # int64, as `wide` says
            fields[feature.name] = column
        return fields, doubtful

    def _trouble(self, value: bytes | None, headers: Headers | None) -> Trouble | None:
        trouble = unreadable(value, self._max_record_bytes)
        if trouble is not None:
            return trouble
        value = cast("bytes", value)
        for name, content in headers or ():
            if name == DTYPE_HEADER:
                trouble = self._dtype_trouble(content)
            elif name == SHAPE_HEADER:
                trouble = self._shape_trouble(content)
            if trouble is not None:
                return trouble
        if len(value) != self._size_bytes:
            detail = f"the value has {len(value)} bytes, {self._size_bytes} expected"
            if value.startswith(b"\x93NUMPY"):
                detail = f"the value is a .npy file; send the array's {self._size_bytes} bytes alone"
            return Trouble("schema", detail)
        return None if self._layout.vector is not None else self._number_trouble(value)

    def _number_trouble(self, value: bytes) -> Trouble | None:
        """What is wrong with the numbers of flat features: a NaN would pass for a missing value."""
        numbers = np.frombuffer(value, self._record)[0]
        for feature in self._layout.features:
            number = numbers[feature.name]
            if feature.dtype in {"float32", "float64"} and np.isnan(number):
                return Trouble("non_finite", f"{feature.name} = nan is not finite", feature.name)
            if feature.dtype == "bool" and number > 1:
                return Trouble("schema", f"{feature.name} = {number} is no bool (0 or 1)", feature.name)
        return None

    def _dtype_trouble(self, content: bytes | None) -> Trouble | None:
        text = _text(content)
        found = [_NAMES.get(part, part) for part in text.split(",")]
        if found == self._dtypes or (len(found) == 1 and set(self._dtypes) == set(found)):
            return None
        expected = ",".join(self._dtypes) if len(set(self._dtypes)) > 1 else self._dtypes[0]
        hint = " (big-endian; send little-endian)" if text.startswith((">", "!")) else ""
        return Trouble("schema", f"the tensor's dtype is {text!r}{hint}, {expected} expected")

    def _shape_trouble(self, content: bytes | None) -> Trouble | None:
        text = _text(content)
        size = str(len(self._dtypes))
        shape = [part.strip() for part in text.strip("()[] ").split(",") if part.strip()]
        if shape in ([size], ["1", size]):
            return None
        return Trouble("schema", f"the tensor's shape is {text!r}, {size} or 1,{size} expected")


def _text(content: bytes | None) -> str:
    """A header's value as text, whatever it holds, not too long to be told."""
    return (content or b"")[:_HEADER_BYTES].decode("utf-8", "replace").strip()[:100]


def _dtypes(layout: EventLayout) -> list[str]:
    """The dtype of each number of a record, in order."""
    if layout.vector is not None:
        return [layout.vector.dtype] * layout.vector.size
    return [feature.dtype for feature in layout.features]


def _check(layout: EventLayout, max_record_bytes: int) -> None:
    problems = [
        Problem(
            path=f"features.{feature.name}",
            message="a string feature cannot be sent in the raw format",
            hint="give its position among the categories as int32, or use input.format json or msgpack",
        )
        for feature in layout.features
        if feature.dtype == "string"
    ]
    problems += [
        Problem(
            path=f"features.{feature.name}",
            message="a sequence cannot be sent in the raw format, whose records are all of one size",
            hint="use input.format json or msgpack",
        )
        for feature in layout.features
        if feature.sequence is not None
    ]
    roles = (("id", layout.id), ("key", layout.key), ("event_time", layout.event_time))
    problems += [
        Problem(
            path=f"input.{role}",
            message="a raw value has no fields but its features",
            hint="leave it out: the record's own is used, or use input.format json or msgpack",
        )
        for role, at in roles
        if at is not None
    ]
    size_bytes = sum(np.dtype(_PACKED.get(dtype, "|u1")).itemsize for dtype in _dtypes(layout))
    if size_bytes > max_record_bytes:
        message = f"is {max_record_bytes}, but a raw value has {size_bytes} bytes"
        problems.append(Problem(path="input.max_record_bytes", message=message, hint="raise it"))
    if problems:
        raise ConfigError(problems)
