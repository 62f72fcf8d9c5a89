"""`streamserve model list`, `push` and `alias`, as a user types them."""

import json

import pytest

from benchmarks import models
from streamserve.cli import main
from streamserve.cli.model_list import size
from tests.pipelines import FLIGHTS


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """Runs a command in an empty folder. Gives exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(["model", *map(str, arguments)])
        told = capfd.readouterr()
        return ended.value.code or 0, told.out, told.err

    return call


@pytest.fixture
def model(tmp_path):
    return models.save(models.mlp(), tmp_path / "trained", "best.onnx")


def test_a_model_is_pushed_listed_and_given_an_alias(run, model):
    code, out, err = run("push", "flight-delay", model, "--alias", "canary", "--metric", "auc=0.9")
    assert (code, out) == (0, "flight-delay 1 (canary)\n")
    assert "models/flight-delay/1/model.onnx\nsha256 " in err
    assert json.loads(run("push", "flight-delay", model, "--format", "json")[1])["version"] == "2"
    assert run("alias", "flight-delay", "stable", 2)[1] == "flight-delay stable is 2\n"
    header, one, two = run("list")[1].splitlines()
    assert header.split() == ["model", "version", "alias", "runtime", "folder", "size", "created", "source", "metrics"]
    assert one.split()[:4] == ["flight-delay", "1", "canary", "onnx"]
    assert one.endswith("auc 0.9")
    assert two.split()[:4] == ["flight-delay", "2", "stable", "onnx"]
    listed = json.loads(run("list", "flight-delay", "--format", "json")[1])
    assert [(version["version"], version["aliases"]) for version in listed] == [(1, ["canary"]), (2, ["stable"])]


def test_metrics_that_are_asked_for_have_columns(run, model):
    run("push", "m", model, *(part for n in range(4) for part in ("--metric", f"a{n}=0.{n}")))
    assert run("list")[1].splitlines()[1].endswith("4 (--metric a0 shows one)")
    lines = run("list", "--metric", "a3", "--metric", "gone")[1].splitlines()
    assert lines[0].split()[-2:] == ["a3", "gone"]
    assert lines[1].endswith("0.3")


def test_the_repository_is_that_of_the_configuration_that_is_there(run, model, tmp_path):
    text = (FLIGHTS / "streamserve.yaml").read_text().replace("repository: models", "repository: elsewhere")
    (tmp_path / "streamserve.yaml").write_text(text)
    run("push", "m", model)
    assert (tmp_path / "elsewhere" / "m" / "1" / "model.onnx").is_file()
    run("push", "m", model, "--repository", tmp_path / "third")
    assert (tmp_path / "third" / "m" / "1").is_dir()
    (tmp_path / "other").mkdir()
    (tmp_path / "streamserve.yaml").rename(tmp_path / "other" / "mine.yaml")
    run("push", "m", model, "-c", tmp_path / "other" / "mine.yaml")
    assert (tmp_path / "other" / "elsewhere" / "m" / "1").is_dir()


def test_mistakes_are_told_with_the_codes_of_the_contract(run, model):
    assert run("list")[2] == "no models in models\n"
    assert run("list", "gone")[0] == 78
    assert run("push", "m", model, "--metric", "auc")[0] == 2
    assert run("push", "m", model, "--version", 0)[0] == 2
    run("push", "m", model)
    code, _, err = run("alias", "m", "latest", 1)
    assert code == 78
    assert "cannot be an alias" in err


def test_sizes_are_told_in_the_unit_that_fits():
    assert [size(n) for n in (0, 999, 1000, 92_721, 1_500_000, 5_000_000_000_000)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "92.7 kB",
        "1.5 MB",
        "5000.0 GB",
    ]
