"""Runs pipelines as users do: a folder, the environment, and `streamserve` in processes of their own."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import streamserve.demo.flights
from tests.services import unique

PROGRAMS = Path(sys.executable).parent
FLIGHTS = Path(streamserve.demo.flights.__file__).parent


def free_port() -> int:
    """A port that nobody has at the moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def environment(**more: str) -> dict[str, str]:
    """The process's own, without settings of streamserve, with its programs first on the path."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STREAMSERVE_")}
    return {**kept, "PATH": f"{PROGRAMS}{os.pathsep}{os.environ.get('PATH', '')}", "NO_COLOR": "1", **more}


def flights_folder(target: Path) -> str:
    """Copy the demo's pipeline folder; its pipeline and topics get a prefix of their own. Returns: the prefix."""
    prefix = unique("flights").replace("_", "-")
    shutil.copytree(FLIGHTS / "models", target / "models")
    shutil.copytree(FLIGHTS / "topics", target / "topics")
    shutil.copy(FLIGHTS / "streamserve.yaml", target)
    for path in [target / "streamserve.yaml", *(target / "topics").glob("*.yaml")]:
        text = re.sub(
            r"\bflights\.(departures|predictions|samples|drift|labels|rollout|shadow)\b",
            rf"{prefix}.\1",
            path.read_text(),
        )
        text = text.replace("schemas/" + prefix, "schemas/flights")
        path.write_text(text.replace("pipeline: flights", f"pipeline: {prefix}"))
    return prefix


def run(
    command: Sequence[str], folder: Path, env: Mapping[str, str], *, timeout_s: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run to the end; its output as text. Raises: AssertionError when it does not end with 0."""
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=timeout_s, check=False)
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done


@contextlib.contextmanager
def running(
    command: Sequence[str], folder: Path, env: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """A process with a group of its own, which does not outlive the block."""
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, cwd=folder, env=env, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def wait_ready(port: int, process: subprocess.Popen[bytes], log: Path, *, timeout_s: float = 60) -> None:
    """Wait until a worker answers that it is ready."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        assert process.poll() is None, f"ended with {process.returncode}:\n{log.read_text()}"
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=2) as answer,
        ):
            assert answer.status == 200
            return
        time.sleep(0.1)
    raise AssertionError(f"not ready within {timeout_s} s:\n{log.read_text()}")


def drained(process: subprocess.Popen[bytes], log: Path, *, timeout_s: float = 40) -> None:
    """Ask it to stop; it must end with 0."""
    process.terminate()
    assert process.wait(timeout_s) == 0, log.read_text()


def tailed(folder: Path, env: Mapping[str, str], count: int, *options: str) -> list[dict[str, object]]:
    """The oldest `count` predictions, waited for."""
    command = ["streamserve", "tail", "--from", "beginning", "-n", str(count), "--format", "json", *options]
    return [json.loads(line) for line in run(command, folder, env).stdout.splitlines()]
