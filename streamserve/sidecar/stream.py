"""The stream of sample chunks: a Faust application of one agent, embedded in our process.

Owns the group membership and hands on, on the running event loop, which partitions came and went and every committed
record with its offset. Refuses what Faust would do around it: no producer, no tables, no web server, no topics made,
no signals, no decoding (a record that cannot be decoded would end the agent and be lost). Faust's consumer reads
uncommitted records by default, so the consumer is made here, with `read_committed`. A committed offset of the group
only says where the stream starts; what was merged is known to the monitor's own state.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import aiokafka
import faust
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from faust.app.base import BootStrategy
from faust.contrib.asgi import bind_to_running_loop
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, EventT, StreamT

from streamserve.sidecar.connection import ClientSettings
from streamserve.telemetry.logs import Log

BUFFERED_CHUNKS = 64
"""Chunks that wait in memory between the consumer and the agent."""
FETCH_BYTES = 8 << 20
"""A wide chunk has half a megabyte; there is one fetch at a time, so it had better hold some."""
MAX_POLL_INTERVAL_S = 900.0
"""A rebuild may hold the stream up for so long; a stream that is stuck is found by the watchdog long before."""
STOP_TIMEOUT_S = 5.0
LIBRARIES = ("faust", "mode", "aiokafka")

Headers = dict[str, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamHandlers:
    """Who is told. All are called on the event loop, `record` for one record at a time.

    Attributes:
        assigned: the partitions owned from now on, all of them.
        revoked: partitions not owned any more.
        record: partition, offset, headers, value.
    """

    assigned: Callable[[set[int]], None]
    revoked: Callable[[set[int]], None]
    record: Callable[[int, int, Headers, bytes], Awaitable[None]]


class SamplesStream:
    """The samples topic, as a member of a group.

    Args:
        group: the group's name.
        topic: the samples topic; it must exist.
        client: connection and session, as aiokafka names them.
        handlers: who is told.
    """

    def __init__(self, group: str, topic: str, client: ClientSettings, handlers: StreamHandlers, log: Log) -> None:
        self._group = group
        self._topic = topic
        self._client = client
        self._handlers = handlers
        self._log = log
        self._app: Any = None
        self._failure: asyncio.Future[None] | None = None
        self._logging = contextlib.ExitStack()

    async def open(self) -> None:
        """Join the group."""
        self._logging.enter_context(_logging_to(self._log))
        self._failure = asyncio.get_running_loop().create_future()
        self._app = app = self._build()
        bind_to_running_loop(app)
        app.finalize()
        await app.maybe_start()

    async def failed(self) -> None:
        """Wait until the stream breaks. Raises: what broke it."""
        if self._failure is None:
            raise RuntimeError("the stream is not open")
        while not self._failure.done():
            await asyncio.wait({self._failure}, timeout=1.0)
            if self._app.crashed or self._app.should_stop:
                reason = self._app.crash_reason
                raise RuntimeError(f"the samples stream ended: {reason!r}") from reason
        self._failure.result()

    async def close(self) -> None:
        """Leave the group; gives up after `STOP_TIMEOUT_S`."""
        app, self._app = self._app, None
        if app is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(app.stop(), STOP_TIMEOUT_S)
        self._logging.close()

    def _build(self) -> Any:
        client = self._client
        app = _App(
            self._group,
            client=client,
            broker=[f"kafka://{server}" for server in client["bootstrap_servers"]],
            store="memory://",
            web_enabled=False,
            topic_disable_leader=True,
            topic_allow_declare=False,
            table_standby_replicas=0,
            stream_wait_empty=False,
            stream_buffer_maxsize=BUFFERED_CHUNKS,
            broker_commit_interval=1.0,
            broker_session_timeout=client["session_timeout_ms"] / 1000,
            broker_request_timeout=client["request_timeout_ms"] / 1000,
        )
        topic = app.topic(
            self._topic, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw", acks=True
        )
        app.agent(topic, name=f"{self._group}.merge", concurrency=1)(self._merge)
        app.on_partitions_assigned.connect(self._on_assigned)  # type: ignore[arg-type]  # it asks for keywords only
        app.on_partitions_revoked.connect(self._on_revoked)  # type: ignore[arg-type]  # likewise
        return app

    async def _merge(self, stream: StreamT[bytes]) -> None:
        event: EventT[bytes]
        async for event in stream.events():
            try:
                message = event.message
                headers = dict(message.headers or ())
                await self._handlers.record(message.partition, message.offset, headers, message.value or b"")
            except Exception as error:
                # Faust would take the record for done and go on with the next one; without it nothing after it counts.
                self._fail(error)
                await asyncio.Event().wait()

    async def _on_assigned(self, _app: object, *arguments: Any, **_: object) -> None:
        self._handlers.assigned(self._numbers(arguments[0]))

    async def _on_revoked(self, _app: object, *arguments: Any, **_: object) -> None:
        self._handlers.revoked(self._numbers(arguments[0]))

    def _numbers(self, places: set[TP]) -> set[int]:
        return {place.partition for place in places if place.topic == self._topic}

    def _fail(self, error: Exception) -> None:
        if self._failure is not None and not self._failure.done():
            self._failure.set_exception(error)


class _ConsumerThread(driver.AIOKafkaConsumerThread):
    """Makes a consumer that sees committed records only, with our connection."""

    def _create_worker_consumer(self, transport: object) -> aiokafka.AIOKafkaConsumer:
        del transport  # its address is the one in `client`
        self._assignor = RoundRobinPartitionAssignor
        return aiokafka.AIOKafkaConsumer(
            **cast("_App", self.app).client,
            group_id=self.app.conf.id,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            partition_assignment_strategy=[RoundRobinPartitionAssignor],
            max_poll_records=BUFFERED_CHUNKS,
            max_poll_interval_ms=int(MAX_POLL_INTERVAL_S * 1000),
            rebalance_timeout_ms=60_000,
            fetch_max_wait_ms=500,
            max_partition_fetch_bytes=FETCH_BYTES,
            check_crcs=True,
        )


class _Consumer(driver.Consumer):
    def _new_consumer_thread(self) -> _ConsumerThread:
        return _ConsumerThread(self, loop=self.loop, beacon=self.beacon)


class _Transport(driver.Transport):
    Consumer = _Consumer


class _Boot(BootStrategy):
    """No producer: results go out through transactions of our own."""

    enable_kafka_producer = False
    enable_web = False


class _App(faust.App):
    BootStrategy = _Boot

    def __init__(self, name: str, *, client: ClientSettings, **options: Any) -> None:
        self.client = client
        super().__init__(name, **options)

    def _new_transport(self) -> _Transport:
        return _Transport(self.conf.broker_consumer, self)

    def _create_directories(self) -> None:
        """Nothing is stored."""


@contextlib.contextmanager
def _logging_to(log: Log) -> Iterator[None]:
    """The libraries' own lines go to our log, warnings and worse."""
    attached: list[tuple[logging.Logger, logging.Handler, bool]] = []
    for name in LIBRARIES:
        logger = logging.getLogger(name)
        for handler in log.as_logger(f"kafka.{name}").handlers:
            handler.setLevel(logging.WARNING)
            logger.addHandler(handler)
            attached.append((logger, handler, logger.propagate))
        logger.propagate = False
    try:
        yield
    finally:
        for logger, handler, propagate in attached:
            logger.removeHandler(handler)
            logger.propagate = propagate
