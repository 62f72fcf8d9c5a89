"""The workers of the demo: `streamserve run` as a user would start it, in processes of its own.

Starts it on the shipped pipeline, waits until every slot is ready, and drains it by SIGTERM.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from streamserve.demo.served import Served, first_port, ready, settings

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
        folder: for the log, which stays, and the state, which does not.
    """

    def __init__(
        self, config: Path, overrides: Mapping[str, str], workers: int, port: int | None, folder: Path
    ) -> None:
        self._workers = workers
        self._port = port or first_port(DEFAULT_PORT, workers)
        self._state = folder / "state"
        own = {"http.port": str(self._port), "state_dir": str(self._state)}
        arguments = ["run", "--config", str(config), *settings({**overrides, **own})]
        arguments += ["--workers", str(workers), "--slot", "demo"]
        self._served = Served("the workers", arguments, folder / "workers.log", self._state)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.callback(shutil.rmtree, self._state, ignore_errors=True)
        self._stack.enter_context(self._served)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def log(self) -> Path:
        """The file with the log lines of all workers."""
        return self._served.log

    @property
    def metrics(self) -> str:
        """Address of the first worker's metrics."""
        return f"http://127.0.0.1:{self._port}/metrics"

    def start(self) -> None:
        """Start them; returns when all are ready. Raises: LocalServiceError, with the end of the log."""
        self._served.start()
        deadline_s = time.monotonic() + READY_TIMEOUT_S
        waiting = [self._port + index for index in range(self._workers)]
        while waiting := [port for port in waiting if not ready(port)]:
            self.check()
            if time.monotonic() > deadline_s:
                raise self._served.late(f"were not ready after {READY_TIMEOUT_S:.0f} s")
            time.sleep(READY_POLL_S)

    def check(self) -> None:
        """Raises: StreamServeError, when they have ended."""
        self._served.check()

    def drain(self) -> None:
        """SIGTERM: finish what is in flight, commit, end."""
        self._served.stop(DRAIN_TIMEOUT_S)
