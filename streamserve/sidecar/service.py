"""The sidecar as a whole: made from settings, run until it is stopped or cannot go on.

One event loop holds the Faust stream and the dashboard; every merge and every blocking call of a client is made in a
thread. What may hang or fail on its own (webhooks, the look at the backlog) has tasks of its own; what the rest stands
on (the stream, the beat) ends the process when it breaks.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager

from prometheus_client import CollectorRegistry

from streamserve.clock import Clock, SystemClock
from streamserve.config.drift_settings import DriftSettings
from streamserve.config.drift_topics import DriftTopics, drift_topics
from streamserve.config.settings import PipelineSettings
from streamserve.errors import ConfigError, StreamServeError
from streamserve.kafka.clients import reader_properties
from streamserve.kafka.facts import TopicFacts
from streamserve.registry.references import FolderReferences
from streamserve.sidecar.backlog import Backlog
from streamserve.sidecar.board import SidecarBoard
from streamserve.sidecar.connection import aiokafka_settings
from streamserve.sidecar.contracts import Monitor, MonitorFactory
from streamserve.sidecar.figures import Figures
from streamserve.sidecar.keeper import Keeper
from streamserve.sidecar.labels import LabelFeed
from streamserve.sidecar.listener import DashboardServer
from streamserve.sidecar.metrics import SidecarMetrics
from streamserve.sidecar.notifier import Notifier, group_of
from streamserve.sidecar.partition import OwnedPartition, Parts
from streamserve.sidecar.publisher import KIND_HEADER, Destination, Publisher
from streamserve.sidecar.recovery import Recovery
from streamserve.sidecar.references import CachedReferences
from streamserve.sidecar.stream import Headers, SamplesStream, StreamHandlers
from streamserve.sidecar.topics import drift_facts
from streamserve.sidecar.watchdog import Watchdog
from streamserve.sidecar.web import Sources
from streamserve.telemetry.health import Health
from streamserve.telemetry.logs import Log

CONDITIONS = ("topics", "group", "rebuilt")
BEAT_S = 1.0
PROBE_S = 5.0


def group_name(pipeline: str) -> str:
    """The consumer group of a pipeline's sidecars."""
    return f"{pipeline}.sidecar"


class Sidecar:
    """The service.

    Args:
        settings: the pipeline, with a `drift` block.
        make_monitor: makes the monitor of a partition.
        end: ends the process at once; called by the watchdog.
    """

    def __init__(
        self,
        settings: PipelineSettings,
        make_monitor: MonitorFactory,
        log: Log,
        *,
        end: Callable[[], None],
    ) -> None:
        if settings.drift is None:
            raise ConfigError("there is no `drift` block in the configuration, so there is nothing for a sidecar to do")
        self._settings = settings
        self._drift: DriftSettings = settings.drift
        self._topics: DriftTopics = drift_topics(settings)
        self._make_monitor = make_monitor
        self._log = log
        self._end = end
        self._clock: Clock = SystemClock()
        self._client = aiokafka_settings(settings)
        self._registry = CollectorRegistry()
        self._metrics = SidecarMetrics(self._registry, pipeline=settings.pipeline)
        self._figures = Figures(self._metrics)
        self._health = Health(self._clock, stall_s=settings.delivery.stall_s, conditions=CONDITIONS)
        self._references = CachedReferences(FolderReferences(settings.model.repository), self._clock, log)
        self._keeper = Keeper(self._own, self._client["session_timeout_ms"] / 1000, self._partitions_changed, log)
        self._board = SidecarBoard(
            settings.pipeline,
            lambda: self._monitors,
            lambda: 0 if self._keeper.ready else len(self._keeper.numbers),
            self._clock,
        )
        self._backlog = Backlog(settings, self._topics.samples, group_name(settings.pipeline))
        self._facts = TopicFacts(partitions={}, max_bytes={})
        self._marked: set[int] = set()
        self._stopping = asyncio.Event()

    @property
    def _monitors(self) -> list[Monitor]:
        return [monitor for owned in self._keeper.owned if (monitor := owned.monitor) is not None]

    async def run(self, opened: Callable[[str], None]) -> None:
        """Run until `stop`.

        Args:
            opened: told of the dashboard's address.

        Raises:
            StreamServeError: a topic is missing, no broker answers, the port is taken.
        """
        self._facts = await asyncio.to_thread(drift_facts, self._settings, self._topics)
        self._health.condition("topics", met=True)
        sources = Sources(
            board=self._board, health=self._health, registry=self._registry, clock=self._clock, log=self._log
        )
        async with DashboardServer(self._settings.http.host, self._drift.http_port, sources) as server:
            address = f"http://{_shown(self._settings.http.host)}:{server.port}/"
            opened(address)
            async with self._streams() as stream:
                await self._work([stream.failed(), self._beats(), self._checkpoints(), *self._beside(address)])

    def stop(self) -> None:
        """Leave the group and end. On the event loop."""
        self._health.draining()
        self._stopping.set()

    @asynccontextmanager
    async def _streams(self) -> AsyncIterator[SamplesStream]:
        """Labels, samples and the watchdog over them."""
        watchdog = Watchdog(self._health, self._end, self._log)
        handlers = StreamHandlers(assigned=self._assigned, revoked=self._keeper.revoked, record=self._record)
        group = group_name(self._settings.pipeline)
        stream = SamplesStream(group, self._topics.samples, self._client, handlers, self._log)
        labels = self._labels()
        try:
            if labels is not None:
                await labels.open()
            self._health.tick()
            watchdog.open()
            await self._unless_stopped(stream.open())
            yield stream
        finally:
            watchdog.close()
            self._keeper.close()
            if labels is not None:
                labels.close()
            await stream.close()

    async def _unless_stopped(self, opening: Coroutine[object, object, None]) -> None:
        """Wait for an opening, which may take as long as no broker answers, or for a stop."""
        task, stopping = asyncio.create_task(opening), asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
        finally:
            task.cancel()
            stopping.cancel()

    async def _work(self, jobs: list[Coroutine[object, object, None]]) -> None:
        """Run the jobs until told to stop; a job that ends by itself ends all with its error."""
        tasks = [asyncio.create_task(job) for job in jobs]
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            done, _ = await asyncio.wait({stopping, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopping}:
                task.result()
        finally:
            for task in (stopping, *tasks):
                task.cancel()
            await asyncio.wait({stopping, *tasks}, timeout=1.0)

    def _labels(self) -> LabelFeed | None:
        if self._topics.labels is None:
            return None
        properties = reader_properties(self._settings, group=f"{group_name(self._settings.pipeline)}.reader")
        return LabelFeed(properties, self._topics.labels, self._keeper.labels, self._log)

    def _beside(self, address: str) -> list[Coroutine[object, object, None]]:
        """Jobs that the drift path does not wait for."""
        session = {
            "session.timeout.ms": self._client["session_timeout_ms"],
            "heartbeat.interval.ms": self._client["heartbeat_interval_ms"],  # the default is as long as a short session
        }
        notifiers = [
            Notifier(
                {**reader_properties(self._settings, group=group_of(self._settings.pipeline, webhook)), **session},
                self._topics.alerts,
                webhook,
                dashboard=address,
                count=self._metrics.webhook,
                clock=self._clock,
                log=self._log,
                rng=random.Random(),  # noqa: S311  jitter
            ).run()
            for webhook in self._drift.webhooks
        ]
        return [self._probes(), *notifiers]

    def _own(self, number: int) -> OwnedPartition:
        destination = Destination(
            pipeline=self._settings.pipeline, partition=number, topics=self._topics, facts=self._facts
        )
        closed = threading.Event()
        parts = Parts(
            make_monitor=lambda: self._make_monitor(self._settings, self._references),
            publisher=Publisher(self._settings, destination, self._clock, self._log),
            recovery=Recovery(self._settings, self._topics, number, closed.is_set),
            closed=closed,
            progress=self._health.progress,
        )
        return OwnedPartition(number, parts, self._clock, self._log)

    def _assigned(self, numbers: set[int]) -> None:
        self._health.condition("group", met=True)
        self._keeper.assigned(numbers)

    def _partitions_changed(self) -> None:
        self._health.condition("rebuilt", met=self._keeper.ready)
        for owned in self._keeper.owned:
            if (monitor := owned.monitor) is not None and id(owned) not in self._marked:
                self._figures.mark(monitor)
                self._marked.add(id(owned))
        self._marked &= {id(owned) for owned in self._keeper.owned}
        self._board.changes.advance()

    async def _record(self, partition: int, offset: int, headers: Headers, value: bytes) -> None:
        await self._keeper.record(partition, offset, headers.get(KIND_HEADER), value)
        self._board.changes.advance()

    async def _beats(self) -> None:
        """Every second: that the event loop turns, and figures."""
        while True:
            self._health.tick()
            self._tell_figures()
            await asyncio.sleep(BEAT_S)

    async def _checkpoints(self) -> None:
        """Now and then; may wait for a broker."""
        while True:
            await asyncio.sleep(PROBE_S)
            await self._keeper.checkpoint()

    def _tell_figures(self) -> None:
        metrics, keeper = self._metrics, self._keeper
        self._figures.move(self._monitors)
        metrics.drift_owned_partitions.set(len(keeper.numbers))
        totals = keeper.take_totals()
        metrics.drift_rebuilds.inc(totals.rebuilds)
        metrics.drift_partitions_dropped.inc(totals.dropped)
        metrics.drift_fenced.inc(totals.fenced)
        metrics.drift_events.inc(totals.published)
        metrics.drift_events_left_out.inc(totals.left_out)
        if totals.rebuilds:
            metrics.drift_rebuild_seconds.set(totals.rebuild_s)

    async def _probes(self) -> None:
        """Every few seconds: what waits, for us and for the workers."""
        others: Mapping[int, int] = {}
        every_s = min(PROBE_S, self._settings.delivery.stall_s / 4)
        while True:
            await asyncio.sleep(every_s)
            positions = {owned.number: owned.next_offset for owned in self._keeper.owned if owned.ready}
            if not positions and self._keeper.numbers:
                continue  # rebuilding, which reports its own progress
            try:
                waiting = await asyncio.to_thread(self._backlog.chunks, positions)
                lag = await asyncio.to_thread(self._backlog.lag)
            except StreamServeError as error:
                self._health.brokers(reachable=False)
                self._log.debug("backlog_unknown", error=error)
                continue
            self._health.brokers(reachable=True)
            self._health.lag(len(waiting.partitions))
            if not positions and waiting.positions != others:
                self._health.progress()  # somebody else's: this one owns nothing
            others = waiting.positions
            self._show_backlog(waiting.oldest_ms, lag, waits=bool(waiting.partitions))

    def _show_backlog(self, oldest_ms: int | None, lag: int | None, *, waits: bool) -> None:
        behind_s = 0.0 if not waits or oldest_ms is None else max(0.0, (self._clock.epoch_ms() - oldest_ms) / 1000)
        self._board.behind_s = behind_s
        self._board.lag(lag)
        self._metrics.drift_behind_seconds.set(behind_s)
        if lag is not None:
            self._metrics.drift_input_lag_records.set(lag)
        self._board.changes.advance()


def _shown(host: str) -> str:
    """A host as it stands in an address."""
    return f"[{host}]" if ":" in host else host
