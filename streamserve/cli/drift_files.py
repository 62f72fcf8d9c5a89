"""Rows of a file as events of a pipeline, some thousand at a time.

JSON lines are read by the pipeline's own decoder. Every other format holds columns, which are taken as the features
that the configuration names: an empty cell is a missing value. The file needs no ids or keys, and event times only if
the pipeline's field for them is there.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Final, cast

import numpy as np
import orjson

from streamserve.batch import F64, I64, Column, EventBatch, RecordBatch, Reject
from streamserve.cli.drift_scoring import UNTIMED, EventPart
from streamserve.codecs import build_decoder
from streamserve.config.settings import FeatureSettings, PipelineSettings, VectorSettings
from streamserve.drift.schema import element
from streamserve.drift.tables import NO_VALUE, CategoricalColumn, read_table
from streamserve.errors import ContractError

PART_ROWS: Final = 8192
SUFFIXES: Final = frozenset({".csv", ".npz", ".jsonl", ".ndjson", ".parquet", ".pq"})
_TRUTH: Final = {"true": 1.0, "false": 0.0, "1": 1.0, "0": 0.0, "1.0": 1.0, "0.0": 0.0}

RawColumn = F64 | I64 | list[str | None]
"""Numbers (NaN: missing) or texts (None: missing)."""


def file_parts(path: Path, settings: PipelineSettings, label: str | None) -> Iterator[EventPart]:
    """The rows of a file, in its order.

    Args:
        path: CSV, NPZ, JSON lines or parquet.
        settings: the pipeline.
        label: the column of what came true.

    Raises:
        ContractError: it cannot be read, or lacks a column; says which.
    """
    if path.suffix.lower() in {".jsonl", ".ndjson"}:
        yield from _json_lines(path, settings, label)
        return
    wanted = _Wanted(settings, label)
    parts = _csv_parts(path) if path.suffix.lower() == ".csv" else _table_parts(path)
    first = 0
    for columns in parts:
        n = len(next(iter(columns.values())))
        yield wanted.part(columns, n, first, str(path))
        first += n


# -- JSON lines -------------------------------------------------------------------------------------------------------


def _json_lines(path: Path, settings: PipelineSettings, label: str | None) -> Iterator[EventPart]:
    try:
        with path.open("rb") as file:
            lines = (line for line in file if line.strip())
            start = next(lines, None)
            if start is None:
                raise ContractError(f"{path}: holds no rows")
            names = set(_object(start))
            if label is not None and label not in names:
                raise ContractError(f"{path} has no field {label} in its first line, which --label names")
            time = settings.input.event_time
            read = settings.input.model_copy(
                update={"format": "json", "id": None, "key": None, "event_time": time if time in names else None}
            )
            decoder = build_decoder(settings.model_copy(update={"input": read}))
            every, first = chain([start], lines), 0
            while values := list(islice(every, PART_ROWS)):
                records = _records(str(path), first, values)
                events, rejects = decoder.decode(records)
                labels = [_object(value).get(label) for value in values] if label is not None else ()
                yield EventPart(events=events, rejects=rejects, labels=labels)
                first += len(values)
    except OSError as error:
        raise ContractError(f"{path}: cannot be read: {error.strerror or error}") from error


def _object(line: bytes) -> dict[str, object]:
    try:
        document = orjson.loads(line)
    except orjson.JSONDecodeError:
        return {}  # the decoder says what is wrong with it
    return document if isinstance(document, dict) else {}


def _records(source: str, first: int, values: Sequence[bytes | None]) -> RecordBatch:
    n = len(values)
    return RecordBatch(
        topic=[source] * n,
        partition=[0] * n,
        offset=list(range(first, first + n)),
        timestamp_ms=[UNTIMED] * n,
        key=[None] * n,
        value=list(values),
    )


# -- columns ----------------------------------------------------------------------------------------------------------


def _csv_parts(path: Path) -> Iterator[Mapping[str, RawColumn]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            if len(set(header)) < len(header):
                raise ContractError(f"{path}: the header names a column twice")
            rows = (_checked(row, len(header), f"{path}:{reader.line_num}") for row in reader if row)
            empty = True
            while part := list(islice(rows, PART_ROWS)):
                empty = False
                columns = zip(header, zip(*part, strict=True), strict=True)
                yield {name: [None if text in NO_VALUE else text for text in texts] for name, texts in columns}
            if empty:
                raise ContractError(f"{path}: holds no rows")
    except OSError as error:
        raise ContractError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ContractError(f"{path}: is not UTF-8 text") from error


def _checked(row: list[str], cells: int, where: str) -> list[str]:
    if len(row) != cells:
        raise ContractError(f"{where}: {len(row)} cells, the header has {cells}")
    return row


def _table_parts(path: Path) -> Iterator[Mapping[str, RawColumn]]:
    table = read_table(path)
    for start in range(0, table.rows, PART_ROWS):
        part = slice(start, start + PART_ROWS)
        columns: dict[str, RawColumn] = {}
        for name, column in table.columns.items():
            if isinstance(column, CategoricalColumn):
                texts = zip(column.values[part].tolist(), column.present[part].tolist(), strict=True)
                columns[name] = [text if present else None for text, present in texts]
            else:
                columns[name] = column.values[part]
        yield columns


class _Wanted:
    """What a pipeline needs of a table."""

    def __init__(self, settings: PipelineSettings, label: str | None) -> None:
        self._features = settings.features
        self._time = settings.input.event_time
        self._label = label

    def part(self, columns: Mapping[str, RawColumn], n: int, first: int, source: str) -> EventPart:
        """Events of `n` rows of a table. Raises: ContractError for a column that is not there."""
        self._check(columns, source)
        records = _records(source, first, [None] * n)
        wrong: dict[int, Reject] = {}
        fields = self._fields(columns, n, wrong)
        events = EventBatch(
            origin=records,
            row=list(range(n)),
            id=[""] * n,
            entity=[None] * n,
            event_time_ms=self._times(columns, n, wrong),
            fields=fields,
        )
        if wrong:
            events = events.take([row for row in range(n) if row not in wrong])
        labels = _plain(columns[self._label]) if self._label is not None else ()
        return EventPart(events=events, rejects=list(wrong.values()), labels=labels)

    def _check(self, columns: Mapping[str, RawColumn], source: str) -> None:
        features = self._features
        if not isinstance(features, VectorSettings):
            sequences = [feature.name for feature in features if feature.sequence is not None]
            if sequences:
                raise ContractError(
                    f"a table holds no sequences ({_few(sequences)}): give a topic, or events as JSON lines"
                )
        if isinstance(features, VectorSettings):
            needed = [element(features.field, i) for i in range(features.size)]
        else:
            needed = [feature.name for feature in features if feature.default is None]
        if self._label is not None:
            needed.append(self._label)
        lacking = [name for name in needed if name not in columns]
        if lacking:
            raise ContractError(
                f"{source} lacks {len(lacking)} of the columns needed: {_few(lacking)}; it has {_few(list(columns))}"
            )

    def _fields(self, columns: Mapping[str, RawColumn], n: int, wrong: dict[int, Reject]) -> dict[str, Column]:
        features = self._features
        if isinstance(features, VectorSettings):
            names = [element(features.field, i) for i in range(features.size)]
            block = np.column_stack([_numbers(columns[name], name, wrong) for name in names])
            with np.errstate(over="ignore"):
                return {features.field: block.astype(features.dtype)}
        return {feature.name: _field(feature, columns.get(feature.name), n, wrong) for feature in features}

    def _times(self, columns: Mapping[str, RawColumn], n: int, wrong: dict[int, Reject]) -> list[int]:
        if self._time is None or self._time not in columns:
            return [UNTIMED] * n
        times = _numbers(columns[self._time], self._time, wrong)
        for row in np.flatnonzero(~np.isfinite(times)).tolist():
            wrong.setdefault(row, _reject(row, f"{self._time} is missing: it is the event time"))
        found: list[int] = np.where(np.isfinite(times), times, 0).astype(np.int64).tolist()
        return found


def _field(feature: FeatureSettings, column: RawColumn | None, n: int, wrong: dict[int, Reject]) -> Column:
    """A column as the decoder would give it."""
    if feature.dtype == "string":
        if column is None:
            return [None] * n
        return column if isinstance(column, list) else [_number_text(value) for value in column.tolist()]
    if column is None:
        return np.full(n, np.nan)
    values = _numbers(column, feature.name, wrong, truth=feature.dtype == "bool")
    if feature.dtype in {"float32", "float64"}:
        return values
    finite = np.isfinite(values)
    whole = np.where(finite, values, 0.0)
    for row in np.flatnonzero((whole != np.floor(whole)) | np.isinf(values)).tolist():
        wrong.setdefault(row, _reject(row, f"{feature.name} is no whole number", feature.name))
    return whole.astype(np.int64) if finite.all() else values


def _numbers(column: RawColumn, name: str, wrong: dict[int, Reject], *, truth: bool = False) -> F64:
    """A column as float64 with NaN where a value is missing; rows with something else are noted as wrong."""
    if not isinstance(column, list):
        return column.astype(np.float64, copy=False)
    if not truth:
        try:
            return np.array([np.nan if text is None else float(text) for text in column])
        except ValueError:  # then one by one
            pass
    return np.array([_number(text, row, name, wrong, truth=truth) for row, text in enumerate(column)])


def _number(text: str | None, row: int, name: str, wrong: dict[int, Reject], *, truth: bool) -> float:
    if text is None:
        return np.nan
    if truth and text.lower() in _TRUTH:
        return _TRUTH[text.lower()]
    try:
        return float(text)
    except ValueError:
        wrong.setdefault(row, _reject(row, f"{name} = {text[:100]!r} is no number", name))
        return np.nan


def _reject(row: int, detail: str, feature: str = "") -> Reject:
    return Reject(row=row, stage="decode", reason="schema", detail=detail, feature=feature)


def _number_text(value: float) -> str | None:
    if value != value:  # noqa: PLR0124  NaN
        return None
    return str(int(value)) if float(value).is_integer() else repr(value)


def _plain(column: RawColumn) -> list[object]:
    """Labels as Python values, None where there is none."""
    if isinstance(column, list):
        return cast("list[object]", column)
    return [None if value != value else value for value in column.tolist()]  # noqa: PLR0124  NaN


def _few(names: list[str]) -> str:
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
