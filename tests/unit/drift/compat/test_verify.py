"""`streamserve drift verify` at the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from streamserve.cli.drift_verify import verify
from streamserve.errors import ContractError

DATA = Path(__file__).parents[3] / "data" / "drift"
SMALL = [str(DATA / "small_reference.npz"), str(DATA / "small_current.npz")]


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    app.command()(verify)
    return app


def test_text_names_columns_measures_meanings_and_the_verdict(app):
    result = CliRunner().invoke(app, ["--compat", "evidently", *SMALL, "--column", "waiting", "--column", "colour"])
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["COLUMN", "MEASURE", "VALUE", "P", "THRESHOLD", "DRIFT", "NOTE"]
    assert any(line.split()[:2] == ["waiting", "kolmogorov_smirnov*"] for line in lines)
    assert "psi                 nats; Sturges bins of both samples" in lines
    assert "evidently 0.7.23: 803 reference rows, 307 current rows; dataset drift: 2 of 2" in result.stderr
    assert "normal" not in result.stdout


def test_json_holds_the_whole_report(app):
    result = CliRunner().invoke(app, ["--compat", "nannyml", *SMALL, "--format", "json"])
    report = json.loads(result.stdout)
    assert (report["peer"], report["version"], report["current_rows"]) == ("nannyml", "0.13.1", 307)
    assert [report["scores"][0][key] for key in ("column", "kind", "measure", "default", "drifted")] == [
        "normal",
        "numeric",
        "jensen_shannon",
        True,
        False,
    ]
    assert report["scores"][0]["threshold"] == pytest.approx(0.658525, abs=5e-7)


def test_numbers_are_taken_as_categories_on_request(app):
    arguments = ["--compat", "frouros", *SMALL, "--column", "grade", "--format", "json"]
    as_numbers, as_categories = (
        json.loads(CliRunner().invoke(app, [*arguments, *more]).stdout)["scores"]
        for more in ([], ["--categorical", "grade"])
    )
    assert {score["measure"] for score in as_numbers} > {"psi", "wasserstein"}
    assert [score["measure"] for score in as_categories] == ["chi_square"]


def test_a_file_that_is_not_there_is_a_mistake_of_usage(app):
    assert CliRunner().invoke(app, ["--compat", "nannyml", SMALL[0], "nowhere.csv"]).exit_code == 2


def test_an_unknown_column_is_named(app):
    result = CliRunner().invoke(app, ["--compat", "hopsworks", *SMALL, "--column", "price"])
    assert isinstance(result.exception, ContractError)
    assert "has no column price; it has normal, count" in str(result.exception)
