"""Processes that belong to a local service: start, signal, identify, and never leave behind.

Owns one child process as a value with a name (`LocalProcess`), the watchdog that ends the children when their
parent dies, the choice of free loopback ports and the place of the cache folder. Refuses to know what runs in
the process: Kafka and Redis say that in `local_kafka` and `local_redis`. Standard library only; Linux only,
because a process is told from a later one with the same number by its start time in `/proc`.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

from streamserve.errors import StreamServeError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

PORTS = range(15_000, 32_000)  # below Linux' ephemeral range: no client socket can take a restarted service's port
_WATCHDOG = Path(__file__).with_name("watchdog.py")


class LocalServiceError(StreamServeError):
    """A local service could not be had or did not start; the message says how to mend it."""

    exit_code = 69


class LocalProcess:
    """One child process with a log file.

    Args:
        name: for messages, such as `broker 2`.
        command: program and arguments.
        log: file that receives stdout and stderr, appended.
    """

    def __init__(self, name: str, command: Sequence[str], log: Path) -> None:
        self.name = name
        self.command = list(command)
        self.log = log
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id. Raises LocalServiceError before the first start."""
        if self._child is None:
            raise LocalServiceError(f"{self.name} was never started")
        return self._child.pid

    @property
    def alive(self) -> bool:
        """Whether the process exists; a paused one does."""
        return self._child is not None and self._child.poll() is None

    def start(self) -> None:
        """Start the process in a session of its own, so that a Ctrl-C here does not reach it."""
        if self.alive:
            raise LocalServiceError(f"{self.name} runs already, pid {self.pid}")
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; no effect on a process that has ended."""
        if self._child is not None:
            self._child.send_signal(number)

    def kill(self) -> None:
        """End it by SIGKILL and reap it; a paused one too."""
        self.signal(signal.SIGKILL)
        if self._child is not None:
            self._child.wait()

    def terminate(self, timeout_s: float) -> None:
        """End it by SIGTERM, and by SIGKILL when it is still there after `timeout_s`."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        if self._child is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(timeout_s)
        self.kill()

    def failure(self, what: str) -> LocalServiceError:
        """An error that says what went wrong, with the end of the log."""
        code = None if self._child is None else self._child.poll()
        state = "is still running" if code is None else f"ended with {code}"
        return LocalServiceError(f"{self.name} {what}; it {state}. Last lines of {self.log}:\n{tail(self.log)}")


class Watchdog:
    """Ends processes and removes a folder when this process dies, however it dies.

    A small Python process that reads our pipe. It is used instead of PR_SET_PDEATHSIG because that signal
    also comes when only the *thread* that started the child ends, and fault tests restart brokers from
    threads.

    Args:
        folder: removed as well, or None.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._child = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_WATCHDOG), str(self._folder or "")],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def guard(self, pid: int) -> None:
        """End `pid` when we die."""
        child_id = identity(pid)
        if child_id is not None:
            self._send(f"guard {pid} {child_id}\n")

    def close(self) -> None:
        """Let go: nothing is ended or removed any more."""
        if self._child is None:
            return
        self._send("release\n")
        stdin = self._child.stdin
        if stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                stdin.close()
        self._child.wait(10)
        self._child = None

    def _send(self, line: str) -> None:
        stdin: IO[bytes] | None = None if self._child is None else self._child.stdin
        if stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                stdin.write(line.encode())
                stdin.flush()


def identity(pid: int) -> str | None:
    """What tells this process from any other that had or will have its number; None when there is none.

    A zombie counts as none.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # the name in parentheses may hold anything; see proc(5)
    return None if fields[0] in "ZX" else f"{boot}:{fields[19]}"


def free_ports(count: int) -> list[int]:
    """`count` different TCP ports on loopback that nothing listens on right now."""
    with contextlib.ExitStack() as held:
        found: list[int] = []
        for port in random.SystemRandom().sample(PORTS, len(PORTS)):
            if len(found) == count:
                break
            probe = held.enter_context(socket.socket())
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                found.append(port)
        if len(found) < count:
            raise LocalServiceError(f"no {count} free TCP ports between {PORTS.start} and {PORTS.stop}")
        return found


def cache_dir() -> Path:
    """Where downloads and service state go: `$STREAMSERVE_CACHE_DIR`, the checkout, or the home folder."""
    chosen = os.environ.get("STREAMSERVE_CACHE_DIR")
    if chosen:
        return Path(chosen).absolute()
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "pyproject.toml").is_file() and (checkout / "scripts").is_dir():
        return checkout / ".cache"
    return Path.home() / ".cache" / "streamserve"


def wait_until(ready: Callable[[], bool], timeout_s: float, failed: Callable[[], LocalServiceError | None]) -> bool:
    """Poll `ready` until it is true or `timeout_s` is over; raise what `failed` returns meanwhile."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        error = failed()
        if error is not None:
            raise error
        if ready():
            return True
        time.sleep(0.05)
    return False


def accepts(port: int) -> bool:
    """Whether something on loopback takes a TCP connection on this port."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=0.5):
            return True
    except OSError:
        return False


def tail(path: Path, lines: int = 15) -> str:
    """The last lines of a text file, or an empty string."""
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""
