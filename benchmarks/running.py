"""Worker slots as processes of a benchmark: started, asked for their metrics, stopped."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.measure import end


class Slot:
    """A slot's process; a context manager that stops it.

    Args:
        config: `streamserve.yaml`.
        folder: where it is written.
        name: of the slot.
        module: what is run, with its own arguments before the slot's.
    """

    def __init__(self, config: str, folder: Path, name: str, module: Sequence[str] = ("streamserve.slot",)) -> None:
        path = folder / f"{name}.yaml"
        path.write_text(config)
        self._command = [sys.executable, "-m", *module, "--config", str(path), "--slot-name", name]
        self._log = folder / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=log)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self.process is not None
        end(self.process)

    def alive(self) -> bool:
        """True. Raises: RuntimeError, with its log, when it has ended."""
        assert self.process is not None
        if self.process.poll() is not None:
            raise RuntimeError(f"the worker ended with {self.process.returncode}:\n{self._log.read_text()}")
        return True

    def log(self) -> str:
        """What it logged so far."""
        return self._log.read_text()


class Metrics:
    """What a slot's `/metrics` says at one moment."""

    def __init__(self, port: int) -> None:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
            self._text = answer.read().decode()

    def total(self, name: str, **labels: str) -> float:
        """Sum over the series of this name (without prefix) that have these labels."""
        lines = re.findall(rf"^streamserve_{name}{{(.*)}} (\S+)$", self._text, re.MULTILINE)
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        return sum(float(value) for have, value in lines if all(pair in have for pair in wanted))


def free_port() -> int:
    """A port that nobody has at the moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_for(condition: Callable[[], bool], timeout_s: float, every_s: float = 0.1) -> None:
    """Raises: TimeoutError."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout_s} s")
        time.sleep(every_s)
