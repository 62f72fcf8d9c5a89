"""Generated files are as the settings are, and the schema agrees with the loader."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from streamserve.config.document import read_document
from streamserve.config.reference import render
from streamserve.config.schema import schema

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = ROOT / "streamserve" / "demo" / "flights" / "streamserve.yaml"


def test_generated_files_are_up_to_date():
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "generate"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("", 0)


def test_every_row_of_the_reference_is_one_line():
    lines = [line for line in render({0: "fine"}).splitlines() if line.startswith("| ")]
    assert len(lines) > 100
    assert [line for line in lines if not line.endswith(" |")] == []


def test_the_schema_is_a_schema_and_takes_the_demo():
    jsonschema.Draft202012Validator.check_schema(schema())
    jsonschema.validate(read_document(EXAMPLE.read_text(), "x").data, schema())


@pytest.mark.parametrize(
    "change",
    [
        {"pipelin": "x"},
        {"workers": 0},
        {"kafka": {"bootstrap.servers": "b", "group.id": "x"}},
        {"features": []},
        {"engine": {"max_batch_size": "many"}},
    ],
)
def test_the_schema_refuses_what_the_loader_refuses(change):
    data = read_document(EXAMPLE.read_text(), "x").data
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**data, **change}, schema())


@pytest.mark.parametrize("change", [{"workers": "${WORKERS:-2}"}, {"http": {"port": "${PORT}"}}])
def test_the_schema_takes_variables_for_numbers(change):
    jsonschema.validate({**read_document(EXAMPLE.read_text(), "x").data, **change}, schema())
