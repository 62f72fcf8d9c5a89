"""The supervisor with real child processes that crash, hang, refuse and drain."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from streamserve.kafka.leaving import CLOSE_TIMEOUT_S
from streamserve.worker.child import Exit
from streamserve.worker.supervisor import SlotName, SupervisorSettings, slot_names

HERE = Path(__file__).parent
QUICK = {"drain_timeout_s": 10, "grace_s": 1, "backoff_s": 0.02, "max_backoff_s": 0.05}


class Run:
    """A supervisor's process and what its slots left behind."""

    def __init__(self, folder, behaviour, workers=2, **settings):
        self.folder = folder
        self.stderr = folder / "stderr"
        script = str(HERE / "supervise.py")
        arguments = [str(folder), behaviour, str(workers), json.dumps({**QUICK, **settings})]
        with self.stderr.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, script, *arguments],
                stderr=stderr,
                cwd=HERE.parents[2],
                env={**os.environ, "PYTHONPATH": str(HERE.parents[2]), "STREAMSERVE_LAST_EXIT_SIGNAL": "99"},
                start_new_session=True,
            )

    def lives(self, index):
        """`pid name last_signal last_code` of every life of a slot, in order."""
        traces = sorted(self.folder.glob(f"{index}.*.life"), key=lambda path: int(path.name.split(".")[1]))
        return [trace.read_text().split() for trace in traces]

    def wait_for(self, condition, what, within_s=15):
        until = time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < until, f"{what} did not come about: {self.stderr.read_text()}"
            time.sleep(0.01)

    def wait_for_lives(self, *counts):
        self.wait_for(lambda: all(len(self.lives(i)) >= count for i, count in enumerate(counts)), f"lives {counts}")

    def pids(self):
        return [int(life[0]) for i in range(4) for life in self.lives(i)]

    def send(self, number):
        self.process.send_signal(number)

    def code(self, within_s=15):
        return self.process.wait(within_s)

    def events(self):
        return [json.loads(line) for line in self.stderr.read_text().splitlines()]

    def named(self, event):
        return [line for line in self.events() if line["event"] == event]


@pytest.fixture
def start(tmp_path):
    runs = []

    def start_one(behaviour, **settings):
        runs.append(Run(tmp_path, behaviour, **settings))
        return runs[-1]

    yield start_one
    for run in runs:
        run.process.kill()
        run.process.wait(10)


def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_drains_every_slot_and_ends_with_0(start, number):
    run = start("drain", workers=3)
    run.wait_for_lives(1, 1, 1)
    run.send(number)
    assert run.code() == 0
    assert all((run.folder / f"{i}.drained").exists() for i in range(3))
    assert [life[0][1:] for life in map(run.lives, range(3))] == [[f"test-{i}", "-", "-"] for i in range(3)], (
        "names are stable, and a first life is told of no last one"
    )
    assert [line["exit"] for line in run.named("slot_ended")] == ["exit 0"] * 3


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_kills_at_once(start, number, code):
    run = start("deaf")
    run.wait_for_lives(1, 1)
    run.send(signal.SIGTERM)
    run.wait_for(lambda: run.named("stopping"), "the drain")
    began = time.monotonic()
    run.send(number)
    assert run.code() == code
    assert time.monotonic() - began < 5
    assert not any(alive(pid) for pid in run.pids())


def test_a_slot_that_does_not_drain_in_time_is_killed_and_the_exit_code_says_so(start):
    run = start("deaf", drain_timeout_s=0.2, grace_s=0.1)
    run.wait_for_lives(1, 1)
    run.send(signal.SIGTERM)
    assert run.code() == 1
    assert run.named("drain_overdue")[0]["slots"] == ["test-0", "test-1"]
    assert not any(alive(pid) for pid in run.pids())


def test_a_slot_that_fails_while_draining_makes_the_exit_code_1(start):
    run = start("fail_drain")
    run.wait_for_lives(1, 1)
    run.send(signal.SIGTERM)
    assert run.code() == 1


def test_a_segfault_restarts_that_slot_alone_and_tells_the_next_life(start):
    run = start("segv_once")
    run.wait_for_lives(2, 1)
    run.send(signal.SIGTERM)
    assert run.code() == 0
    assert [life[2:] for life in run.lives(0)] == [["-", "-"], [str(int(signal.SIGSEGV)), "-"]]
    assert len(run.lives(1)) == 1
    assert run.named("slot_restarts")[0]["exit"] == "SIGSEGV"


def test_exit_1_restarts_and_tells_the_code(start):
    run = start("exit1_once", workers=1)
    run.wait_for_lives(2)
    run.send(signal.SIGTERM)
    assert run.code() == 0
    assert run.lives(0)[1][2:] == ["-", "1"]


@pytest.mark.parametrize("code", [78, 69, 2])
def test_a_slot_that_cannot_run_stops_all_with_its_code(start, code):
    run = start(f"first_exits_{code}")
    assert run.code() == code
    assert len(run.lives(0)) == 1
    assert not any(alive(pid) for pid in run.pids())


def test_an_outage_after_a_settled_life_is_waited_out(start):
    run = start("later_exits_69", settled_s=0.3, max_crashes=2)
    run.wait_for_lives(4, 1)
    run.send(signal.SIGTERM)
    assert run.code() == 0


def test_a_configuration_that_turned_bad_later_stops_all(start):
    run = start("later_exits_78", settled_s=0.3)
    assert run.code() == 78


def test_too_many_crashes_in_a_row_end_everything_with_1(start):
    run = start("crash", workers=1, max_crashes=4)
    assert run.code() == 1
    assert len(run.lives(0)) == 4
    assert [line["crashes"] for line in run.named("slot_restarts")] == [1, 2, 3]


def test_crashes_far_apart_do_not_add_up(start):
    run = start("crash", workers=1, max_crashes=3, settled_s=0.0001)
    run.wait_for_lives(6)
    run.send(signal.SIGTERM)
    assert run.code() in {0, 1}  # 1 when the last crash coincides with the stop


def test_waits_grow_and_are_jittered(start):
    run = start("crash", workers=1, max_crashes=6, backoff_s=0.02, max_backoff_s=0.1)
    assert run.code() == 1
    waits = [line["delay_s"] for line in run.named("slot_restarts")]
    for wait, longest in zip(waits, [0.02, 0.04, 0.08, 0.1, 0.1], strict=True):
        assert longest / 2 - 0.001 <= wait <= longest + 0.001


def test_slots_that_are_done_are_not_started_again(start):
    run = start("finish", workers=2)
    assert run.code() == 0
    assert [len(run.lives(0)), len(run.lives(1))] == [1, 1]


def test_children_die_with_a_killed_supervisor(start):
    run = start("deaf")
    run.wait_for_lives(1, 1)
    pids = run.pids()
    assert all(alive(pid) for pid in pids)
    run.process.kill()
    run.process.wait(10)
    run.wait_for(lambda: not any(alive(pid) for pid in pids), "the end of the children")


def test_a_signal_to_the_terminals_group_reaches_the_children_once_through_the_supervisor(start):
    run = start("drain")
    run.wait_for_lives(1, 1)
    os.killpg(run.process.pid, signal.SIGINT)
    assert run.code() == 0
    assert all((run.folder / f"{i}.drained").exists() for i in range(2))


def test_a_command_that_cannot_be_started_counts_as_a_crash(tmp_path):
    code = (
        "import random, sys\n"
        "from streamserve.clock import SystemClock\n"
        "from streamserve.telemetry.logs import Log\n"
        "from streamserve.worker.supervisor import Supervisor, SupervisorSettings, slot_names\n"
        "settings = SupervisorSettings(backoff_s=0.01, max_backoff_s=0.01, max_crashes=2)\n"
        f"missing = {str(tmp_path / 'missing')!r}\n"
        "sys.exit(Supervisor(lambda slot: [missing], slot_names('x', 1), settings=settings, log=Log.open(),\n"
        "    clock=SystemClock(), rng=random.Random(1)).run())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=HERE.parents[2], capture_output=True, timeout=30, check=False
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr.count(b"slot_not_started") == 2


def test_the_supervisor_imports_no_heavy_module():
    code = (
        "import sys, streamserve.worker.supervisor\n"
        "heavy = {'numpy', 'confluent_kafka', 'pydantic', 'prometheus_client', 'typer', 'redis', 'onnxruntime'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=HERE.parents[2], capture_output=True, timeout=30, check=True
    )
    assert done.stdout == b"[]\n"


def test_slot_names_are_stable_and_fit_for_ids():
    assert slot_names("pod-7", 2) == [SlotName(0, "pod-7-0"), SlotName(1, "pod-7-1")]
    assert slot_names("a b/ü..", 1) == [SlotName(0, "a-b-0")]
    assert slot_names("///", 1) == [SlotName(0, "slot-0")]
    assert len(slot_names("x" * 500, 1)[0].name) <= 110
    assert slot_names(None, 1)[0].name.endswith("-0")


def test_an_exit_names_its_signal():
    assert str(Exit.of(-11)) == "SIGSEGV"
    assert str(Exit.of(3)) == "exit 3"
    assert str(Exit.of(-40)) == "signal 40"


def test_a_slot_has_time_to_write_its_cache_and_to_leave_the_group_after_its_drain():
    assert SupervisorSettings().grace_s >= 5 + CLOSE_TIMEOUT_S + 5
