"""Runs the training command: no shell, few variables of the environment, an end in time, its output in our log."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from streamserve.errors import StreamServeError

ALWAYS = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV")
GRACE_S = 10.0
"""Between asking it to end and ending it."""
LAST_LINES = 20
LINE_CHARS = 500


class TrainingFailed(StreamServeError):
    """The command did not give a model; the message has its last lines."""


def run_command(
    command: Sequence[str],
    *,
    folder: Path,
    variables: Mapping[str, str],
    passed_on: Sequence[str],
    timeout_s: float,
    stop: Callable[[], bool],
    line: Callable[[str], None],
) -> None:
    """Run it to its end.

    Args:
        command: program and arguments.
        folder: working directory.
        variables: ours for it.
        passed_on: further variables of our own environment that it may see.
        timeout_s: after so long it is ended, and everything it started.
        stop: asked ten times a second; ends it too.
        line: gets every line it writes, to either stream.

    Raises:
        TrainingFailed: it cannot be started, failed, took too long, or was stopped.
    """
    environment = {name: os.environ[name] for name in (*ALWAYS, *passed_on) if name in os.environ}
    try:
        process = subprocess.Popen(
            list(command),
            cwd=folder,
            env={**environment, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
    except OSError as error:
        raise TrainingFailed(f"retrain.command cannot be started: {error}") from error
    last: list[str] = []
    reader = threading.Thread(target=_read, args=(process.stdout, last, line), daemon=True)
    reader.start()
    why = _wait(process, timeout_s, stop)
    _end(process)  # in any case: what it left behind would hold its output open, and go on working on what is pushed
    reader.join(GRACE_S)
    if why or process.returncode:
        how = why or (f"ended with {process.returncode}" if process.returncode > 0 else _by_signal(process.returncode))
        tail = "".join(f"\n    {text}" for text in last)
        raise TrainingFailed(f"retrain.command {how}{'; its last lines:' + tail if tail else ''}")


def _wait(process: subprocess.Popen[bytes], timeout_s: float, stop: Callable[[], bool]) -> str:
    """Until it ends. Returns: why it must be ended, or nothing."""
    waited = 0.0
    while waited < timeout_s:
        if stop():
            return "was stopped with us"
        try:
            process.wait(0.1)
            return ""
        except subprocess.TimeoutExpired:
            waited += 0.1
    return f"took longer than {timeout_s:g} s (retrain.timeout_s)"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End its whole group: ask first, unless it has ended by itself and only others are left."""
    for number in (signal.SIGTERM, signal.SIGKILL) if process.poll() is None else (signal.SIGKILL,):
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, number)
            process.wait(GRACE_S)


def _read(stream: IO[bytes] | None, last: list[str], line: Callable[[str], None]) -> None:
    """To its end, which comes when nobody of the group is left to write; closes it."""
    with contextlib.closing(stream) if stream is not None else contextlib.nullcontext():
        for data in stream or ():
            text = data.decode("utf-8", "replace").rstrip()[:LINE_CHARS]
            last.append(text)
            del last[:-LAST_LINES]
            line(text)


def _by_signal(code: int) -> str:
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
