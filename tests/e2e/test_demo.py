"""`streamserve demo` as a user runs it: exact counts, both brokers, Ctrl-C, nothing left behind, an installed wheel."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from streamserve.demo.flights import bad_events
from streamserve.demo.sidecar import missing_packages

ROOT = Path(__file__).resolve().parents[2]
BAD = len(bad_events())
COMMAND = [sys.executable, "-m", "streamserve", "demo"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def environment(tmp_path):
    """The environment of a run whose processes can be told by their temporary folder."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    return {**os.environ, "TMPDIR": str(temporary)}


@pytest.fixture
def bare(environment, tmp_path):
    """As `environment`, on a machine without Java and Redis."""
    empty = tmp_path / "bin"
    empty.mkdir()
    return {**{k: v for k, v in environment.items() if k != "JAVA_HOME"}, "PATH": str(empty)}


def processes_of(environment):
    """Process ids whose environment has this run's temporary folder."""
    mark = f"TMPDIR={environment['TMPDIR']}\0".encode()
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                variables = folder.joinpath("environ").read_bytes() + b"\0"
            except OSError:
                continue
            if mark in variables:
                found.append(int(folder.name))
    return found


def nothing_left(environment):
    deadline = time.monotonic() + 10
    while left := processes_of(environment):
        if time.monotonic() > deadline:
            return [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in left]
        time.sleep(0.05)
    return []


def run(environment, *options, command=None):
    done = subprocess.run(
        [*(command or COMMAND), *options],
        env=environment, capture_output=True, text=True, check=False, timeout=240, cwd=environment["TMPDIR"],
    )  # fmt: skip
    assert nothing_left(environment) == []
    return done


def start(environment, *options):
    return subprocess.Popen(
        [*COMMAND, *options], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(process, text):
    for line in process.stderr:
        if text in line:
            return
    raise AssertionError(f"the demo ended with {process.wait()} and never said {text!r}")


def assert_exact(summary, events):
    assert summary["events"] == events
    assert summary["lost"] == 0
    assert summary["duplicated"] == 0
    assert summary["out_of_order"] == 0
    assert summary["dead_letters"] == BAD
    assert summary["predictions"] == events - BAD
    assert set(summary["latency_ms"]) == {"p50", "p95", "p99"}


@pytest.mark.usefixtures("kafka_jars")
@pytest.mark.skipif(shutil.which("redis-server") is None, reason="no redis-server")
def test_on_real_kafka_and_redis_nothing_is_lost_or_duplicated_and_the_bad_events_are_dead_letters(environment):
    done = run(environment, "--events", "20000", "--rate", "5000", "--format", "json", "--workers", "2")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert_exact(summary, 20_000)
    assert summary["reasons"] == {"decode": 3, "schema": 3, "out_of_range": 2, "missing_feature": 1}
    assert (summary["broker"].split()[0], summary["cache"]) == ("Apache", "Redis")
    assert summary["guarantee"] == "exactly_once"


@pytest.mark.usefixtures("kafka_jars")
@pytest.mark.skipif(missing_packages() is not None, reason=str(missing_packages()))
def test_the_sidecar_names_what_was_injected_and_joins_the_labels_of_flights_that_landed(environment):
    done = run(environment, "--broker", "kafka", "--events", "28000", "--inject", "shift@5", "--format", "json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert_exact(summary, 28_000)
    drift = summary["drift"]
    assert drift["looks"] > 20
    assert drift["incidents"] >= 1
    assert "dep_delay" in drift["drifted"]
    assert "dep_delay" in drift["named"]
    assert 27_000 < drift["labels"] < 28_000, "those of the last hours are in the air"
    assert drift["labels_joined"] > 0.9 * drift["labels"]
    assert f"drift dashboard {drift['dashboard']}" in done.stderr
    (log,) = Path(environment["TMPDIR"]).glob("streamserve-demo-*/sidecar.log")
    assert "sidecar_stopped" in log.read_text().splitlines()[-1]


def test_the_embedded_broker_needs_neither_java_nor_redis(bare):
    done = run(bare, "--broker", "embedded", "--events", "3000", "--rate", "2000", "--format", "json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert_exact(summary, 3000)
    assert (summary["broker"], summary["cache"]) == ("embedded broker", "in-process cache")
    assert summary["guarantee"] == "at_least_once"
    assert summary["drift"] is None
    assert "no drift sidecar: it publishes by transactions" in done.stderr


def test_a_fault_that_is_not_known_is_a_usage_error_before_anything_starts(bare):
    done = run(bare, "--inject", "gremlins")
    assert done.returncode == 2
    assert "stuck-sensor" in done.stderr
    assert "starting" not in done.stderr


def test_auto_takes_the_embedded_broker_where_there_is_no_java_and_says_so(bare):
    done = run(bare, "--events", "500")
    assert done.returncode == 0, done.stderr
    assert "no real Kafka here" in done.stderr
    assert "lost" in done.stdout


def test_real_kafka_that_cannot_be_had_ends_with_69_and_the_remedy(bare):
    done = run(bare, "--broker", "kafka")
    assert done.returncode == 69
    assert "--broker embedded" in done.stderr
    assert "Traceback" not in done.stderr


def test_workers_that_cannot_start_end_it_with_their_log(bare):
    done = run({**bare, "STREAMSERVE_ENGINE__MAX_BATCH_SIZE": "many"}, "--broker", "embedded", "--events", "10")
    assert done.returncode == 78, done.stderr
    assert "max_batch_size" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_in_the_middle_ends_with_an_exact_summary(bare, number):
    process = start(bare, "--broker", "embedded", "--rate", "500", "--format", "json")
    wait_for(process, "predictions")
    time.sleep(2)
    process.send_signal(number)
    output, errors = process.communicate(timeout=90)
    assert process.returncode == 0, errors
    summary = json.loads(output)
    assert 0 < summary["events"] < 10_000
    assert (summary["lost"], summary["duplicated"]) == (0, 0)
    assert nothing_left(bare) == []


def test_ctrl_c_during_the_set_up_leaves_nothing(bare):
    process = start(bare, "--broker", "embedded")
    wait_for(process, "starting the embedded broker")
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "stopped before anything was sent" in errors
    assert output == ""
    assert nothing_left(bare) == []


def test_a_second_ctrl_c_ends_it_at_once(bare):
    process = start(bare, "--broker", "embedded")
    wait_for(process, "predictions")
    process.send_signal(signal.SIGINT)
    time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130
    assert nothing_left(bare) == []


def test_a_killed_demo_takes_everything_along(bare):
    process = start(bare, "--broker", "embedded")
    wait_for(process, "predictions")
    process.kill()
    process.communicate()
    assert nothing_left(bare) == []


def test_workers_that_end_in_the_middle_end_it_with_1_and_their_log(bare):
    process = start(bare, "--broker", "embedded")
    wait_for(process, "predictions")
    [supervisor] = [pid for pid in processes_of(bare) if b"\0run\0" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(supervisor, signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "the workers ended" in errors
    assert "workers.log" in errors
    assert nothing_left(bare) == []


def test_it_runs_from_an_installed_wheel(environment, tmp_path):
    environment.pop("PYTHONPATH", None)
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT)],
        check=True, capture_output=True,
    )  # fmt: skip
    [wheel] = tmp_path.glob("*.whl")
    fresh = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(fresh)], check=True)
    python = str(fresh / "bin" / "python")
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"{wheel}[cpu]"], check=True
    )
    done = run(
        environment, "--broker", "embedded", "--events", "1000", "--format", "json",
        command=[str(fresh / "bin" / "streamserve"), "demo"],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert_exact(json.loads(done.stdout), 1000)
