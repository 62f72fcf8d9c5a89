"""A native crash on one record: the journal finds it, the quarantine keeps it away, everything else is served."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("crashing_slot.py")
MARKED = 107


def life(state_dir, ended, killer="SIGSEGV", marked=MARKED):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(state_dir), "slot-0", str(ended), str(marked), killer],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PYTHONPATH": str(Path(__file__).parents[3])},
    )
    return done.returncode, json.loads(done.stdout) if done.returncode == 0 else done.stderr


def lives(state_dir, killer):
    """Live until a life ends well. Returns: how each ended, and the result of the last."""
    ended, codes = "none", []
    for _ in range(8):
        code, result = life(state_dir, ended, killer)
        codes.append(code)
        if code == 0:
            return codes, result
        assert code < 0, result
        ended = code
    raise AssertionError(codes)


def assert_all_but_the_marked_are_served(result):
    served = [offset for offset in range(100, 116) if offset != MARKED]
    assert result["predicted"] == served
    assert result["outputs"] == [offset * 2 for offset in served]
    assert list(result["rejected"]) == [str(MARKED)]


@pytest.mark.parametrize("killer", ["SIGSEGV", "SIGABRT", "SIGBUS"])
def test_the_record_that_crashes_the_engine_twice_is_dead_lettered_and_the_rest_served(tmp_path, killer):
    codes, result = lives(tmp_path, killer)
    assert codes == [-getattr(signal, killer)] * 2 + [0]
    assert_all_but_the_marked_are_served(result)
    assert result["rejected"][str(MARKED)] == f"the engine crashed on this record (signal {killer})"


def test_after_kills_from_outside_a_record_is_only_given_up_at_its_third_lonely_death(tmp_path):
    codes, result = lives(tmp_path, "SIGKILL")
    assert codes == [-9] * 4 + [0]
    assert_all_but_the_marked_are_served(result)
    assert "died 3 times" in result["rejected"][str(MARKED)]


def test_a_kill_in_the_middle_of_a_good_batch_costs_nobody_his_prediction(tmp_path):
    code, _ = life(tmp_path, "none", "SIGKILL")
    assert code == -9
    code, result = life(tmp_path, code, marked=-1)
    assert code == 0
    assert len(result["predicted"]) == 16
    assert result["rejected"] == {}


def test_a_life_that_ends_well_leaves_nothing_behind(tmp_path):
    assert life(tmp_path, "none", marked=-1)[0] == 0
    code, result = life(tmp_path, "none", marked=-1)
    assert (code, len(result["predicted"])) == (0, 16)
    assert not (tmp_path / "quarantine.json").exists()
