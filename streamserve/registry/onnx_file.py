"""What an ONNX file says, read without a runtime: its signature, the files it wants to pull in, its operators.

ONNX weights may lie in other files that the model names ("external data"). A model from elsewhere could
name any file of this machine, so every such name is found here before a runtime sees the file. The reader
walks the protobuf wire format of `onnx.proto3` and nothing else: it skips weights by their length, nests at
most 100 deep, looks at no more than 5,000,000 fields, and refuses what it does not understand. The names
are collected wherever a tensor may stand (initialisers, attributes, sub-graphs, functions, training
graphs), whether or not a runtime would use them.

Operators come from a library of native code unless ONNX Runtime has them or the model defines them itself
(a function), so those that neither has are found here too.

Source: https://protobuf.dev/programming-guides/encoding/ and onnx/onnx.proto3.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from streamserve.errors import ModelCorrupt
from streamserve.ports import Signature, TensorSpec

MAX_DEPTH: Final = 100
MAX_FIELDS: Final = 5_000_000

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
Span = tuple[int, int]
"""Start and end of a message inside the file."""

# Message -> field number -> message below that may hold tensors.
TREE: Final[dict[str, dict[int, str]]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
MODEL_GRAPH, GRAPH_INITIALIZER, GRAPH_INPUT, GRAPH_OUTPUT = 7, 5, 11, 12
TENSOR_NAME, TENSOR_EXTERNAL_DATA = 8, 13
NODE_OPERATOR, NODE_DOMAIN, FUNCTION_NAME, FUNCTION_DOMAIN = 4, 7, 1, 10
NAMES: Final = {"node": (NODE_OPERATOR, NODE_DOMAIN), "function": (FUNCTION_NAME, FUNCTION_DOMAIN)}
"""Message -> its text fields that name an operator."""
VALUE_NAME, VALUE_TYPE, TYPE_TENSOR, TENSOR_ELEMENT, TENSOR_SHAPE = 1, 2, 1, 1, 2
ENTRY_KEY, ENTRY_VALUE = 1, 2

DTYPES: Final = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    8: "str",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
}
"""`TensorProto.DataType` -> dtype of a `TensorSpec`."""


DOMAINS: Final = frozenset(
    {
        "",
        "ai.onnx",
        "ai.onnx.ml",
        "ai.onnx.preview",
        "ai.onnx.preview.training",
        "ai.onnx.training",
        "com.microsoft",
        "com.microsoft.experimental",
        "com.microsoft.nchwc",
        "com.ms.internal.nhwc",
        "org.pytorch.aten",
    }
)
"""Operator domains that ONNX Runtime itself registers (`get_all_operator_schema`, and the names in its library)."""
Operator = tuple[str, str]
"""Domain and name."""


@dataclass(frozen=True, slots=True)
class ModelContent:
    """What was found in a file.

    Attributes:
        signature: inputs (without those that have an initialiser) and outputs; a value that is no tensor of a
            dtype we serve has the dtype `?`.
        external: names of files with external data, as the model writes them.
        operators: domain and name of every operator in use, those that the model defines itself left out.
    """

    signature: Signature
    external: frozenset[str]
    operators: frozenset[Operator]

    @property
    def custom(self) -> frozenset[Operator]:
        """Operators that only a library of custom operators has."""
        return frozenset(operator for operator in self.operators if operator[0] not in DOMAINS)


def read_onnx(path: Path) -> ModelContent:
    """Read an ONNX file.

    Raises:
        ModelCorrupt: empty, truncated, or no ONNX model.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            raise ModelCorrupt(f"{path} is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            reader = _Reader(data, str(path))
            reader.walk("model", (0, len(data)), 0)
            if reader.graph is None:
                raise ModelCorrupt(f"{path} is not an ONNX model: it has no graph")
            return ModelContent(
                reader.signature(reader.graph),
                external=frozenset(reader.external),
                operators=frozenset(reader.used - reader.defined),
            )


@dataclass(slots=True)
class _Reader:
    """One pass over a file."""

    data: mmap.mmap
    path: str
    external: set[str] = field(default_factory=set)
    used: set[Operator] = field(default_factory=set)
    defined: set[Operator] = field(default_factory=set)
    graph: Span | None = None
    fields: int = 0

    def walk(self, kind: str, span: Span, depth: int) -> None:
        """Visit a message and every message below it that may hold tensors."""
        if depth > MAX_DEPTH:
            raise self.corrupt(f"messages nest more than {MAX_DEPTH} deep")
        below = TREE[kind]
        names: dict[int, str] = {}
        for number, wire, start, stop in self.each(span):
            if wire != BYTES:
                continue
            if kind == "tensor" and number == TENSOR_EXTERNAL_DATA:
                self.external_entry((start, stop))
            elif number in below:
                if kind == "model" and number == MODEL_GRAPH:
                    if self.graph is not None:
                        raise self.corrupt("it has two graphs")
                    self.graph = (start, stop)
                self.walk(below[number], (start, stop), depth + 1)
            elif number in NAMES.get(kind, ()):
                names[number] = self.text(start, stop)
        if kind == "node":
            self.used.add((names.get(NODE_DOMAIN, ""), names.get(NODE_OPERATOR, "")))
        elif kind == "function":
            self.defined.add((names.get(FUNCTION_DOMAIN, ""), names.get(FUNCTION_NAME, "")))

    def external_entry(self, span: Span) -> None:
        """Note the value of a `location` entry; an entry that repeats its fields counts with all of them."""
        keys: list[str] = []
        values: list[str] = []
        for number, wire, start, stop in self.each(span):
            if wire == BYTES and number in (ENTRY_KEY, ENTRY_VALUE):
                (keys if number == ENTRY_KEY else values).append(self.text(start, stop))
        if "location" in keys:
            self.external.update(values or [""])

    def signature(self, graph: Span) -> Signature:
        """Inputs and outputs of the graph."""
        inputs: list[TensorSpec] = []
        outputs: list[TensorSpec] = []
        constants: set[str] = set()
        for number, wire, start, stop in self.each(graph):
            if wire != BYTES:
                continue
            if number == GRAPH_INPUT:
                inputs.append(self.value((start, stop)))
            elif number == GRAPH_OUTPUT:
                outputs.append(self.value((start, stop)))
            elif number == GRAPH_INITIALIZER:
                constants.update(
                    self.text(a, b) for n, w, a, b in self.each((start, stop)) if (n, w) == (TENSOR_NAME, BYTES)
                )
        return Signature(inputs=tuple(spec for spec in inputs if spec.name not in constants), outputs=tuple(outputs))

    def value(self, span: Span) -> TensorSpec:
        """A `ValueInfoProto`."""
        name, dtype = "", "?"
        shape: tuple[int, ...] = ()
        for number, wire, start, stop in self.each(span):
            if (number, wire) == (VALUE_NAME, BYTES):
                name = self.text(start, stop)
            elif (number, wire) == (VALUE_TYPE, BYTES):
                for kind, _, a, b in self.each((start, stop)):
                    if kind == TYPE_TENSOR:
                        dtype, shape = self.tensor_type((a, b))
        return TensorSpec(name=name, dtype=dtype, shape=shape)

    def tensor_type(self, span: Span) -> tuple[str, tuple[int, ...]]:
        dtype = "?"
        shape: tuple[int, ...] = ()
        for number, wire, start, stop in self.each(span):
            if (number, wire) == (TENSOR_ELEMENT, VARINT):
                dtype = DTYPES.get(start, "?")
            elif (number, wire) == (TENSOR_SHAPE, BYTES):
                shape = tuple(self.axis((a, b)) for n, w, a, b in self.each((start, stop)) if (n, w) == (1, BYTES))
        return dtype, shape

    def axis(self, span: Span) -> int:
        sizes = [start for number, wire, start, _ in self.each(span) if (number, wire) == (1, VARINT)]
        return sizes[-1] if sizes and sizes[-1] < 1 << 63 else -1

    def each(self, span: Span) -> Iterator[tuple[int, int, int, int]]:
        """The fields of a message: number, wire type, start and end of its bytes (of a varint: value, 0)."""
        at, end = span
        while at < end:
            self.fields += 1
            if self.fields > MAX_FIELDS:
                raise self.corrupt(f"it has more than {MAX_FIELDS:,} fields")
            tag, at = self.varint(at, end)
            number, wire = tag >> 3, tag & 7
            # Parsers in C++ keep 32 bits of a tag: a longer one could be a field in disguise.
            if number == 0 or tag >= 1 << 32:
                raise self.corrupt("it is no protobuf")
            if wire == VARINT:
                value, at = self.varint(at, end)
                yield number, wire, value, 0
                continue
            if wire == BYTES:
                size, at = self.varint(at, end)
            elif wire in (FIXED32, FIXED64):
                size = 4 if wire == FIXED32 else 8
            else:
                raise self.corrupt("it is no protobuf")
            if size > end - at:
                raise self.corrupt("it is truncated or no ONNX model")
            yield number, wire, at, at + size
            at += size

    def varint(self, at: int, end: int) -> tuple[int, int]:
        value = shift = 0
        while at < end and shift < 70:
            byte = self.data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & 0xFFFF_FFFF_FFFF_FFFF, at
            shift += 7
        raise self.corrupt("it is truncated or no ONNX model")

    def text(self, start: int, stop: int) -> str:
        if stop - start > 4096:
            raise self.corrupt("a name in it is longer than 4096 bytes")
        try:
            return self.data[start:stop].decode()
        except UnicodeDecodeError as error:
            raise self.corrupt("a name in it is not UTF-8") from error

    def corrupt(self, why: str) -> ModelCorrupt:
        return ModelCorrupt(f"{self.path} cannot be loaded: {why}")
