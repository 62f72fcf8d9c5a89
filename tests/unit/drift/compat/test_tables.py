"""Files become typed columns."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from streamserve.drift.tables import CategoricalColumn, NumericColumn, Table, read_table
from streamserve.errors import ConfigError, ContractError


def _read(folder: Path, name: str, text: str) -> Table:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return read_table(path)


def _numbers(table: Table, name: str) -> np.ndarray:
    column = table.columns[name]
    assert isinstance(column, NumericColumn)
    return column.values


def _words(table: Table, name: str) -> list[str | None]:
    column = table.columns[name]
    assert isinstance(column, CategoricalColumn)
    return [value if here else None for value, here in zip(column.values.tolist(), column.present, strict=True)]


def test_csv_columns_have_the_kind_of_their_cells(tmp_path):
    table = _read(tmp_path, "t.csv", "whole,real,holes,word,truth,mixed\n1,1.5,,a,True,1\n2,-2e3,3,NA,False,x\n\n")
    assert table.rows == 2
    assert _numbers(table, "whole").tolist() == [1, 2]
    assert _numbers(table, "whole").dtype == np.int64
    assert _numbers(table, "real").tolist() == [1.5, -2000.0]
    assert np.isnan(_numbers(table, "holes")[0])
    assert _numbers(table, "holes").dtype == np.float64
    assert _words(table, "word") == ["a", None]
    assert _words(table, "truth") == ["True", "False"]
    assert _words(table, "mixed") == ["1", "x"]


def test_csv_text_that_only_python_takes_for_a_number_is_text(tmp_path):
    assert _words(_read(tmp_path, "t.csv", "code\n1_000\n2_000\n"), "code") == ["1_000", "2_000"]


def test_csv_with_a_byte_order_mark_has_a_clean_first_name(tmp_path):
    assert list(_read(tmp_path, "t.csv", "\ufeffa,b\n1,2\n").columns) == ["a", "b"]


def test_json_lines_are_flattened_and_padded(tmp_path):
    lines = '{"a": 1, "v": [0.5, 1], "car": {"value": 7.5}}\n\n{"a": 2, "v": [1.5, 2], "new": "x", "deep": [[1]]}\n'
    table = _read(tmp_path, "t.jsonl", lines)
    assert table.rows == 2
    assert _numbers(table, "a").dtype == np.int64
    assert _numbers(table, "v[0]").tolist() == [0.5, 1.5]
    assert _numbers(table, "v[1]").tolist() == [1, 2]
    assert _numbers(table, "car.value")[0] == 7.5
    assert np.isnan(_numbers(table, "car.value")[1])
    assert _words(table, "new") == [None, "x"]
    assert table.left_out == ("deep",)


def test_json_truth_values_and_mixtures_are_categories(tmp_path):
    table = _read(tmp_path, "t.ndjson", '{"t": true, "m": 1}\n{"t": null, "m": "a"}\n')
    assert _words(table, "t") == ["True", None]
    assert _words(table, "m") == ["1", "a"]


def test_npz_matrices_become_elements(tmp_path):
    path = tmp_path / "t.npz"
    when = np.array(["2024-01-01", "2024-01-02"], dtype="datetime64[D]")
    np.savez(
        path, x=np.array([[1.0, 2.0], [3.0, 4.0]], np.float32), flag=np.array([True, False]), when=when, b=[b"u", b"v"]
    )
    table = read_table(path)
    assert _numbers(table, "x[1]").tolist() == [2.0, 4.0]
    assert _numbers(table, "x[1]").dtype == np.float64
    assert _words(table, "flag") == ["True", "False"]
    assert _words(table, "b") == ["u", "v"]
    assert table.left_out == ("when",)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("t.txt", "a\n1\n", "cannot tell the format from '.txt'"),
        ("t.csv", "a,b\n1,2\n1\n", r"t.csv:3: 1 cells, the header has 2"),
        ("t.csv", "a,a\n1,2\n", "names a column twice"),
        ("t.csv", "a,b\n", "holds no rows"),
        ("t.csv", "", "holds no columns of numbers or categories"),
        ("t.jsonl", '{"a": 1}\n{"a": \n', "t.jsonl:2: is no JSON"),
        ("t.jsonl", "[1]\n", "t.jsonl:1: is no JSON object"),
        ("t.npz", "no archive", "is no NPZ file"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, text, says):
    with pytest.raises(ContractError, match=says):
        _read(tmp_path, name, text)


def test_other_encodings_missing_files_and_ragged_arrays_are_refused(tmp_path):
    (tmp_path / "t.csv").write_bytes("größe\n1\n".encode("latin-1"))
    np.savez(tmp_path / "t.npz", a=np.zeros(2), b=np.zeros(3))
    with pytest.raises(ContractError, match="is not UTF-8"):
        read_table(tmp_path / "t.csv")
    with pytest.raises(ContractError, match="different lengths: 2, 3"):
        read_table(tmp_path / "t.npz")
    with pytest.raises(ContractError, match=r"cannot be read: No such file"):
        read_table(tmp_path / "none.csv")


def test_numbers_can_be_taken_as_categories(tmp_path):
    table = _read(tmp_path, "t.csv", "grade,other\n3,1\n4.5,2\n,3\n").as_categorical(["grade"])
    assert _words(table, "grade") == ["3", "4.5", None]
    assert isinstance(table.columns["other"], NumericColumn)
    with pytest.raises(ContractError, match="has no column level; it has grade, other"):
        table.as_categorical(["level"])


@pytest.mark.skipif(importlib.util.find_spec("pyarrow") is not None, reason="pyarrow is installed")
def test_parquet_without_pyarrow_says_what_to_install(tmp_path):
    with pytest.raises(ConfigError, match=r"pip install 'streamserve\[batch\]'"):
        _read(tmp_path, "t.parquet", "")


def test_unsigned_numbers_beyond_int64_stay_positive(tmp_path):
    np.savez(
        tmp_path / "t.npz", big=np.array([2**64 - 2048, 1], dtype=np.uint64), small=np.array([255], np.uint8).repeat(2)
    )
    table = read_table(tmp_path / "t.npz")
    assert _numbers(table, "big").tolist() == [2.0**64 - 2048, 1.0]
    assert _numbers(table, "small").tolist() == [255, 255]


def test_parquet_columns_have_their_own_types(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "t.parquet"
    large = arrow.array([2**63, 1], arrow.uint64())
    columns = {
        "large": large,
        "whole": [1, 2],
        "holes": [1, None],
        "real": [0.5, None],
        "word": ["a", None],
        "truth": [True, False],
    }
    data = arrow.table(columns | {"coded": arrow.array(["u", "v"]).dictionary_encode(), "nested": [[1], [2]]})
    parquet.write_table(data, path)
    table = read_table(path)
    assert _numbers(table, "whole").dtype == np.int64
    assert _numbers(table, "whole").tolist() == [1, 2]
    assert np.isnan(_numbers(table, "holes")[1])
    assert np.isnan(_numbers(table, "real")[1])
    assert _words(table, "word") == ["a", None]
    assert _words(table, "truth") == ["True", "False"]
    assert _words(table, "coded") == ["u", "v"]
    assert _numbers(table, "large").tolist() == [2.0**63, 1.0]
    assert table.left_out == ("nested",)
    path.write_bytes(b"no parquet at all")
    with pytest.raises(ContractError, match="is no parquet file"):
        read_table(path)
