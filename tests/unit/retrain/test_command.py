"""The training command as a process: what it sees, how it ends, what is told of it."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from streamserve.retrain.command import TrainingFailed, run_command


def run(code, *, tmp_path, timeout_s=30.0, stop=lambda: False, variables=None, passed_on=()):
    lines = []
    run_command(
        [sys.executable, "-c", code],
        folder=tmp_path,
        variables=variables or {},
        passed_on=passed_on,
        timeout_s=timeout_s,
        stop=stop,
        line=lines.append,
    )
    return lines


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] == "Z"


def test_its_lines_are_told_and_it_works_in_its_folder(tmp_path):
    lines = run("import os,sys; print(os.getcwd()); print('warn', file=sys.stderr)", tmp_path=tmp_path)
    assert sorted(lines) == sorted([str(tmp_path), "warn"])


def test_it_sees_what_it_may_and_no_secret(tmp_path, monkeypatch):
    monkeypatch.setenv("KAFKA_SASL_PASSWORD", "secret")
    monkeypatch.setenv("DATA_URL", "here")
    code = "import os; print(os.environ.get('KAFKA_SASL_PASSWORD'), os.environ['DATA_URL'], os.environ['RETRAIN_OUT'])"
    lines = run(code, tmp_path=tmp_path, variables={"RETRAIN_OUT": "o"}, passed_on=["DATA_URL", "NOT_THERE"])
    assert lines == ["None here o"]


def test_no_shell_reads_the_arguments(tmp_path):
    lines = []
    run_command(
        [sys.executable, "-c", "import sys; print(sys.argv[1])", "$(touch canary); echo"],
        folder=tmp_path, variables={}, passed_on=[], timeout_s=30, stop=lambda: False, line=lines.append,
    )  # fmt: skip
    assert lines == ["$(touch canary); echo"]
    assert not (tmp_path / "canary").exists()


def test_a_failure_is_told_with_its_last_lines(tmp_path):
    with pytest.raises(TrainingFailed, match=r"ended with 7; its last lines:\n    line 5\n") as error:
        run("print('\\n'.join(f'line {i}' for i in range(25))); raise SystemExit(7)", tmp_path=tmp_path)
    assert "line 4\n" not in str(error.value)
    with pytest.raises(TrainingFailed, match="was ended by SIGKILL"):
        run("import os; os.kill(os.getpid(), 9)", tmp_path=tmp_path)
    with pytest.raises(TrainingFailed, match="cannot be started"):
        run_command(
            ["/nowhere/train"], folder=tmp_path, variables={}, passed_on=[], timeout_s=1,
            stop=lambda: False, line=print,
        )  # fmt: skip


@pytest.mark.parametrize("reason", ["timeout", "stop"])
def test_what_it_started_ends_with_it(tmp_path, reason):
    code = (
        "import subprocess,sys,time;"
        "child=subprocess.Popen([sys.executable,'-c','import time; time.sleep(60)']);"
        "open('pids','w').write(str(child.pid)); time.sleep(60)"
    )
    pids = tmp_path / "pids"
    stop = (lambda: pids.exists() and bool(pids.read_text())) if reason == "stop" else lambda: False
    with pytest.raises(TrainingFailed, match="longer than 3 s" if reason == "timeout" else "stopped with us"):
        run(code, tmp_path=tmp_path, timeout_s=3 if reason == "timeout" else 60, stop=stop)
    child = int(pids.read_text())
    deadline = time.monotonic() + 10
    while not gone(child):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_it_leaves_behind_is_ended_and_nobody_waits_for_it(tmp_path):
    code = (
        "import subprocess, sys;"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
        "open('pids', 'w').write(str(child.pid)); print('done')"
    )
    started_s = time.monotonic()
    assert run(code, tmp_path=tmp_path) == ["done"]
    assert time.monotonic() - started_s < 30
    child = int((tmp_path / "pids").read_text())
    deadline = time.monotonic() + 10
    while not gone(child):
        assert time.monotonic() < deadline
        time.sleep(0.05)
