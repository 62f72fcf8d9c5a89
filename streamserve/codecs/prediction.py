"""Predictions to JSON records, column by column: an output becomes a column of JSON texts, a row is one join.

A number column is written by one call of orjson and split at its commas, so float32 comes out in its shortest
form and no row passes through a Python object. Which outputs are written, under which names, and which of
them are a single value (all axes after the batch are 1) is settled at construction. Keys, partition numbers
and the tracing headers are those of the input record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from typing import NamedTuple, cast

import numpy as np
import orjson

from streamserve.batch import (
    ENTITY_HEADER,
    EventBatch,
    Headers,
    ModelIdentity,
    OutboundBatch,
    Positions,
    PredictionBatch,
    RecordBatch,
    Reject,
    Tensor,
    TopicPartition,
)
from streamserve.config.settings import OutputSettings
from streamserve.errors import ContractError
from streamserve.pipeline.finite import not_finite
from streamserve.ports import TensorSpec

_Piece = bytes | list[bytes]
"""Of the text of every row: the same for all, or a column."""
CARRIED_HEADERS = frozenset({"traceparent", "tracestate", "baggage", "correlationid"})
CARRIED_HEADER_BYTES = 8192
"""A longer value is left out; 8192 bytes is the largest `baggage` that W3C asks anybody to carry."""


class JsonPredictionEncoder:
    """An `Encoder` that writes the JSON of contracts.md §3.

    Args:
        output: topic, names and thresholds.
        outputs: the outputs of the model's signature.
        entity_header: write the entity key into a header, because it is not the record's key (`input.key` is set) and
            the cache must be able to find it again when it is rebuilt from the topic.
        partition_count: partitions of an input topic, to be told in `source`, because the cache orders predictions by
            it and the count of later days may be another; None leaves it out.

    Raises:
        ContractError: an output or threshold names what the model does not give, or a name is taken twice.
    """

    def __init__(
        self,
        output: OutputSettings,
        outputs: Sequence[TensorSpec],
        *,
        entity_header: bool = False,
        partition_count: Callable[[str], int] | None = None,
    ) -> None:
        self._topic = output.topic
        self._columns = _plan(output, outputs)
        self._partition_count = partition_count
        self._headers = _carried_and_entity if entity_header else _carried

    def encode(self, predictions: PredictionBatch) -> tuple[OutboundBatch, list[Reject]]:
        rejects = self._not_finite(predictions)
        if rejects:
            predictions = _without(predictions, rejects)
        try:
            return self._encode(predictions), rejects
        except TypeError:  # some text cannot be written as UTF-8
            rejects += self._not_text(predictions)
            predictions = _without(predictions, rejects)
            return self._encode(predictions), sorted(rejects, key=lambda reject: reject.row)

    @staticmethod
    def documents(outbound: OutboundBatch) -> list[bytes]:
        """The JSON documents of what `encode` made, for the cache: the very bytes that are produced."""
        return cast("list[bytes]", outbound.value)

    def _encode(self, predictions: PredictionBatch) -> OutboundBatch:
        events = predictions.events
        source = _Source.of(events.origin, events.row)
        pieces: list[_Piece] = [b'{"id":', _texts(events.id), _model_text(predictions.model), b',"outputs":{']
        for column in self._columns:
            pieces += [column.label, _column_text(column.of(predictions))]
        pieces += [b'},"event_time":', _numbers(events.event_time_ms)]
        pieces += [b',"source":{', source.place_texts(), _numbers(source.offset)]
        pieces += [b"}}" if self._partition_count is None else source.count_texts(self._partition_count)]
        return OutboundBatch(
            topic=self._topic,
            row=events.row,
            partition=source.partition,
            key=source.key,
            value=_joined(pieces),
            headers=self._headers(events),
        )

    def _not_finite(self, predictions: PredictionBatch) -> list[Reject]:
        written = [(column.output, column.raw(predictions)) for column in self._columns]
        return not_finite(written, predictions.events.row)

    def _not_text(self, predictions: PredictionBatch) -> list[Reject]:
        """A reject for every row with a text that UTF-8 cannot hold (a lone surrogate)."""
        columns: list[tuple[str, Sequence[object]]] = [("id", predictions.events.id)]
        for column in self._columns:
            values = column.of(predictions)
            if values.dtype.kind in "OUS":
                columns.append((column.output, values.tolist()))
        rejects = []
        for i, row in enumerate(predictions.events.row):
            for name, texts in columns:
                try:
                    orjson.dumps(texts[i])
                except TypeError as error:
                    detail = f"{name} cannot be written as JSON: {error}"
                    rejects.append(Reject(row=row, stage="encode", reason="encode", detail=detail))
                    break
        return rejects


class _OutputColumn(NamedTuple):
    """One member of `outputs`: its label in the JSON, where it comes from, and the threshold if it is one."""

    label: bytes
    output: str
    single: bool
    at: float | None

    def raw(self, predictions: PredictionBatch) -> Tensor:
        return predictions.outputs[self.output]

    def of(self, predictions: PredictionBatch) -> Tensor:
        values = self.raw(predictions)
        if self.single:
            values = values.reshape(len(predictions))
        if self.at is None:
            return values
        return np.greater_equal(cast("np.ndarray[tuple[int, ...], np.dtype[np.float64]]", values), self.at)


class _Source(NamedTuple):
    """Where the rows came from: columns of the origin, of the rows that are left, and all places of the origin."""

    places: Positions
    topic: list[str]
    partition: list[int]
    offset: list[int]
    key: list[bytes | None]

    @staticmethod
    def of(origin: RecordBatch, row: Sequence[int]) -> _Source:
        if len(row) == len(origin):
            return _Source(origin.next_positions(), origin.topic, origin.partition, origin.offset, origin.key)
        return _Source(
            origin.next_positions(),
            [origin.topic[i] for i in row],
            [origin.partition[i] for i in row],
            [origin.offset[i] for i in row],
            [origin.key[i] for i in row],
        )

    def place_texts(self) -> _Piece:
        """Topic, partition and the name of the offset, of each row."""
        texts = {
            place: b'"topic":%b,"partition":%d,"offset":' % (orjson.dumps(place.topic), place.partition)
            for place in self.places
        }
        if len(texts) == 1:
            return next(iter(texts.values()))
        if len({place.topic for place in texts}) == 1:
            by_number = {place.partition: text for place, text in texts.items()}
            return list(map(by_number.__getitem__, self.partition))
        return [texts[TopicPartition(*place)] for place in zip(self.topic, self.partition, strict=True)]

    def count_texts(self, partition_count: Callable[[str], int]) -> _Piece:
        """The partition count of each row's topic, and the end of the record."""
        topics = {place.topic for place in self.places}
        texts = {topic: b',"partitions":%d}}' % partition_count(topic) for topic in topics}
        return next(iter(texts.values())) if len(texts) == 1 else [texts[topic] for topic in self.topic]


def _plan(output: OutputSettings, outputs: Sequence[TensorSpec]) -> list[_OutputColumn]:
    specs = {spec.name: spec for spec in outputs}
    names = {name: name for name in specs} if output.outputs is None else output.outputs
    problems = [
        f"output.outputs.{name} names the model output {source}, but the model gives {', '.join(specs)}"
        for name, source in names.items()
        if source not in specs
    ]
    members = [(name, source, None) for name, source in names.items() if source in specs]
    decisions = []
    for name, threshold in output.threshold.items():
        source = names.get(name, "")
        at, label = (threshold, None) if isinstance(threshold, int | float) else (threshold.at, threshold.name)
        if name not in names:
            known = ", ".join(names)
            problems.append(f"output.threshold.{name} is no output of the prediction; these are {known}")
        elif source in specs and (not _is_single(specs[source]) or specs[source].dtype in {"str", "bool"}):
            problems.append(f"output.threshold.{name} needs a single number, which {source} is not")
        decisions.append((label or f"{name}_decision", source, at))
    labels = [name for name, _, _ in (*members, *decisions)]
    problems += [f"two outputs are named {name}" for name in sorted(set(labels)) if labels.count(name) > 1]
    if problems:
        raise ContractError("The output settings do not fit the model: " + "; ".join(problems) + ".")
    return [
        _OutputColumn((b"," if i else b"") + orjson.dumps(name) + b":", source, _is_single(specs[source]), at)
        for i, (name, source, at) in enumerate([*members, *decisions])
    ]


def _is_single(spec: TensorSpec) -> bool:
    return all(axis == 1 for axis in spec.shape[1:])


def _joined(pieces: Iterable[_Piece]) -> list[bytes | None]:
    """Rows of pieces; neighbours that all rows have in common are put together once. One piece is a column at least."""
    columns: list[Iterable[bytes]] = []
    common = b""
    for piece in pieces:
        if isinstance(piece, bytes):
            common += piece
            continue
        columns += [repeat(common), piece]
        common = b""
    columns.append(repeat(common))
    return list(map(b"".join, zip(*columns, strict=False)))  # what is repeated has no end: a column ends the rows


def _column_text(values: Tensor) -> list[bytes]:
    """Array[m, ...] to m JSON texts."""
    if values.dtype.kind in "OUS":
        rows = values.tolist()
        return _texts(rows) if values.ndim == 1 else [orjson.dumps(row) for row in rows]
    if values.size == 0:
        return [orjson.dumps(row) for row in values.tolist()]
    depth = values.ndim
    text = orjson.dumps(np.ascontiguousarray(values), option=orjson.OPT_SERIALIZE_NUMPY)
    inner = text[depth:-depth]
    if depth == 1:
        return inner.split(b",")
    close, start = b"]" * (depth - 1), b"[" * (depth - 1)
    return [start + row + close for row in inner.split(close + b"," + start)]


def _numbers(values: Sequence[int]) -> list[bytes]:
    return orjson.dumps(values)[1:-1].split(b",") if values else []


def _texts(values: Sequence[str]) -> list[bytes]:
    """Texts to JSON strings, indented: no JSON string holds a raw line break to split at by mistake."""
    return orjson.dumps(values, option=orjson.OPT_INDENT_2)[4:-2].split(b",\n  ") if values else []


def _model_text(model: ModelIdentity) -> bytes:
    text = b',"model":' + orjson.dumps(model.name) + b',"version":' + orjson.dumps(model.version)
    if model.told or model.role != "stable":
        text += b',"role":' + orjson.dumps(model.role)
    if model.experiment:
        text += b',"experiment":' + orjson.dumps(model.experiment) + b',"arm":' + orjson.dumps(model.arm)
    if model.fallback:
        text += b',"fallback":true'
    return text


def _carried(events: EventBatch) -> list[Headers | None]:
    """The tracing headers of the rows, the last of each name; empty when no row has any."""
    headers = events.origin.headers()
    if not headers:
        return []
    carried: list[Headers | None] = []
    for i in events.row:
        kept = {
            name: value
            for name, value in headers[i] or ()
            if name in CARRIED_HEADERS and value is not None and len(value) <= CARRIED_HEADER_BYTES
        }
        carried.append(list(kept.items()) or None)
    return carried if any(carried) else []


def _carried_and_entity(events: EventBatch) -> list[Headers | None]:
    """The tracing headers, and the entity key where there is one."""
    carried = _carried(events) or [None] * len(events)
    return [
        headers if entity is None else [*(headers or ()), (ENTITY_HEADER, entity)]
        for headers, entity in zip(carried, events.entity, strict=True)
    ]


def _without(predictions: PredictionBatch, rejects: Sequence[Reject]) -> PredictionBatch:
    bad = {reject.row for reject in rejects}
    return predictions.take([i for i, row in enumerate(predictions.events.row) if row not in bad])
