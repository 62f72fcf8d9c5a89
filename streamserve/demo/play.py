"""The demo from start to end: services, workers, sidecar, replay, drain, count.

Reads top-down like a run. Everything that is started stands on one exit stack, so it is gone at the end,
whatever happened; what a SIGKILL of this process would leave behind, the watchdogs end.
"""

from __future__ import annotations

import importlib.util
import tempfile
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from streamserve.config.drift_topics import drift_topics
from streamserve.config.loading import load
from streamserve.config.settings import PipelineSettings
from streamserve.demo.backing import Backing, BrokerChoice, Note, Step, backing
from streamserve.demo.drift_topics import DriftFigures, read_drift
from streamserve.demo.flights import CONFIG, TOPICS, Flights
from streamserve.demo.injection import Injection
from streamserve.demo.ledger import Sent
from streamserve.demo.replay import Pace, Replay, Script
from streamserve.demo.screen import FRAMES_PER_S, Frame, Header, Row, Screen
from streamserve.demo.sidecar import CATCH_UP_TIMEOUT_S, DemoSidecar, Glance, missing_packages
from streamserve.demo.summary import Summary
from streamserve.demo.watcher import Topics, Watcher, count_everything
from streamserve.demo.workers import DemoWorkers
from streamserve.errors import ConfigError
from streamserve.kafka.clients import producer_properties, reader_properties

DRAIN_WITHOUT_PROGRESS_S = 15.0
RATES_OVER_S = 2.0
LATENCIES_OVER_S = 5.0
"""The page shows the percentiles of about so many seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """What is wanted.

    Attributes:
        pace: how much is replayed, and how fast.
        broker: which broker.
        workers: how many worker processes.
        port: HTTP port of the first; None chooses.
        injections: what goes wrong with the data.
    """

    pace: Pace
    broker: BrokerChoice = BrokerChoice.AUTO
    workers: int = 1
    port: int | None = None
    injections: tuple[Injection, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """How a run talks to whoever started it.

    Attributes:
        step, note: show progress of the set-up.
        screen: makes the screen of the replay.
        stopped: whether the user asked to stop.
        breaking: surrounds the set-up, which a request to stop may end at any point.
    """

    step: Step
    note: Note
    screen: Callable[[Header], Screen]
    stopped: Callable[[], bool]
    breaking: Callable[[], AbstractContextManager[None]]


class Demo:
    """One run; a context manager. `set_up`, then `play`; the services run until it is left."""

    def __init__(self, options: DemoOptions, stage: Stage) -> None:
        self._options = options
        self._stage = stage
        self._stack = ExitStack()
        self._began_s = time.monotonic()
        self.newest_flight = "AA11"
        """Key of a prediction that was made lately."""
        self.sidecar: DemoSidecar | None = None
        """None where there is none; a note has said why."""
        self._glance: Glance | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def set_up(self) -> None:
        """Start everything; returns when the workers are ready. Raises: StreamServeError."""
        _check_runtime()
        options, step = self._options, self._stage.step
        with self._stage.breaking():
            self.backing = self._stack.enter_context(backing(options.broker, TOPICS, step, self._stage.note))
            overrides = _overrides(self.backing)
            self._settings = load(CONFIG, overrides).settings
            folder = Path(tempfile.mkdtemp(prefix="streamserve-demo-"))
            workers = DemoWorkers(CONFIG, overrides, options.workers, options.port, folder)
            self.workers = self._stack.enter_context(workers)
            many = "1 worker" if options.workers == 1 else f"{options.workers} workers"
            with step(f"starting {many}"):
                self.workers.start()
            self._start_sidecar(overrides, folder)
            if options.injections and self.sidecar is None:
                self._stage.note("the data go wrong as asked, but there is no sidecar to find it")
            self._flights = Flights.load()

    def _start_sidecar(self, overrides: dict[str, str], folder: Path) -> None:
        """Where there can be one; nobody waits for it, for what it reads waits in its topics."""
        if self._settings.drift is None:
            return
        reason = missing_packages()
        if not self.backing.exactly_once:
            reason = "no drift sidecar: it publishes by transactions, which the embedded broker only pretends to have"
        if reason is not None:
            self._stage.note(reason)
            return
        sidecar = self._stack.enter_context(DemoSidecar(CONFIG, overrides, folder))
        sidecar.start()
        self._glance = Glance(sidecar)
        self._stack.callback(self._glance.stop)
        self._glance.start()
        self.sidecar = sidecar

    def play(self) -> Summary:
        """Replay, drain, count. Raises: StreamServeError, when the workers end or nothing can be read."""
        settings, options = self._settings, self._options
        topics = Topics(settings.output.topic, settings.dead_letter.topic)
        reader = reader_properties(settings, group="demo")
        sent = Sent()
        watcher = Watcher(reader, topics, sent)
        replay = Replay(producer_properties(settings), self._script(), self._flights, sent)
        self._stack.callback(watcher.stop)
        watcher.start()
        with self._stage.screen(self._header()) as screen:
            eye = _Eye(sent, replay, watcher, self._flights, screen, self._glance)
            replay.start()
            try:
                self._watch(eye, replay)
            finally:
                replay.stop()
            self._wait_for_the_rest(eye, sent, watcher)
            eye.show("draining the workers")
            self.workers.drain()
            watcher.stop()
            eye.show("counting")
            count = count_everything(reader, topics)
            drift = self._drift(eye, replay)
            eye.show("done")
        if watcher.newest is not None:
            self.newest_flight = watcher.newest.id.partition("-")[0]
        for failure in filter(None, (replay.failure, watcher.failure)):
            self._stage.note(failure)
        return Summary.of(
            sent, count, watcher.latencies,
            seconds=(watcher.last_s or replay.started_s) - replay.started_s,
            first_prediction_s=None if watcher.first_s is None else watcher.first_s - self._began_s,
            broker=self.backing.broker, cache=self.backing.cache, workers=options.workers,
            exactly_once=self.backing.exactly_once, drift=drift,
        )  # fmt: skip

    def _script(self) -> Script:
        settings, options = self._settings, self._options
        labels = drift_topics(settings).labels if settings.drift is not None else None
        return Script(events=settings.input.topics[0], labels=labels, pace=options.pace, injections=options.injections)

    def _drift(self, eye: _Eye, replay: Replay) -> DriftFigures | None:
        """What the sidecar found, once it has read everything."""
        if self.sidecar is None or self._glance is None:
            return None
        until_s = time.monotonic() + CATCH_UP_TIMEOUT_S
        while not (caught_up := self._glance.caught_up(replay.newest_ms, replay.labels)) and time.monotonic() < until_s:
            if not self.sidecar.alive:
                break
            eye.show("waiting for the sidecar")
            time.sleep(1 / FRAMES_PER_S)
        if not caught_up:
            self._stage.note(f"the sidecar has not read everything: {self._glance.text}")
        overview = self._glance.overview
        return DriftFigures(
            told=read_drift(reader_properties(self._settings, group="demo"), drift_topics(self._settings)),
            labels=replay.labels,
            joined=0 if overview is None else overview.joined,
            dashboard=self.sidecar.dashboard,
        )

    def _watch(self, eye: _Eye, replay: Replay) -> None:
        while not replay.done and not self._stage.stopped():
            self.workers.check()
            eye.show("replaying")
            time.sleep(1 / FRAMES_PER_S)

    def _wait_for_the_rest(self, eye: _Eye, sent: Sent, watcher: Watcher) -> None:
        """Until everything that was sent came back, or nothing has come back for a while."""
        known, since_s = -1, time.monotonic()
        while watcher.count.accounted < len(sent) and not watcher.failure:
            if watcher.count.accounted != known:
                known, since_s = watcher.count.accounted, time.monotonic()
            if time.monotonic() - since_s > DRAIN_WITHOUT_PROGRESS_S:
                return
            self.workers.check()
            eye.show("waiting for the last predictions")
            time.sleep(1 / FRAMES_PER_S / 4)

    def _header(self) -> Header:
        found = self.backing
        workers = f"{self._options.workers} worker{'s' if self._options.workers > 1 else ''}"
        guarantee = found.guarantee.replace("_", " ")
        return Header(
            title=f"streamserve demo · pipeline {self._settings.pipeline} · model {_model(self._settings)}",
            place=f"{found.broker} · {found.cache} · {workers} · {guarantee}",
            metrics=self.workers.metrics,
        )


class _Eye:
    """Looks at a run and hands what it sees to the screen."""

    def __init__(
        self, sent: Sent, replay: Replay, watcher: Watcher, flights: Flights, screen: Screen,
        glance: Glance | None,
    ) -> None:  # fmt: skip
        self._sent = sent
        self._replay = replay
        self._watcher = watcher
        self._flights = flights
        self._screen = screen
        self._glance = glance
        self._moments: deque[tuple[float, int, int]] = deque(maxlen=round(RATES_OVER_S * FRAMES_PER_S) + 1)

    def show(self, state: str) -> None:
        now_s = time.monotonic()
        sent, count = len(self._sent), self._watcher.count
        came = count.accounted
        if not self._moments or now_s - self._moments[-1][0] >= 0.5 / FRAMES_PER_S:
            self._moments.append((now_s, sent, came))
        then_s, sent_then, came_then = self._moments[0]
        if self._replay.done:  # the rates of the whole run
            then_s, sent_then, came_then = self._replay.started_s, 0, 0
            now_s = self._watcher.last_s or now_s
        span_s = max(now_s - then_s, 1e-9)
        rate_in, rate_out = (sent - sent_then) / span_s, (came - came_then) / span_s
        started_s = self._replay.started_s or now_s
        letter = self._watcher.newest_dead_letter
        self._screen.show(
            Frame(
                state=state,
                over=self._replay.done,
                elapsed_s=now_s - started_s,
                sent=sent,
                predictions=count.predictions,
                dead_letters=count.dead_letters,
                lag=max(0, sent - came),
                rate_in=rate_in,
                rate_out=rate_out,
                latency=self._watcher.latencies.percentiles(max(100, round(rate_out * LATENCIES_OVER_S))),
                newest=self._row(),
                newest_dead_letter=f"{letter.reason}: {letter.message}" if letter else "",
                drift="" if self._glance is None else self._glance.text,
            )
        )

    def _row(self) -> Row | None:
        newest = self._watcher.newest
        sending = self._sent.get(newest.id) if newest is not None else None
        if newest is None or sending is None or sending.row < 0:
            return None
        columns, tables, row = self._flights.columns, self._flights.tables, sending.row
        names = {name: tables[name][int(columns[name][row])] for name in ("flight", "date", "origin", "dest")}
        return Row(
            flight=names["flight"],
            day=names["date"],
            route=f"{names['origin']} to {names['dest']}",
            dep_delay_min=int(columns["dep_delay"][row]),
            probability=newest.outputs.probability,
            late=newest.outputs.late,
        )


def _check_runtime() -> None:
    if importlib.util.find_spec("onnxruntime") is None:
        raise ConfigError('the demo runs an ONNX model: pip install "streamserve[cpu]"')


def _overrides(found: Backing) -> dict[str, str]:
    return {
        "kafka.bootstrap.servers": found.bootstrap,
        "cache.url": found.redis_url,
        "delivery.guarantee": found.guarantee,
    }


def _model(settings: PipelineSettings) -> str:
    from streamserve.composition.models import resolve_model

    files = resolve_model(settings)
    return f"{files.name}@{files.version}"
