"""The check of a new version, in a process of its own: a model that crashes its runtime must not take us along."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import msgspec

from streamserve.errors import StreamServeError
from streamserve.retrain.loop import Trial

TIMEOUT_S = 900.0
PASSED, NOT_MET, WRONG = 0, 3, 78


class _Output(msgspec.Struct, frozen=True):
    name: str
    mean: float


class _Checked(msgspec.Struct, frozen=True):
    """What `streamserve model check --format json` writes, as far as it is needed."""

    rows: int
    problems: list[str]
    outputs: list[_Output]


def check_apart(
    options: Sequence[str],
    version: str,
    against: str,
    *,
    rows: int,
    max_difference: float | None,
    stop: Callable[[], bool],
) -> Trial:
    """Run `streamserve model check`.

    Args:
        options: those that name the configuration.
        version: the new version.
        against: the version it is held against.
        rows: newest recorded rows to try it on.
        max_difference: largest mean absolute difference of an output; None: any.
        stop: asked ten times a second; ends it.

    Raises:
        StreamServeError: the check could not be made.
    """
    command = [sys.executable, "-m", "streamserve", "model", "check", version, *options, "--format", "json"]
    command += ["--against", against, "--rows", str(rows)]
    command += ["--max-difference", repr(max_difference)] if max_difference is not None else []
    code, out, told = _run(command, stop)
    if code in {PASSED, NOT_MET} and out:
        found = msgspec.json.decode(out, type=_Checked)
        figures = {f"mean_difference_{output.name}": output.mean for output in found.outputs}
        return Trial(problems=tuple(found.problems), rows=found.rows, figures=figures)
    if code < 0:
        return Trial(problems=(f"version {version} ends the process that tries it ({signal.Signals(-code).name})",))
    if code == WRONG:
        return Trial(problems=(told,))
    raise StreamServeError(f"version {version} could not be tried: {told or f'exit {code}'}", version=version)


def _run(command: Sequence[str], stop: Callable[[], bool]) -> tuple[int, bytes, str]:
    """Exit code (minus a signal's number), standard output, and the last line of the errors."""
    until_s = time.monotonic() + TIMEOUT_S
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0
    ) as process:
        while True:
            try:
                out, errors = process.communicate(timeout=0.1)
                break
            except subprocess.TimeoutExpired:
                if stop() or time.monotonic() > until_s:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.communicate()
                    why = "stopped with us" if stop() else f"no answer within {TIMEOUT_S:g} s"
                    raise StreamServeError(f"the check was ended: {why}") from None
    lines = errors.decode("utf-8", "replace").strip().splitlines()
    return process.returncode, out, lines[-1].removeprefix("error: ") if lines else ""
