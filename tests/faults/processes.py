"""Worker slots as real processes: started, armed with failpoints, killed, stopped, drained; their metrics."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from streamserve.demo.local_process import Watchdog, free_ports
from streamserve.failpoints import VARIABLE
from tests.faults.workload import Pipeline

REPOSITORY = Path(__file__).resolve().parents[2]
_SAMPLE = re.compile(r"^(streamserve_\w+)(?:\{([^}]*)\})? (\S+)$", re.MULTILINE)


class SlotProcess:
    """One slot across its lives.

    Attributes:
        lives: how often it was started.
    """

    def __init__(self, target: Pipeline, name: str) -> None:
        self.name = name
        self.lives = 0
        self.log = target.folder / f"{target.name}-{name}.log"
        self._target = target
        self._port = free_ports(1)[0]
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: Watchdog | None = None
        self._counted: Counter[str] = Counter()
        self._life: Counter[str] = Counter()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def code(self) -> int | None:
        """How it ended; None while it runs."""
        return self._process.poll() if self._process else None

    def start(self, failpoints: str = "", *, name: str | None = None) -> SlotProcess:
        """A new life, optionally armed, optionally under another name. Returns: itself."""
        self.name = name or self.name
        self.lives += 1
        self._counted += self._life
        self._life = Counter()
        command = [sys.executable, "-m", self._target.module, "--config", str(self._target.config)]
        command += ["--slot-name", self.name, "--set", f"http.port={self._port}"]
        environment = {**os.environ, VARIABLE: failpoints, "PYTHONPATH": str(REPOSITORY)}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=REPOSITORY)
        if self._watchdog is None:
            self._watchdog = Watchdog(None).__enter__()
        self._watchdog.guard(self._process.pid)
        return self

    def signal(self, number: signal.Signals) -> None:
        if self._process is not None and self.code is None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and reap."""
        self.signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait()

    def close(self) -> None:
        """Leave nothing behind."""
        if self._process is not None:
            self.kill()
        if self._watchdog is not None:
            self._watchdog.close()
            self._watchdog = None

    def ended(self, within_s: float) -> bool:
        """Whether it ended within the time."""
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(within_s)
        return self.code is not None

    def paused(self, within_s: float) -> bool:
        """Whether it came to a stop by SIGSTOP within the time."""
        until_s = time.monotonic() + within_s
        while time.monotonic() < until_s and self.code is None:
            state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
            if state == "T":
                return True
            time.sleep(0.02)
        return False

    def drain(self, within_s: float = 60) -> int | None:
        """SIGTERM. Returns: its exit code, None when it had to be killed."""
        self.scrape()
        self.signal(signal.SIGTERM)
        if self.ended(within_s):
            return self.code
        self.kill()
        return None

    def scrape(self) -> Counter[str]:
        """Its counters over all lives, as far as they were scraped: `name{labels}` without the pipeline's."""
        address = f"http://127.0.0.1:{self._port}/metrics"
        with contextlib.suppress(OSError, ValueError), urllib.request.urlopen(address, timeout=2) as answer:
            self._life = parse_metrics(answer.read().decode())
        return self._counted + self._life

    def ready(self, within_s: float) -> bool:
        """Whether it became ready within the time."""
        until_s = time.monotonic() + within_s
        while time.monotonic() < until_s and self.code is None:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{self._port}/v2/health/ready", timeout=1).close()
                return True
            time.sleep(0.1)
        return False


def parse_metrics(text: str) -> Counter[str]:
    """The counters of an exposition, keyed by name and the labels that are not the same everywhere."""
    found: Counter[str] = Counter()
    for name, labels, value in _SAMPLE.findall(text):
        if not name.endswith("_total"):
            continue
        parts = [part for part in labels.split(",") if not part.startswith(("pipeline=", "model=", "version="))]
        found[name.removeprefix("streamserve_") + "".join(f"{{{part}}}" for part in parts if part)] += int(float(value))
    return found


class Slots:
    """Several slots of one pipeline; a context manager that leaves none behind."""

    def __init__(self, target: Pipeline, names: Sequence[str]) -> None:
        self.all = [SlotProcess(target, name) for name in names]

    def __enter__(self) -> Self:
        for slot in self.all:
            slot.start()
        return self

    def __exit__(self, *_: object) -> None:
        for slot in self.all:
            slot.close()

    def __getitem__(self, index: int) -> SlotProcess:
        return self.all[index]

    def drain(self) -> list[int | None]:
        """SIGTERM to all at once. Returns: exit codes."""
        for slot in self.all:
            slot.scrape()
            slot.signal(signal.SIGTERM)
        return [slot.code if slot.ended(60) else None for slot in self.all]

    def revive(self) -> int:
        """Start those again that have ended. Returns: how many."""
        dead = [slot for slot in self.all if slot.code is not None]
        for slot in dead:
            slot.start()
        return len(dead)

    def counters(self) -> Counter[str]:
        """The counters of all of them."""
        return sum((slot.scrape() for slot in self.all), Counter())
