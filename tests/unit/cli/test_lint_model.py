"""What `lint` finds between a configuration and the model in its repository."""

from __future__ import annotations

import json
import shutil

import pytest

from streamserve import cli
from tests.pipelines import flights_folder

LATE = ["engine.slo_ms=500", "engine.late=fallback"]


@pytest.fixture
def lint(tmp_path, monkeypatch, capsys):
    """Runs `lint` on the flights pipeline with values set; gives the exit code and the issues."""
    monkeypatch.chdir(tmp_path)
    flights_folder(tmp_path)

    def call(*values):
        flags = [part for value in values for part in ("--set", value)]
        with pytest.raises(SystemExit) as ended:
            cli.main(["lint", "--format", "json", *flags])
        issues = json.loads(capsys.readouterr().out)
        return ended.value.code or 0, [(i["severity"], i["path"], i["message"]) for i in issues]

    return call


def test_a_model_that_fits_has_no_issue(lint):
    assert lint() == (0, [])
    assert lint(*LATE, "engine.fallback={probability: 0.5}") == (0, [])


@pytest.mark.parametrize(
    ("values", "path", "words"),
    [
        ([*LATE, "engine.fallback={prob: 0.5}"], "engine.fallback", "prob is no output of the model; these are"),
        ([*LATE, "engine.fallback={probability: true}"], "engine.fallback", "probability: True is no float32"),
        (["output.post={s: {kind: softmax, of: nope}}"], "output.post", "output.post.s is made of nope"),
        (["features=[{name: x}]", "drift=null"], "features", "do not fit the model"),
        (["engine.runtime=torch"], "engine.runtime", "is torch, but model.onnx of version 1 is for onnx"),
    ],
)
def test_what_a_worker_would_refuse_is_an_error(lint, values, path, words):
    code, ((severity, told, message),) = lint(*values)
    assert (code, severity, told) == (78, "error", path)
    assert words in message


def test_a_model_that_was_changed_is_an_error(lint, tmp_path):
    with (tmp_path / "models" / "flight-delay" / "1" / "model.onnx").open("ab") as file:
        file.write(b"more")
    code, ((severity, path, _),) = lint()
    assert (code, severity, path) == (78, "error", "model.version")


def test_what_may_be_meant_is_a_warning(lint, tmp_path):
    assert lint("engine.compile=true") == (
        0,
        [("warning", "engine.compile", "has no effect: model.onnx of version 1 is no PyTorch model")],
    )
    code, ((severity, path, _),) = lint("model.version=7")
    assert (code, severity, path) == (0, "warning", "model.version")
    shutil.rmtree(tmp_path / "models" / "flight-delay" / "1")
    assert lint() == (0, [])
