"""One process of a slot: started afresh, tied to its parent's life, ended by signals.

A child is a new interpreter, never a fork of a running one. It has a process group of its own, so that a
Ctrl-C at the terminal reaches the supervisor only, which then asks the child once; and it dies with its
parent, whatever kills that. Standard output and error are the parent's.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

LAST_EXIT_SIGNAL = "STREAMSERVE_LAST_EXIT_SIGNAL"
"""In a child's environment: number of the signal that ended the slot's last life; absent if none did."""
LAST_EXIT_CODE = "STREAMSERVE_LAST_EXIT_CODE"
"""In a child's environment: exit code of the slot's last life, if it ended itself."""

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended: a signal's number, or an exit code."""

    code: int | None = None
    signal: int | None = None

    @classmethod
    def of(cls, returncode: int) -> Exit:
        """From the return code of `subprocess`, negative for a signal."""
        return cls(signal=-returncode) if returncode < 0 else cls(code=returncode)

    def __str__(self) -> str:
        if self.signal is None:
            return f"exit {self.code}"
        try:
            return signal.Signals(self.signal).name
        except ValueError:  # a real-time signal has no name
            return f"signal {self.signal}"

    def environment(self) -> dict[str, str]:
        """What the next life is told."""
        if self.signal is not None:
            return {LAST_EXIT_SIGNAL: str(self.signal)}
        return {LAST_EXIT_CODE: str(self.code)}


class Child:
    """A running process of a slot. Made by `start`; not thread-safe.

    Args:
        process: the process; its id is that of its group.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    @classmethod
    def start(cls, command: Sequence[str], environment: Mapping[str, str]) -> Child:
        """Start `command`. Must be called on the main thread: the child dies with the thread that started it.

        Raises: OSError when it cannot be started.
        """
        inherited = {k: v for k, v in os.environ.items() if k not in {LAST_EXIT_SIGNAL, LAST_EXIT_CODE}}
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            env={**inherited, **environment},
            process_group=0,
            preexec_fn=_tie_to(os.getpid()),  # noqa: PLW1509  # the supervisor has one thread
        )
        return cls(process)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def ended(self) -> Exit | None:
        """How it ended, or None while it runs. Reaps it."""
        code = self._process.poll()
        return None if code is None else Exit.of(code)

    def ask_to_stop(self) -> None:
        """SIGTERM: drain."""
        self._process.terminate()

    def kill(self) -> None:
        """SIGKILL to its whole group. A process that ended before is left alone."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)

    def wait(self, timeout_s: float) -> bool:
        """Whether it ended within the time."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True


def _tie_to(parent_pid: int) -> Callable[[], None] | None:
    """What the child does before it becomes the command: have the kernel kill it when the parent dies.

    The check after the call closes the gap in which the parent died before it.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def tie() -> None:
        if prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0 or os.getppid() != parent_pid:
            os._exit(1)

    return tie
