"""The workers of the demo: `streamserve run` as a user would start it, in processes of its own.

Starts it on the shipped pipeline, waits until every slot is ready, drains it by SIGTERM, and never leaves it
behind. What it logs goes to a file that stays, for whoever wants to know more.
"""

from __future__ import annotations

import http.client
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Self

from streamserve.demo.local_process import LocalProcess, LocalServiceError, Watchdog, accepts, free_ports, tail
from streamserve.errors import StreamServeError

DEFAULT_PORT = 8080
READY_TIMEOUT_S = 90.0
READY_POLL_S = 0.05
DRAIN_TIMEOUT_S = 50.0


class DemoWorkers:
    """`streamserve run` on `config`; a context manager that kills what `drain` has not ended.

    Args:
        config: the pipeline.
        overrides: settings by key, as `--set` takes them.
        workers: how many slots.
        port: HTTP port of the first slot; default 8080, or free ones where that is taken.
    """

    def __init__(self, config: Path, overrides: Mapping[str, str], workers: int, port: int | None) -> None:
        self._config = config
        self._overrides = dict(overrides)
        self._workers = workers
        self._wanted_port = port
        self._port = 0
        self._folder = Path()
        self._process: LocalProcess | None = None
        self._watchdog: Watchdog | None = None

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="streamserve-demo-"))
        self._port = self._wanted_port or _port(self._workers)
        self._process = LocalProcess("the workers", self._command(), self.log)
        self._watchdog = Watchdog(self._state).__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.kill()
        shutil.rmtree(self._state, ignore_errors=True)
        if self._watchdog is not None:
            self._watchdog.close()

    @property
    def log(self) -> Path:
        """The file with the log lines of all workers."""
        return self._folder / "workers.log"

    @property
    def metrics(self) -> str:
        """Address of the first worker's metrics."""
        return f"http://127.0.0.1:{self._port}/metrics"

    def start(self) -> None:
        """Start them; returns when all are ready. Raises: LocalServiceError, with the end of the log."""
        process = self._running()
        process.start()
        if self._watchdog is not None:
            self._watchdog.guard(process.pid)
        deadline_s = time.monotonic() + READY_TIMEOUT_S
        waiting = [self._port + index for index in range(self._workers)]
        while waiting := [port for port in waiting if not _ready(port)]:
            self.check()
            if time.monotonic() > deadline_s:
                raise process.failure(f"were not ready after {READY_TIMEOUT_S:.0f} s")
            time.sleep(READY_POLL_S)

    def check(self) -> None:
        """Raises: StreamServeError, when they have ended."""
        process = self._running()
        if not process.alive:
            raise StreamServeError(f"the workers ended. Last lines of {self.log}:\n{tail(self.log, 6)}")

    def drain(self) -> None:
        """SIGTERM: finish what is in flight, commit, end."""
        self._running().terminate(DRAIN_TIMEOUT_S)

    @property
    def _state(self) -> Path:
        return self._folder / "state"

    def _running(self) -> LocalProcess:
        if self._process is None:
            raise LocalServiceError("these workers are not started")
        return self._process

    def _command(self) -> list[str]:
        settings = {**self._overrides, "http.port": str(self._port), "state_dir": str(self._state)}
        command = [sys.executable, "-m", "streamserve", "run", "--config", str(self._config)]
        for key, value in settings.items():
            command += ["--set", f"{key}={value}"]
        return [*command, "--workers", str(self._workers), "--slot", "demo"]


def _port(workers: int) -> int:
    """The default port if it and the next ones are free, else others that are."""
    first = DEFAULT_PORT
    while any(accepts(first + index) for index in range(workers)):
        first = free_ports(1)[0]
    return first


def _ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/v2/health/ready")
        return connection.getresponse().status == HTTPStatus.OK
    except OSError:
        return False
    finally:
        connection.close()
