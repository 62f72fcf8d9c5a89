"""What a file in the ORT format says, read without a runtime: its signature and its operators.

The ORT format is a FlatBuffer: tables that refer to each other by offsets. The reader follows only those
that lead to the graphs, holds every offset against the file's length, nests at most 100 deep and visits no
more than 5,000,000 values. Weights always lie in the file; one that says otherwise is refused by the runtime.

Source: https://flatbuffers.dev/internals/ and onnxruntime/core/flatbuffers/schema/ort.fbs, whose fields are
numbered here in the order of their tables.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from streamserve.errors import ModelCorrupt
from streamserve.ports import Signature, TensorSpec
from streamserve.registry.onnx_file import DTYPES, MAX_DEPTH, MAX_FIELDS, ModelContent, Operator

SESSION_MODEL: Final = 1
MODEL_GRAPH: Final = 7
GRAPH_INITIALIZERS, GRAPH_VALUES, GRAPH_NODES, GRAPH_INPUTS, GRAPH_OUTPUTS = 0, 1, 2, 5, 6
NODE_DOMAIN, NODE_OPERATOR, NODE_ATTRIBUTES = 2, 5, 10
ATTRIBUTE_GRAPH, ATTRIBUTE_GRAPHS = 7, 12
TENSOR_NAME, VALUE_NAME, VALUE_TYPE = 0, 0, 2
TYPE_KIND, TYPE_VALUE, KIND_TENSOR = 1, 2, 1
TENSOR_ELEMENT, TENSOR_SHAPE, SHAPE_AXES, AXIS_VALUE, AXIS_KIND, AXIS_SIZE, KIND_SIZE = 0, 1, 0, 0, 0, 1, 1


def read_ort(path: Path) -> ModelContent:
    """Read a file in the ORT format.

    Raises:
        ModelCorrupt: empty, truncated, or no such file.
        OSError: it cannot be read.
    """
    if path.stat().st_size == 0:
        raise ModelCorrupt(f"{path} is empty")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        reader = _Reader(data)
        try:
            session = reader.follow(0)
            model = reader.table(session, SESSION_MODEL)
            graph = None if model is None else reader.table(model, MODEL_GRAPH)
            if graph is None:
                raise ModelCorrupt(f"{path} is not an ORT model: it has no graph")
            reader.walk(graph, 0)
            return ModelContent(reader.signature(graph), external=frozenset(), operators=frozenset(reader.used))
        except (struct.error, UnicodeDecodeError, _Broken) as error:
            raise ModelCorrupt(f"{path} cannot be loaded: it is truncated or no ORT model") from error


class _Broken(Exception):
    """An offset leads out of the file, or the walk does not end."""


@dataclass(slots=True)
class _Reader:
    """One pass over a file. A table, a vector and a text are known by their position."""

    data: mmap.mmap
    used: set[Operator] = field(default_factory=set)
    visited: int = 0

    def walk(self, graph: int, depth: int) -> None:
        """Note the operators of a graph and of the graphs inside its nodes."""
        if depth > MAX_DEPTH:
            raise _Broken
        for node in self.tables(graph, GRAPH_NODES):
            self.used.add((self.text(node, NODE_DOMAIN), self.text(node, NODE_OPERATOR)))
            for attribute in self.tables(node, NODE_ATTRIBUTES):
                inner = self.table(attribute, ATTRIBUTE_GRAPH)
                for below in (*(() if inner is None else (inner,)), *self.tables(attribute, ATTRIBUTE_GRAPHS)):
                    self.walk(below, depth + 1)

    def signature(self, graph: int) -> Signature:
        """Inputs (without those that have an initialiser) and outputs of a graph."""
        constants = {self.text(tensor, TENSOR_NAME) for tensor in self.tables(graph, GRAPH_INITIALIZERS)}
        values = {self.text(value, VALUE_NAME): value for value in self.tables(graph, GRAPH_VALUES)}

        def side(number: int) -> tuple[TensorSpec, ...]:
            names = [self.text_at(at) for at in self.vector(graph, number)]
            return tuple(self.value(name, values.get(name)) for name in names if name not in constants)

        return Signature(inputs=side(GRAPH_INPUTS), outputs=side(GRAPH_OUTPUTS))

    def value(self, name: str, value: int | None) -> TensorSpec:
        """A `ValueInfo`; the dtype is `?` for what is no tensor of a dtype we serve."""
        kind = None if value is None else self.table(value, VALUE_TYPE)
        if kind is None or self.number(kind, TYPE_KIND, "<B") != KIND_TENSOR:
            return TensorSpec(name=name, dtype="?", shape=())
        tensor = self.table(kind, TYPE_VALUE)
        if tensor is None:
            return TensorSpec(name=name, dtype="?", shape=())
        shape = self.table(tensor, TENSOR_SHAPE)
        axes = () if shape is None else tuple(self.axis(axis) for axis in self.tables(shape, SHAPE_AXES))
        dtype = DTYPES.get(self.number(tensor, TENSOR_ELEMENT, "<i"), "?")
        return TensorSpec(name=name, dtype=dtype, shape=axes)

    def axis(self, axis: int) -> int:
        value = self.table(axis, AXIS_VALUE)
        if value is None or self.number(value, AXIS_KIND, "<b") != KIND_SIZE:
            return -1
        return max(self.number(value, AXIS_SIZE, "<q"), -1)

    def tables(self, table: int, number: int) -> Iterator[int]:
        """The tables of a vector field."""
        return (self.follow(at) for at in self.vector(table, number))

    def vector(self, table: int, number: int) -> range:
        """The positions of a vector field's offsets, 4 bytes each."""
        at = self.field(table, number)
        if at is None:
            return range(0)
        start = self.follow(at)
        count: int = self.read("<I", start)
        if count > (len(self.data) - start) // 4:
            raise _Broken
        return range(start + 4, start + 4 + 4 * count, 4)

    def table(self, table: int, number: int) -> int | None:
        at = self.field(table, number)
        return None if at is None else self.follow(at)

    def text(self, table: int, number: int) -> str:
        at = self.field(table, number)
        return "" if at is None else self.text_at(at)

    def text_at(self, at: int) -> str:
        """The text that the offset at `at` refers to."""
        start = self.follow(at)
        size: int = self.read("<I", start)
        if size > min(4096, len(self.data) - start - 4):
            raise _Broken
        return self.data[start + 4 : start + 4 + size].decode()

    def number(self, table: int, number: int, kind: str) -> int:
        at = self.field(table, number)
        return 0 if at is None else self.read(kind, at)

    def field(self, table: int, number: int) -> int | None:
        """Where a field of a table lies; None when the table leaves it out."""
        places = table - self.read("<i", table)
        slot = 4 + 2 * number
        if slot + 2 > self.read("<H", places):
            return None
        offset = self.read("<H", places + slot)
        return table + offset if offset else None

    def follow(self, at: int) -> int:
        """Where the offset at `at` leads: forward, by its own position."""
        return at + self.read("<I", at)

    def read(self, kind: str, at: int) -> int:
        self.visited += 1
        if at < 0 or self.visited > 10 * MAX_FIELDS:
            raise _Broken
        value: int = struct.unpack_from(kind, self.data, at)[0]
        return value
