"""The entry point: nouns, exit codes, what is imported, what goes to stdout."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from streamserve import cli
from streamserve.errors import BrokerUnavailable

GOOD = """\
pipeline: flights
kafka: {bootstrap.servers: 'b:1', sasl.password: hunter2}
input: {topics: [flights.departures]}
features: [{name: x}]
model: {name: m}
output: {topic: flights.predictions}
dead_letter: {topic: flights.departures.dlq}
cache: {url: 'redis://u:hunter2@h/0'}
"""


@pytest.fixture
def config(tmp_path) -> Path:
    (tmp_path / "models" / "m").mkdir(parents=True)
    path = tmp_path / "streamserve.yaml"
    path.write_text(GOOD)
    return path


@pytest.fixture
def run(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main([str(argument) for argument in arguments])
        written = capsys.readouterr()
        return int(ended.value.code or 0), written.out, written.err

    return run


def test_version_goes_to_stdout(run):
    assert run("--version") == (0, "streamserve 0.1.0\n", "")


def test_help_lists_nouns_and_exit_codes(run):
    code, out, _ = run("--help")
    assert code == 0
    assert all(noun in out for noun in ("init", "lint", "config", "topics"))
    assert "78 the configuration is wrong" in " ".join(out.split())


def test_an_unknown_command_ends_with_2(run):
    assert run("nope")[0] == 2


def test_lint_prints_issues_as_data_and_ends_with_0_on_warnings(run, config):
    code, out, err = run("lint", "-c", config)
    assert (code, out.count("\n")) == (0, 1)
    assert out.startswith(f"warning: {config}:8:9: cache.url: holds a password")
    assert "0 errors, 1 warning" in err
    assert run("lint", "-c", config, "--strict")[0] == 3


def test_lint_ends_with_78_on_errors_and_can_speak_json(run, config):
    config.write_text(GOOD.replace("pipeline:", "pipelin:"))
    code, out, _ = run("lint", "-c", config, "--format", "json")
    assert code == 78
    assert [(issue["path"], issue["line"]) for issue in json.loads(out)] == [
        ("pipelin", 1),
        ("pipeline", None),
    ]


def test_a_bad_configuration_is_one_line_a_problem_on_stderr(run, config):
    config.write_text(GOOD.replace("pipeline:", "pipelin:"))
    code, out, err = run("config", "show", "-c", config)
    assert (code, out) == (78, "")
    assert err.splitlines() == [
        f"error: {config}:1:1: pipelin: unknown key (did you mean pipeline?)",
        f"error: {config}: pipeline: is missing",
        "2 problems",
    ]


@pytest.mark.parametrize("more", [(), ("--resolved",), ("--format", "json"), ("--resolved", "--format", "json")])
def test_config_show_masks_secrets(run, config, more):
    code, out, err = run("config", "show", "-c", config, *more)
    assert code == 0
    assert "hunter2" not in out + err
    assert "***" in out


def test_config_show_resolved_says_where_a_value_comes_from(run, config):
    _, out, _ = run("config", "show", "-c", config, "--resolved", "--set", "workers=2")
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines()}
    assert rows["workers"] == ["2", "flag"]
    assert rows["pipeline"] == ["flights", "file"]
    assert rows["http.port"] == ["8080", "default"]


def test_a_deliberate_error_ends_with_its_code_and_masks_secrets(run, config, monkeypatch):
    def fail(*_):
        raise BrokerUnavailable("no broker answers at sasl.password=hunter2")

    monkeypatch.setattr("streamserve.cli.config.load", fail)
    assert run("config", "show", "-c", config) == (69, "", "error: no broker answers at sasl.password=***\n")


def test_an_unexpected_error_is_short_without_v_and_a_traceback_with_it(run, config, monkeypatch):
    def fail(*_):
        raise RuntimeError("boom")

    monkeypatch.setattr("streamserve.cli.config.load", fail)
    code, out, err = run("config", "show", "-c", config)
    assert (code, out) == (1, "")
    assert err.startswith("error: RuntimeError: boom\n")
    assert "Traceback" not in err
    assert "Traceback" in run("-v", "config", "show", "-c", config)[2]
    assert "Traceback" in run("config", "show", "-c", config, "-v")[2]


@pytest.mark.parametrize("arguments", [["--help"], ["lint", "-c", "CONFIG"]])
def test_no_client_library_is_imported(config, arguments):
    arguments = [str(config) if argument == "CONFIG" else argument for argument in arguments]
    script = (
        "import sys; from streamserve.cli import main\n"
        f"try: main({arguments!r})\n"
        "except SystemExit: pass\n"
        "heavy = {'confluent_kafka', 'redis', 'onnxruntime', 'numpy', 'prometheus_client', 'torch'}\n"
        "sys.stderr.write(f'loaded: {sorted(heavy & set(sys.modules))}')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == "loaded: []"


def test_python_m_streamserve_is_the_same():
    done = subprocess.run(
        [sys.executable, "-m", "streamserve", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "streamserve 0.1.0\n"


def test_an_exit_code_has_one_meaning():
    assert set(cli.EXIT_CODES) == {0, 1, 2, 3, 69, 78, 130, 143}
