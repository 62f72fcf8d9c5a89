"""`streamserve sidecar` before it starts: what it refuses, and with which word."""

from __future__ import annotations

import importlib.util

import pytest

from streamserve import cli

GOOD = """\
pipeline: flights
kafka: {bootstrap.servers: 'localhost:1'}
input: {topics: [flights.departures]}
features: [{name: x}]
model: {name: m}
output: {topic: flights.predictions}
dead_letter: {topic: flights.departures.dlq}
"""


@pytest.fixture
def run(tmp_path, capsys):
    def run(text):
        file = tmp_path / "streamserve.yaml"
        file.write_text(text)
        with pytest.raises(SystemExit) as ended:
            cli.main(["sidecar", "-c", str(file)])
        written = capsys.readouterr()
        assert "Traceback" not in written.err
        return ended.value.code, written.err

    return run


def test_without_a_drift_block_there_is_nothing_to_do(run):
    code, said = run(GOOD)
    assert code == 78
    assert "drift: missing" in said
    assert "drift: {}" in said


def test_a_missing_extra_is_one_line_that_says_what_to_install(run, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "streamserve.cli.sidecar.importlib.util.find_spec", lambda name: None if name == "faust" else find(name)
    )
    code, said = run(GOOD + "drift: {}\n")
    assert code == 78
    assert said.strip().splitlines()[-1] == 'error: the sidecar needs faust: pip install "streamserve[sidecar]"'


def test_security_that_cannot_be_translated_is_refused_before_anything_starts(run):
    secured = GOOD.replace(
        "{bootstrap.servers: 'localhost:1'}",
        "{bootstrap.servers: 'localhost:1', security.protocol: sasl_ssl, sasl.mechanism: OAUTHBEARER}",
    )
    code, said = run(secured + "drift: {}\n")
    assert code == 78
    assert "cannot use OAUTHBEARER" in said
