"""Failpoints do nothing unless the variable names them, and then exactly what it says."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import streamserve
from streamserve import failpoints

SCRIPT = """
from streamserve import failpoints
for n in range(5):
    failpoints.reach("before_begin")
    failpoints.reach("after_produce")
    print(n, flush=True)
"""


def run(value):
    environment = {**os.environ, failpoints.VARIABLE: value}
    command = [sys.executable, "-c", SCRIPT]
    return subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=60)


def test_without_the_variable_nothing_happens():
    assert failpoints.parse("") is failpoints._nothing
    for name in failpoints.NAMES:
        failpoints.parse("")(name)


def test_kill_is_a_sigkill_at_the_nth_time():
    done = run("after_produce=kill@3")
    assert (done.returncode, done.stdout.split()) == (-signal.SIGKILL, ["0", "1"])


def test_exit_is_status_1_the_first_time():
    done = run("before_begin=exit")
    assert (done.returncode, done.stdout) == (1, "")


def test_stop_stops_the_process_and_it_goes_on_when_continued():
    environment = {**os.environ, failpoints.VARIABLE: "before_begin=stop@2"}
    with subprocess.Popen([sys.executable, "-c", SCRIPT], env=environment, stdout=subprocess.PIPE, text=True) as child:
        _, status = os.waitpid(child.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        child.send_signal(signal.SIGCONT)
        output, _ = child.communicate(timeout=60)
    assert (child.returncode, output.split()) == (0, ["0", "1", "2", "3", "4"])


def test_a_point_that_is_not_named_is_passed():
    done = run("after_send_offsets=kill")
    assert done.returncode == 0


@pytest.mark.parametrize("text", ["nowhere=kill", "before_begin=jump", "before_begin", "before_begin=kill@many"])
def test_a_value_that_makes_no_sense_is_refused(text):
    with pytest.raises(ValueError):  # noqa: PT011
        failpoints.parse(text)


def test_every_name_is_reached_somewhere_and_every_place_has_a_name():
    found: set[str] = set()
    for path in Path(streamserve.__file__).parent.rglob("*.py"):
        found |= set(re.findall(r'failpoints\.reach\("(\w+)"\)', path.read_text(encoding="utf-8")))
    assert found == set(failpoints.NAMES)
