"""`streamserve model bench` on real models: real rows through the pipeline's features, made-up ones without."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

import streamserve.demo.flights
from benchmarks import models
from streamserve.cli.model import app
from streamserve.cli.model_bench import _best, _duration
from streamserve.engines.benchmark import CaseResult, SizeResult
from streamserve.pipeline.latency_model import Line

FLIGHTS = Path(streamserve.demo.flights.__file__).parent
QUICK = ["--seconds", "0.1"]


def run(*arguments):
    return CliRunner().invoke(app, ["bench", *map(str, arguments), *QUICK])


@pytest.fixture
def repository(tmp_path):
    models.save(models.mlp(), tmp_path / "models" / "mlp" / "1")
    return tmp_path / "models"


@pytest.fixture
def flights(tmp_path, monkeypatch):
    for name in ("models", "topics"):
        shutil.copytree(FLIGHTS / name, tmp_path / name)
    shutil.copy(FLIGHTS / "streamserve.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_json_has_every_size_and_the_line(repository):
    result = run("mlp", "--repository", repository, "--sizes", "4,1", "--threads", 2, "--format", "json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert (document["model"], document["threads"], document["rows"]) == ("mlp 1", 2, "made up")
    (case,) = document["cases"]
    assert [size["rows"] for size in case["sizes"]] == [1, 4]
    assert all(0 < size["p50_ms"] <= size["p99_ms"] and size["rows_per_s"] > 0 for size in case["sizes"])
    assert case["row_ms"] >= 0
    assert case["best_rows"] in (1, 4)
    assert case["suggested"] is None


def test_a_goal_gets_a_batch_size(repository):
    document = json.loads(run("mlp", "--repository", repository, "--slo-ms", 50, "--format", "json").stdout)
    suggested = document["cases"][0]["suggested"]
    assert suggested["slo_ms"] == 50
    assert 1 <= suggested["max_batch_size"] <= 512


def test_text_is_a_table(repository):
    result = run("mlp", "--repository", repository, "--sizes", "1,16")
    lines = [line for line in result.stdout.splitlines() if line]
    assert lines[0].startswith("model mlp 1  provider CPUExecutionProvider  threads 1")
    assert lines[1].split() == ["batch", "p50", "ms", "p99", "ms", "rows/s"]
    assert [line.split()[0] for line in lines[2:4]] == ["1", "16"]
    assert lines[4].startswith("T(n) = ")


def case(*rows_per_s):
    sizes = [
        SizeResult(rows=4**place, runs=3, p50_s=0.1, p99_s=0.1, rows_per_s=rate)
        for place, rate in enumerate(rows_per_s)
    ]
    return CaseResult(length=None, sizes=sizes, line=Line(row_s=1e-7, batch_s=2e-3))


def test_a_best_batch_that_is_the_largest_may_not_be_the_best():
    assert (
        _best(case(10, 20, 30))
        == "best batch 16: 30 rows/s, the largest that was measured: try larger ones with --sizes"
    )
    assert _best(case(10, 30, 30)) == "best batch 4: 30 rows/s; larger ones of these gain less than 2 %"


def test_what_a_row_takes_is_told_in_a_unit_that_fits():
    assert [_duration(seconds) for seconds in (0.0, 1.23e-7, 0.002)] == ["nothing measurable", "0.123 µs", "2 ms"]


def test_real_rows_go_through_the_pipelines_decoder_and_features(flights):
    events = flights / "events.jsonl"
    fields = {"sched_dep_minute": 600, "sched_duration": 120, "day_of_week": 3, "dep_delay": 4, "distance": 733}
    event = {"flight_id": "AA1", "event_time": 1372941000000, "carrier": "AA", "origin": "JFK", **fields}
    events.write_text(json.dumps(event) + "\n" + json.dumps({**event, "distance": "far"}) + "\n")
    result = run("flight-delay", "--rows", events, "--sizes", "1,8", "--format", "json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert (document["model"], document["rows"]) == ("flight-delay 1", str(events))
    events.write_text(json.dumps({**event, "distance": "far"}) + "\n")
    assert "holds no row" in str(run("flight-delay", "--rows", events).exception)


@pytest.mark.parametrize("sizes", ["", "0,1", "a", "1,99999"])
def test_sizes_that_are_none_are_refused(repository, sizes):
    result = run("mlp", "--repository", repository, "--sizes", sizes)
    assert result.exit_code == 2


def test_events_need_a_pipeline_that_reads_them(repository, tmp_path):
    events = tmp_path / "events.jsonl"
    events.write_text("{}\n")
    result = run("mlp", "--repository", repository, "--rows", events)
    assert "name the pipeline that knows how to read them" in str(result.exception)
