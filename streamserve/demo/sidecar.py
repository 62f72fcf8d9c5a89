"""The drift sidecar of the demo: `streamserve sidecar` as a user would start it, and what its dashboard says.

It starts beside the workers and nobody waits for it: samples and labels wait in their topics until it reads them.
`Glance` asks it now and then how things are, for the one line of the screen.
"""

from __future__ import annotations

import importlib.util
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from streamserve.demo.served import Served, fetch, first_port, ready, settings

DEFAULT_PORT = 8090
STOP_TIMEOUT_S = 15.0
GLANCE_EVERY_S = 0.5
CAUGHT_UP_S = 1.0
"""A sidecar that knows the newest events and every label, and found nothing new for so long, has read everything."""
SETTLED_S = 4.0
"""Likewise without every label: some predictions were not sampled."""
NEAR_MS = 6 * 3_600_000
"""The newest samples are no older than this, event time: of a fast replay not every event is sampled."""
CATCH_UP_TIMEOUT_S = 30.0
PACKAGES = ("faust", "cramjam")
"""What the sidecar needs: the second one for its client to read what the workers have compressed by lz4."""


class Labels(msgspec.Struct):
    """The part of a model's label figures that the demo looks at."""

    joined: int


class Model(msgspec.Struct):
    """A model version under watch."""

    newest_ms: int
    labels: Labels | None = None


class Chunks(msgspec.Struct):
    """What the sidecar has read."""

    chunks: int


class Overview(msgspec.Struct):
    """The part of the dashboard's document that the demo looks at."""

    state: str
    message: str
    models: list[Model]
    sidecar: Chunks | None = None

    @property
    def joined(self) -> int:
        """Labels that found their predictions."""
        return sum(model.labels.joined for model in self.models if model.labels is not None)


_overviews = msgspec.json.Decoder(Overview)


def missing_packages() -> str | None:
    """Why there can be no sidecar here, with the remedy; None when there can."""
    missing = [name for name in PACKAGES if not _installed(name)]
    return f'no drift sidecar without {" and ".join(missing)}: pip install "streamserve[sidecar]"' if missing else None


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ValueError:  # imported already by a package that replaces its own module, as faust does
        return True


class DemoSidecar:
    """`streamserve sidecar` on `config`; a context manager that ends it.

    Args:
        config: the pipeline.
        overrides: settings by key, as `--set` takes them.
        folder: for the log, which stays.
    """

    def __init__(self, config: Path, overrides: Mapping[str, str], folder: Path) -> None:
        self.port = first_port(DEFAULT_PORT)
        own = {"drift.http_port": str(self.port)}
        arguments = ["sidecar", "--config", str(config), *settings({**overrides, **own})]
        self._served = Served("the sidecar", arguments, folder / "sidecar.log")
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(self._served)
        self._stack.callback(self._served.stop, STOP_TIMEOUT_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def log(self) -> Path:
        """The file with its log lines."""
        return self._served.log

    @property
    def dashboard(self) -> str:
        """Address of the page."""
        return f"http://127.0.0.1:{self.port}/"

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._served.alive

    def start(self) -> None:
        """Start it; it is ready some seconds later."""
        self._served.start()

    def check(self) -> None:
        """Raises: StreamServeError, when it has ended."""
        self._served.check()


class Glance:
    """Looks at a sidecar now and then, in a thread; what it saw last may be read at any time."""

    def __init__(self, sidecar: DemoSidecar) -> None:
        self.ready = False
        self.overview: Overview | None = None
        self.changed_s = time.monotonic()
        """When the sidecar had read something new, monotonic."""
        self._sidecar = sidecar
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="glance", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(5)

    @property
    def text(self) -> str:
        """How things are, in one line."""
        place = f"dashboard {self._sidecar.dashboard}"
        if not self._sidecar.alive:
            return f"the sidecar ended, see {self._sidecar.log}"
        if not self.ready:
            return f"{place} starts"
        return place if self.overview is None else f"{place} · {self.overview.message}"

    def caught_up(self, newest_ms: int, labels: int) -> bool:
        """Whether it has read everything that is there, as far as one can see from outside.

        Args:
            newest_ms: event time of the newest event.
            labels: how many there are.
        """
        seen, still_s = self.overview, time.monotonic() - self.changed_s
        if seen is None or not any(model.newest_ms >= newest_ms - NEAR_MS for model in seen.models):
            return False
        return still_s > (CAUGHT_UP_S if seen.joined >= labels else SETTLED_S)

    def _run(self) -> None:
        while not self._stop.wait(GLANCE_EVERY_S):
            self.ready = self.ready or ready(self._sidecar.port)
            if self.ready:
                self._look()

    def _look(self) -> None:
        body = fetch(self._sidecar.port, "/api/overview")
        if body is None:
            return
        seen, before = _overviews.decode(body), self.overview
        if before is None or _progress(seen) != _progress(before):
            self.changed_s = time.monotonic()
        self.overview = seen


def _progress(overview: Overview) -> tuple[int, int]:
    return overview.sidecar.chunks if overview.sidecar is not None else 0, overview.joined
