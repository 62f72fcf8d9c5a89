"""Tables of raw rows from files: what the offline drift commands read.

Owns the reading of CSV, NPZ, JSON lines and parquet into typed columns, and the rule which column is a number and
which is a category. It converts nothing for a statistic: bins, missing values and infinities are the business of
whoever computes. Refuses files it cannot read exactly: ragged rows, arrays of different lengths, unknown formats.

A column is numeric when all its present values are numbers, categorical when they are text or truth values.
Numbers keep their kind: whole numbers without a gap are int64, all else is float64 with NaN for a missing value,
as pandas has it; numpy's automatic bin widths differ between the two.
"""

from __future__ import annotations

import csv
import importlib
import zipfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import orjson

from streamserve.batch import F64, I64, Bools
from streamserve.drift.schema import element
from streamserve.errors import ConfigError, ContractError

Numbers: TypeAlias = F64 | I64
Texts: TypeAlias = npt.NDArray[np.str_]
Cell: TypeAlias = "float | int | bool | str | None"

NO_VALUE: Final = frozenset(
    {"", "#N/A", "#NA", "-NaN", "-nan", "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"}
)
"""Texts of a CSV cell that stand for a missing value: those of pandas, which the peers read with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NumericColumn:
    """Numbers, one a row; NaN where there is none. `values: float64[n] | int64[n]`."""

    name: str
    values: Numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class CategoricalColumn:
    """Categories, one a row. `values: str[n]`, meaningless where `present: bool[n]` is false."""

    name: str
    values: Texts
    present: Bools


Column: TypeAlias = NumericColumn | CategoricalColumn


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Columns of equal length.

    `left_out` names what the file holds but a statistic of one column cannot take: times, nested values.
    """

    source: str
    rows: int
    columns: Mapping[str, Column]
    left_out: tuple[str, ...] = ()

    def as_categorical(self, names: Collection[str]) -> Table:
        """The same table with some columns taken as categories: codes and small numbers that are no amounts.

        Raises:
            ContractError: there is no such column.
        """
        if unknown := sorted(set(names) - set(self.columns)):
            raise ContractError(f"{self.source} has no column {', '.join(unknown)}; it has {', '.join(self.columns)}")
        return Table(
            source=self.source,
            rows=self.rows,
            columns={n: _categorical(c) if n in names else c for n, c in self.columns.items()},
            left_out=self.left_out,
        )


def read_table(path: Path) -> Table:
    """Reads a file by its ending: `.csv`, `.npz`, `.jsonl` or `.ndjson`, `.parquet` or `.pq`.

    In JSON lines a list of numbers becomes one column an element (`features[17]`), an object one a field
    (`car.value`); in NPZ a matrix becomes one column a column.

    Raises:
        ConfigError: parquet is asked for and pyarrow is not installed.
        ContractError: the ending is unknown, or the content is not what the ending says.
    """
    readers: dict[str, Callable[[Path], Table]] = {
        ".csv": _read_csv,
        ".npz": _read_npz,
        ".jsonl": _read_json_lines,
        ".ndjson": _read_json_lines,
        ".parquet": _read_parquet,
        ".pq": _read_parquet,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ContractError(f"{path}: cannot tell the format from {path.suffix!r}; known are {', '.join(readers)}")
    try:
        table = reader(path)
    except OSError as error:
        raise ContractError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ContractError(f"{path}: is not UTF-8 text") from error
    if not table.rows or not table.columns:
        raise ContractError(f"{path}: holds no {'rows' if table.columns else 'columns of numbers or categories'}")
    return table


def _read_csv(path: Path) -> Table:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        header = next(reader, [])
        rows: list[list[str]] = []
        for row in reader:
            if row and len(row) != len(header):
                raise ContractError(f"{path}:{reader.line_num}: {len(row)} cells, the header has {len(header)}")
            if row:
                rows.append(row)
    if len(set(header)) != len(header):
        raise ContractError(f"{path}: the header names a column twice")
    cells = zip(*rows, strict=True) if rows else [()] * len(header)
    columns = {name: _from_texts(name, texts) for name, texts in zip(header, cells, strict=True)}
    return Table(source=str(path), rows=len(rows), columns=columns)


def _from_texts(name: str, texts: Sequence[str]) -> Column:
    """A column of a text file; `True` and `False` are categories, as every other word."""
    present = np.array([text not in NO_VALUE for text in texts], dtype=np.bool_)
    if (numbers := _numbers(texts, present)) is not None:
        return NumericColumn(name=name, values=numbers)
    return CategoricalColumn(name=name, values=np.array(texts, dtype=np.str_), present=present)


def _numbers(texts: Sequence[str], present: Bools) -> Numbers | None:
    """The numbers that texts are, None when one is not a number."""
    if any("_" in text for text in texts):  # a number in Python's source, not in data
        return None
    try:
        if present.all():
            return np.array([int(text) for text in texts], dtype=np.int64)
    except (ValueError, OverflowError):  # then fractions, or more than 63 bits
        pass
    try:
        return np.array(
            [float(t) if here else np.nan for t, here in zip(texts, present, strict=True)], dtype=np.float64
        )
    except ValueError:
        return None


def _read_npz(path: Path) -> Table:
    columns: dict[str, Column] = {}
    left_out: list[str] = []
    try:
        with np.load(path, allow_pickle=False) as file:
            for key in file.files:
                _add_array(key, file[key], columns, left_out)
    except (ValueError, zipfile.BadZipFile, EOFError) as error:
        raise ContractError(f"{path}: is no NPZ file of plain arrays: {error}") from error
    return _table(path, columns, left_out)


def _add_array(name: str, array: npt.NDArray[np.generic], columns: dict[str, Column], left_out: list[str]) -> None:
    if array.ndim == 2:
        for index in range(array.shape[1]):
            _add_array(element(name, index), array[:, index], columns, left_out)
    elif array.ndim == 1 and (column := _from_array(name, array)) is not None:
        columns[name] = column
    else:
        left_out.append(name)


def _from_array(name: str, array: npt.NDArray[np.generic]) -> Column | None:
    """A column of an array of numbers, truth values or text; None for any other type."""
    if array.dtype.kind == "f":
        return NumericColumn(name=name, values=array.astype(np.float64))
    if array.dtype == np.uint64:  # more than int64 holds
        return NumericColumn(name=name, values=array.astype(np.float64))
    if array.dtype.kind in "iu":
        return NumericColumn(name=name, values=array.astype(np.int64))
    if array.dtype.kind in "bUS":
        texts = np.array([item.decode() if isinstance(item, bytes) else str(item) for item in array.tolist()], np.str_)
        return CategoricalColumn(name=name, values=texts, present=texts != "")
    return None


def _read_json_lines(path: Path) -> Table:
    cells: dict[str, list[Cell]] = {}
    left_out: dict[str, None] = {}
    rows = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                record = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise ContractError(f"{path}:{number}: is no JSON: {error}") from error
            if not isinstance(record, dict):
                raise ContractError(f"{path}:{number}: is no JSON object")
            _add_record(record, "", rows, cells, left_out)
            rows += 1
    columns = {name: _from_cells(name, _padded(values, rows)) for name, values in cells.items()}
    return _table(path, columns, list(left_out), rows)


def _add_record(
    record: Mapping[str, object], prefix: str, row: int, cells: dict[str, list[Cell]], left_out: dict[str, None]
) -> None:
    """Puts a record's cells at `row`; lists of lists and lists of objects are left out."""
    for key, value in record.items():
        name = prefix + key
        if isinstance(value, dict):
            _add_record(value, f"{name}.", row, cells, left_out)
        elif isinstance(value, list):
            if any(isinstance(item, list | dict) for item in value):
                left_out[name] = None
                continue
            _add_record({element(name, i): item for i, item in enumerate(value)}, "", row, cells, left_out)
        elif value is None or isinstance(value, float | int | str):
            _padded(cells.setdefault(name, []), row).append(value)


def _padded(values: list[Cell], rows: int) -> list[Cell]:
    """`values`, brought to a length with missing ones."""
    values.extend([None] * (rows - len(values)))
    return values


def _from_cells(name: str, cells: Sequence[Cell]) -> Column:
    """A column of typed cells. One that mixes numbers with words is categorical."""
    present = np.array([cell is not None for cell in cells], dtype=np.bool_)
    kinds = {type(cell) for cell in cells if cell is not None}
    if kinds <= {int, float}:
        whole = kinds == {int} and bool(present.all()) and all(abs(int(cell or 0)) < 2**63 for cell in cells)
        if whole:
            return NumericColumn(name=name, values=np.array(cells, dtype=np.int64))
        numbers = [np.nan if cell is None else cell for cell in cells]
        return NumericColumn(name=name, values=np.array(numbers, dtype=np.float64))
    return CategoricalColumn(name=name, values=np.array([str(cell) for cell in cells], dtype=np.str_), present=present)


def _read_parquet(path: Path) -> Table:
    parquet, types = _pyarrow("pyarrow.parquet"), _pyarrow("pyarrow.types")
    arrow = _pyarrow("pyarrow")
    columns: dict[str, Column] = {}
    left_out: list[str] = []
    try:
        data = parquet.read_table(path)
    except arrow.ArrowInvalid as error:
        raise ContractError(f"{path}: is no parquet file: {error}") from error
    for field in data.schema:
        values = data.column(field.name)
        plain = field.type.value_type if types.is_dictionary(field.type) else field.type
        if types.is_floating(plain) or types.is_integer(plain) or types.is_decimal(plain):
            whole = types.is_integer(plain) and not types.is_uint64(plain) and values.null_count == 0
            array = values.cast(arrow.int64() if whole else arrow.float64(), safe=False).to_numpy()
            columns[field.name] = NumericColumn(name=field.name, values=np.array(array))
        elif types.is_boolean(plain) or types.is_string(plain) or types.is_large_string(plain):
            columns[field.name] = _from_cells(field.name, values.to_pylist())
        else:
            left_out.append(field.name)
    return _table(path, columns, left_out, data.num_rows)


def _pyarrow(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError("reading parquet needs pyarrow: pip install 'streamserve[batch]'") from error


def _table(path: Path, columns: dict[str, Column], left_out: list[str], rows: int | None = None) -> Table:
    lengths = {column.values.size for column in columns.values()}
    if len(lengths) > 1:
        raise ContractError(f"{path}: its arrays have different lengths: {', '.join(map(str, sorted(lengths)))}")
    return Table(
        source=str(path),
        rows=max(lengths, default=0) if rows is None else rows,
        columns=columns,
        left_out=tuple(left_out),
    )


def _categorical(column: Column) -> CategoricalColumn:
    """Numbers as categories; 3 and 3.0 are the same one."""
    if isinstance(column, CategoricalColumn):
        return column
    distinct, index = np.unique(column.values, return_inverse=True)
    names = np.array([repr(value).removesuffix(".0") for value in distinct.tolist()], dtype=np.str_)
    return CategoricalColumn(name=column.name, values=names[index], present=~np.isnan(column.values))
