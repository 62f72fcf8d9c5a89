"""A real Redis (or Valkey) on a free loopback port, without persistence.

Owns the life of one server process: start, readiness, faults (`kill`, `pause`, `resume`, `restart`), end.
Refuses to keep data: a restart is an empty cache, which is what the cache must survive. The same shape as
`local_kafka`.

    with LocalRedis() as server:
        client = redis.Redis.from_url(server.url)
"""

from __future__ import annotations

import shutil
import signal
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

from streamserve.demo.local_process import LocalProcess, LocalServiceError, Watchdog, free_ports, wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

__all__ = ["LocalRedis", "LocalServiceError", "redis_available"]

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 10.0
_PROGRAMS = ("redis-server", "valkey-server")
_HINT = (
    "no `redis-server` or `valkey-server` on the PATH: on Debian or Ubuntu `apt-get install redis-server`, "
    "on Fedora `dnf install valkey`"
)


def redis_available() -> str | None:
    """Why no server can run here, or None when one can."""
    return None if _program() else _HINT


class LocalRedis:
    """One Redis server on loopback; a context manager.

    Args:
        port: default a free one.
        overrides: directives for the command line, such as `{"replicaof": "127.0.0.1 6390"}`.

    Raises:
        LocalServiceError: from `start`, with the end of the server's log.
    """

    def __init__(self, *, port: int | None = None, overrides: Mapping[str, str] | None = None) -> None:
        self.data_dir: Path | None = None
        self._port = port
        self._overrides = dict(overrides or {})
        self._process: LocalProcess | None = None
        self._watchdog: Watchdog | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def port(self) -> int:
        """TCP port on 127.0.0.1."""
        if self._port is None:
            raise LocalServiceError("this LocalRedis is not started")
        return self._port

    @property
    def url(self) -> str:
        """`redis://` address of database 0."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """Process id of the server, a new one after `restart`."""
        return self._running().pid

    @property
    def alive(self) -> bool:
        """Whether the process exists; a paused one does."""
        return self._process is not None and self._process.alive

    def start(self, *, outlive: bool = False) -> None:
        """Start the server; returns when it answers PING.

        Args:
            outlive: the server goes on when this process ends. Otherwise it dies with it, even by SIGKILL.
        """
        if self._process is not None:
            raise LocalServiceError("this LocalRedis runs already")
        program = _program()
        if program is None:
            raise LocalServiceError(_HINT)
        self._port = self._port or free_ports(1)[0]
        self.data_dir = Path(tempfile.mkdtemp(prefix="streamserve-redis-"))
        self._process = LocalProcess("redis", self._command(program, self.data_dir), self.data_dir / "redis.log")
        try:
            if not outlive:
                self._watchdog = Watchdog(self.data_dir).__enter__()
            self._launch(self._process)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the server and remove its folder. Safe to call twice."""
        if self._process is not None:
            self._process.kill()
            self._process = None
        if self.data_dir is not None:
            shutil.rmtree(self.data_dir, ignore_errors=True)
            self.data_dir = None
        if self._watchdog is not None:
            self._watchdog.close()
            self._watchdog = None

    def kill(self) -> None:
        """SIGKILL: connections break, the data is gone."""
        self._running().kill()

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        self._running().signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._running().signal(signal.SIGCONT)

    def shutdown(self) -> None:
        """SIGTERM and wait: an orderly end; connections are closed by the server."""
        self._running().terminate(STOP_TIMEOUT_S)

    def restart(self) -> None:
        """Start again on the same port, empty; kills it first if it still runs."""
        process = self._running()
        process.kill()
        self._launch(process)

    def _launch(self, process: LocalProcess) -> None:
        process.start()
        if self._watchdog is not None:
            self._watchdog.guard(process.pid)

        def died() -> LocalServiceError | None:
            return None if process.alive else process.failure("did not start")

        if not wait_until(lambda: _answers(self.port), START_TIMEOUT_S, died):
            raise process.failure(f"did not answer PING in {START_TIMEOUT_S:.0f} s")

    def _command(self, program: str, folder: Path) -> list[str]:
        settings = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(folder),
            "save": "",
            "appendonly": "no",
            "daemonize": "no",
            **self._overrides,
        }
        command = [program]
        for name, value in settings.items():
            command += [f"--{name}", *(value.split() or [""])]
        return command

    def _running(self) -> LocalProcess:
        if self._process is None:
            raise LocalServiceError("this LocalRedis is not started")
        return self._process


def _program() -> str | None:
    return next((path for path in map(shutil.which, _PROGRAMS) if path), None)


def _answers(port: int) -> bool:
    """Whether a server on loopback answers PING; with a password set, refusing us counts too."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=0.5) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
    except OSError:
        return False
