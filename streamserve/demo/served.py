"""A `streamserve` process of the demo that answers on an HTTP port: started, asked whether it is ready, ended.

What it logs goes to a file that stays, for whoever wants to know more; it is never left behind, not even by a
SIGKILL of this process.
"""

from __future__ import annotations

import http.client
import sys
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Self

from streamserve.demo.local_process import LocalProcess, Watchdog, accepts, free_ports, tail
from streamserve.errors import StreamServeError

LOG_LINES = 6


class Served:
    """One `streamserve` process; a context manager that kills what `stop` has not ended.

    Args:
        name: for messages, such as `the workers`.
        arguments: of `streamserve`.
        log: file that receives what it says.
        folder: removed when this process dies before it was ended; None: nothing is.
    """

    def __init__(self, name: str, arguments: Sequence[str], log: Path, folder: Path | None = None) -> None:
        self.log = log
        self._process = LocalProcess(name, [sys.executable, "-m", "streamserve", *arguments], log)
        self._watchdog = Watchdog(folder)

    def __enter__(self) -> Self:
        self._watchdog.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._watchdog.close()

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.alive

    def start(self) -> None:
        """Start it; it is ready some time later."""
        self._process.start()
        self._watchdog.guard(self._process.pid)

    def check(self) -> None:
        """Raises: StreamServeError, when it has ended."""
        if not self._process.alive:
            raise StreamServeError(
                f"{self._process.name} ended. Last lines of {self.log}:\n{tail(self.log, LOG_LINES)}"
            )

    def late(self, what: str) -> StreamServeError:
        """An error about a process that runs, with the end of its log."""
        return self._process.failure(what)

    def stop(self, timeout_s: float) -> None:
        """SIGTERM, and SIGKILL when it is still there after `timeout_s`."""
        self._process.terminate(timeout_s)


def first_port(preferred: int, count: int = 1) -> int:
    """The preferred port if it and the next ones, `count` in all, are free, else the first of others that are."""
    port = preferred
    while any(accepts(port + index) for index in range(count)):
        port = free_ports(1)[0]
    return port


def fetch(port: int, path: str, timeout_s: float = 2.0) -> bytes | None:
    """What a port on loopback answers to a GET, when it does with 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.read() if answer.status == HTTPStatus.OK else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def ready(port: int) -> bool:
    """Whether what listens there says that it is ready."""
    return fetch(port, "/v2/health/ready") is not None


def settings(overrides: dict[str, str]) -> list[str]:
    """Overrides as `--set` takes them."""
    return [word for key, value in overrides.items() for word in ("--set", f"{key}={value}")]
