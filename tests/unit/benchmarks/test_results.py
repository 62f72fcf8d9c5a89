"""Bounds: a median beyond its bound falls, and `scripts/bench` ends with 3 then."""

from __future__ import annotations

import json
from math import nan
from pathlib import Path
from statistics import median

import pytest

from benchmarks import results
from benchmarks.turns import costs

BOUNDS = """
["a.cpu"]
at_most = 1.5
goal = 1.2

["a.throughput"]
at_least = 0.9
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "bounds.toml").write_text(BOUNDS)
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    return tmp_path


def test_a_median_on_its_bound_holds(folder: Path) -> None:
    assert results.compare({"a.cpu": [1.5], "a.throughput": [0.9]}) == []


@pytest.mark.parametrize(
    ("name", "values"), [("a.cpu", [1.0, 1.6, 1.7]), ("a.throughput", [0.7, 0.8, 2.0]), ("a.cpu", [nan])]
)
def test_a_median_beyond_its_bound_falls(folder: Path, name: str, values: list[float]) -> None:
    (line,) = results.compare({name: values})
    assert line.startswith(f"{name}: median {median(values):.2f}")


def test_extremes_and_figures_without_a_bound_do_not_fall(folder: Path) -> None:
    assert results.compare({"a.cpu": [1.0, 1.2, 9.0], "a.throughput": [0.1, 1.0, 1.0], "b.cpu": [99.0]}) == []


def test_the_status_is_3_when_a_bound_falls(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert results.verdict({"a.cpu": [1.6]}) == 3
    assert capsys.readouterr().out.startswith("FALLEN a.cpu")
    assert results.verdict({"a.cpu": [1.4]}) == 0


def test_figures_are_kept_unless_they_should_not_be(folder: Path) -> None:
    results.verdict({"a.cpu": [1.6]}, kept=False)
    assert not (folder / "results.jsonl").exists()
    results.verdict({"a.cpu": [1.23456]})
    (line,) = (folder / "results.jsonl").read_text().splitlines()
    assert json.loads(line)["figures"] == {"a.cpu": [1.235]}


def test_a_table_says_goal_and_bound(folder: Path) -> None:
    rows = results.table({"a.cpu": [1.0, 1.1, 1.3], "b.rate": [123456.0]})[2:]
    assert rows == [
        "| a.cpu | 1.00 | **1.10** | 1.30 | ≤ 1.2 | ≤ 1.5 |",
        "| b.rate | 123,456 | **123,456** | 123,456 |  |  |",
    ]


def test_every_bound_has_one_side_and_no_goal_is_weaker() -> None:
    for name, bound in results.bounds().items():
        sides = {"at_most", "at_least"} & bound.keys()
        assert len(sides) == 1, name
        (side,) = sides
        assert bound.keys() <= {side, "goal"}, name
        goal = bound.get("goal", bound[side])
        assert goal <= bound[side] if side == "at_most" else goal >= bound[side], name


def test_costs_are_told_for_a_thousand_million_events() -> None:
    figures = {"a.loop.cpu_s_per_million": [3.6], "a.loop.events_per_s": [100_000.0], "a.worker_over_loop.cpu": [1.0]}
    assert costs(figures)[2:] == ["| a.loop | 100,000 | 3.60 | 1.00 | 2.78 |"]
