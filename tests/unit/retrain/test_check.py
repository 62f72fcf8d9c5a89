"""The check in a process of its own: what its end means."""

from __future__ import annotations

import sys

import pytest

from streamserve.errors import StreamServeError
from streamserve.retrain.check import check_apart

CHECKED = '{"version":"2","rows":7,"rejected_by_it_alone":0,"problems":%s,"outputs":[{"name":"p","mean":0.25}]}'


@pytest.fixture
def ends(tmp_path, monkeypatch):
    """Stands for the interpreter: a program that ends as the test says."""

    def program(script):
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(path))

    return program


def checked(**changed):
    return check_apart(
        ["-c", "p.yaml"], "2", "1", **{"rows": 7, "max_difference": None, "stop": lambda: False, **changed}
    )


def test_a_version_that_passes(ends, tmp_path):
    passed = CHECKED % "[]"
    ends(f"echo \"$@\" > {tmp_path}/words; echo '{passed}'")
    found = checked(max_difference=0.5)
    assert (found.problems, found.rows, dict(found.figures)) == ((), 7, {"mean_difference_p": 0.25})
    words = "-m streamserve model check 2 -c p.yaml --format json --against 1 --rows 7 --max-difference 0.5"
    assert (tmp_path / "words").read_text().strip() == words


def test_what_speaks_against_it(ends):
    differs = CHECKED % '["it differs"]'
    ends(f"echo '{differs}'; exit 3")
    assert checked().problems == ("it differs",)


def test_a_version_that_crashes_its_process_is_refused(ends):
    ends("kill -SEGV $$")
    assert checked().problems == ("version 2 ends the process that tries it (SIGSEGV)",)


def test_a_version_that_does_not_fit_is_refused_with_the_reason(ends):
    ends("echo noise >&2; echo 'error: the features do not fit' >&2; exit 78")
    assert checked().problems == ("the features do not fit",)


def test_no_broker_is_not_the_versions_fault(ends):
    ends("echo 'error: no broker' >&2; exit 69")
    with pytest.raises(StreamServeError, match="version 2 could not be tried: no broker"):
        checked()


def test_it_ends_with_us(ends):
    ends("sleep 60")
    with pytest.raises(StreamServeError, match="stopped with us"):
        checked(stop=lambda: True)
