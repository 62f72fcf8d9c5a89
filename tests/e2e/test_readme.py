"""The README, done as a reader would: its two commands are real, its session runs, its length is bounded."""

from __future__ import annotations

import re
import subprocess

import pytest

from streamserve.demo.injection import Fault
from tests.markdown import ROOT, blocks, commands
from tests.pipelines import environment

README = ROOT / "README.md"
TRY, SESSION, DRIFT, ROLLOUT = blocks("sh", pages=[README])


def test_it_is_short():
    assert len(README.read_text().splitlines()) <= 150


def test_its_two_commands_are_scripts():
    assert [words[0] for words in commands(TRY.text)] == ["scripts/demo", "scripts/test"]
    for words in commands(TRY.text):
        done = subprocess.run([ROOT / words[0], "--help"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_its_fault_is_one_that_the_demo_knows():
    ((script, option, fault),) = commands(DRIFT.text)
    assert (script, option) == ("scripts/demo", "--inject")
    assert fault in list(Fault)


def test_its_rollout_is_of_commands_that_there_are():
    verbs = [words[2] for words in commands(ROLLOUT.text)]
    assert verbs == ["push", "canary", "report", "promote"]
    assert all(words[:2] == ["streamserve", "model"] for words in commands(ROLLOUT.text))


def test_numbers_of_speed_are_in_one_place():
    rows = [line for line in README.read_text().splitlines() if line.startswith("|") and "exactly once |" in line]
    assert rows
    assert "(docs/performance.md)" in README.read_text(), "method, machine and date are a click away"


@pytest.mark.slow
def test_its_session_runs(tmp_path, kafka):
    for name in ("examples", "scripts", ".venv"):
        (tmp_path / name).symlink_to(ROOT / name)
    lines = [line for line in SESSION.text.splitlines() if "scripts/kafka start" not in line]
    assert len(lines) == len(SESSION.text.splitlines()) - 1, "the fixture is the broker"
    script = "\n".join(["set -e", *lines, "kill %1", "wait %1"])
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env=environment(KAFKA_BOOTSTRAP=kafka.bootstrap, STREAMSERVE_HTTP__PORT="0"),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    predictions = [line for line in done.stdout.splitlines() if "probability=" in line]
    assert len(predictions) == 19
    assert re.search(r"missing_feature\s+enrich\s+vibration\s+1\b", done.stdout)
    assert (tmp_path / "machines" / "models" / "machines" / "1" / "model.onnx").exists()
