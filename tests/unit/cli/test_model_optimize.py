"""`model optimize` as a user calls it."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil

import numpy as np
import orjson
import pytest

from benchmarks import models
from streamserve.cli import main, model_check
from streamserve.cli.model_optimize import default_version
from streamserve.config.engine_settings import EngineSettings
from streamserve.demo.flights import Flights
from streamserve.engines import build_engine
from streamserve.optimise.measure import outputs_of
from streamserve.registry.repository import FolderRepository
from streamserve.rollout.log import RolloutLog
from streamserve.rollout.records import Promote, encode, new_id
from streamserve.testing import memory_settings
from tests.pipelines import flights_folder


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with a network as version 1 of `net`, and rows for it."""
    monkeypatch.chdir(tmp_path)
    source = models.save(models.mlp((16, 256, 256, 4)), tmp_path / "source")
    found = FolderRepository(tmp_path / "models")
    found.push("net", source)
    random = np.random.default_rng(0)
    np.savez(tmp_path / "rows.npz", x=random.normal(size=(600, 16)).astype(np.float32))
    return found


@pytest.fixture
def run(capsys):
    """Calls `model optimize`; returns stdout and stderr."""

    def call(*arguments: str, code: int = 0) -> tuple[str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["model", "optimize", *arguments])
        out, err = capsys.readouterr()
        assert (ended.value.code or 0) == code, out + err
        assert "Traceback" not in err
        return out, err

    return call


def test_a_new_version_says_where_it_comes_from_and_loads_in_a_worker(repository, run):
    rows = ["--rows", "rows.npz", "--tolerance", "0.1", "--agreement", "0.9"]
    out, err = run("net", "--repository", "models", "--by", "int8", *rows, "--alias", "canary")
    assert "int8: 3 matrices in 8 bits" in out
    assert "batch of 512" in out
    assert "net 2" in err
    assert [(line.file, line.source) for line in repository.listing("net")][1:] == [
        ("model.onnx", "optimize int8 of version 1")
    ]
    pushed = repository.resolve("net", "canary")
    assert pushed.version == "2"
    assert pushed.manifest.source == "optimize int8 of version 1"
    assert pushed.manifest.metrics["optimize_rows"] == 600
    assert 0 < pushed.manifest.metrics["optimize_difference_max"] < 0.1
    assert pushed.manifest.metrics["optimize_size_ratio"] < 0.5
    original = repository.resolve("net", "1")
    assert pushed.signature == original.signature
    settings = EngineSettings(device="cpu")
    held = {"x": np.load("rows.npz")["x"]}
    before, after = (outputs_of(build_engine(v, settings), held)["probability"] for v in (original, pushed))
    difference = np.abs(before - after).max()
    assert difference == pytest.approx(pushed.manifest.metrics["optimize_difference_max"], rel=1e-3)


def test_beyond_the_tolerance_is_refused_with_3_and_nothing_is_written(repository, run):
    rows = ["--rows", "rows.npz", "--tolerance", "1e-6"]
    out, err = run("net", "--repository", "models", "--by", "int8", *rows, code=3)
    assert "over the tolerance of 1e-06" in err
    assert "nothing was written" in err
    assert "after / before" in out  # measured all the same
    assert repository.versions("net") == [1]


def test_nothing_to_do_is_told_with_3(repository, run, tmp_path):
    _, err = run("net", "--repository", "models", "--by", "graph", "--rows", "rows.npz", code=3)
    assert "nothing to simplify" in err
    assert repository.versions("net") == [1]


def test_a_dry_run_writes_nothing(repository, run):
    out, err = run(
        "net", "--repository", "models", "--by", "ort", "--rows", "rows.npz", "--dry-run", "--format", "json"
    )
    said = json.loads(out)
    assert (said["from"], said["version"], said["problems"]) == ("1", None, [])
    assert said["latency_s"].keys() == {"1", "64", "512"}
    assert said["outputs"][0]["rows"] == 600
    assert "a dry run" in err
    assert repository.versions("net") == [1]


def test_what_ort_wrote_is_not_the_next_original(repository, run):
    rows = ["--repository", "models", "--rows", "rows.npz"]
    run("net", *rows, "--by", "ort")
    assert repository.listing("net")[1].file == "model.ort"
    out, _ = run("net", *rows, "--by", "ort", "--dry-run", "--format", "json")
    assert json.loads(out)["from"] == "1"
    shutil.rmtree("models/net/1")
    _, err = run("net", *rows, "--by", "ort", code=78)
    assert "no version of net is a model.onnx" in err


def test_the_stable_version_is_optimised_where_a_rollout_says_which(repository, monkeypatch):
    repository.push("net", "source/model.onnx")
    settings = memory_settings([{"name": "x"}], model={"name": "net"}, rollout={})
    log = RolloutLog()
    monkeypatch.setattr(model_check, "rollout_log", lambda _: log)
    assert default_version(repository, "net", settings, offline=False) == "2"
    log.add(0, *encode(Promote(id=new_id(), version="1")))
    assert default_version(repository, "net", settings, offline=False) == "1"
    assert default_version(repository, "net", settings, offline=True) == "2"


def test_methods_are_chained_and_learn_from_other_rows_than_they_are_measured_on(repository, run):
    limits = ["--tolerance", "1", "--agreement", "0", "--sparsity", "0.25", "--rank", "40"]
    chain = ["--by", "prune", "--by", "low-rank", "--by", "ort"]
    out, _ = run("net", "--repository", "models", *chain, "--rows", "rows.npz", *limits, "--format", "json")
    said = json.loads(out)
    assert list(said["methods"]) == ["prune", "low-rank", "ort"]
    assert said["outputs"][0]["rows"] == 120
    pushed = repository.resolve("net", "2")
    assert pushed.path.endswith("model.ort")
    assert pushed.manifest.source == "optimize prune low-rank ort of version 1"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--by", "ort", "--by", "int8", "--rows", "rows.npz"], 78, "must be the last method"),
        (["--by", "int8"], 2, "give rows to measure on"),
        (["--by", "int8", "--rows", "other.npz"], 78, "has no array x"),
        (["--by", "int8", "--rows", "narrow.npz"], 78, "the model takes float32[-1, 16]"),
        (["--by", "int8", "--rows", "rows.jsonl"], 78, "name its configuration with -c"),
        (["--by", "int8", "--rows", "rows.npz", "--version", "7"], 78, "no version '7'"),
    ],
)
def test_mistakes_say_what_to_do(repository, run, arguments, code, words):
    np.savez("other.npz", z=np.zeros((3, 16), np.float32))
    np.savez("narrow.npz", x=np.zeros((3, 4), np.float32))
    with open("rows.jsonl", "wb") as file:  # noqa: PTH123
        file.write(b"{}\n")
    _, err = run("net", "--repository", "models", *arguments, code=code)
    assert words in " ".join(err.replace("│", " ").split())
    assert repository.versions("net") == [1]


def test_events_of_the_flights_pipeline_are_rows_and_trees_are_told_apart(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flights_folder(tmp_path)
    events = Flights.load().events(0, 400)
    (tmp_path / "rows.jsonl").write_bytes(b"".join(orjson.dumps(event) + b"\n" for event in events))
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write("no event\n{}\n")
    _, err = run("flight-delay", "--by", "int8-static", "--rows", "rows.jsonl", code=3)
    assert "2 rows that a worker rejects are left out" in err
    assert "nothing to quantise" in err
    out, _ = run("flight-delay", "--by", "ort", "--rows", "rows.jsonl", "--format", "json")
    said = json.loads(out)
    assert said["outputs"][0]["agreement"] == 1
    assert said["outputs"][0]["max"] == 0
    pushed = FolderRepository(tmp_path / "models").resolve("flight-delay", said["version"])
    assert pushed.manifest.source == "optimize ort of version 1"


def test_a_missing_package_is_told_with_the_remedy(repository, run, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "onnx" else find(name, *more))
    _, err = run("net", "--repository", "models", "--by", "int8", "--rows", "rows.npz", code=78)
    assert "onnx is not installed: pip install 'streamserve[optimize]'" in err


def test_inputs_that_events_do_not_tell_must_be_given_as_they_are(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flights_folder(tmp_path)
    (tmp_path / "rows.jsonl").write_text("{}\n")
    (tmp_path / "hook.py").write_text("def before(inputs):\n    return inputs\n")
    digest = hashlib.sha256((tmp_path / "hook.py").read_bytes()).hexdigest()
    with (tmp_path / "streamserve.yaml").open("a") as file:
        file.write(f"hooks: {{before: {{path: hook.py, sha256: {digest}, function: before}}}}\n")
    _, err = run("flight-delay", "--by", "ort", "--rows", "rows.jsonl", code=78)
    assert "hooks.before makes the model's inputs" in err


@pytest.mark.torch
def test_the_flights_model_is_distilled_to_a_student_with_its_strings(run, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    flights_folder(tmp_path)
    events = Flights.load().events(0, 3000)
    (tmp_path / "rows.jsonl").write_bytes(b"".join(orjson.dumps(event) + b"\n" for event in events))
    limits = ["--tolerance", "0.1", "--tolerance-kind", "mean", "--agreement", "0.9", "--epochs", "6"]
    out, _ = run("flight-delay", "--by", "distil", "--rows", "rows.jsonl", *limits, "--format", "json")
    said = json.loads(out)
    repository = FolderRepository(tmp_path / "models")
    assert repository.resolve("flight-delay", "2").signature == repository.resolve("flight-delay", "1").signature
    assert said["outputs"][0]["rows"] == 600
