"""The sidecar's listening socket: opens and closes the port, and bounds the connections on it.

aiohttp bounds the size of a request's head, not the time it takes nor the number of connections; here a connection
beyond the limit is closed at once, and one that asked for nothing within a few seconds is closed too.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from types import TracebackType
from typing import Self

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestHandler

from streamserve.errors import StreamServeError
from streamserve.sidecar.web import Sources, application
from streamserve.telemetry.logs import Log

MAX_CONNECTIONS = 128
"""A browser has up to six."""
FIRST_REQUEST_S = 10.0
"""From the connection to the end of its first request's head."""
IDLE_S = 30.0
"""A connection between two requests is kept so long."""
LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


class DashboardServer:
    """Serves the dashboard between `open` and `close`, on the running event loop.

    Args:
        host: address to listen on; on a loopback address only requests that name this machine are answered.
        port: 0 takes any free one.
        sources: where the answers come from.
        first_request_s: see `FIRST_REQUEST_S`.
    """

    def __init__(self, host: str, port: int, sources: Sources, *, first_request_s: float = FIRST_REQUEST_S) -> None:
        self._host = host
        self._wanted = port
        self._sources = sources
        self._log: Log = sources.log
        self._first_request_s = first_request_s
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        """The port listened on. Raises: RuntimeError before `open`."""
        if self._server is None:
            raise RuntimeError("the server is not open")
        return int(self._server.sockets[0].getsockname()[1])

    async def open(self) -> None:
        """Listen and serve. Raises: StreamServeError when the address cannot be had."""
        gate = _Gate(self._first_request_s)
        app = application(self._sources, loopback=self._host in LOOPBACK_HOSTS)
        app.on_response_prepare.append(gate.asked)
        logger = self._log.as_logger("dashboard_http")
        logger.addFilter(_not_the_clients_fault)
        runner = web.AppRunner(
            app, logger=logger, access_log=None, keepalive_timeout=IDLE_S, shutdown_timeout=1.0, handle_signals=False
        )
        await runner.setup()
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(gate.of(runner), self._host, self._wanted, backlog=64)
        except OSError as cause:
            await runner.cleanup()
            message = f"port {self._wanted} on {self._host} cannot be opened ({cause.strerror or cause})"
            raise StreamServeError(f"{message}: choose another drift.http_port or http.host") from cause
        self._runner = runner
        self._log.info("dashboard_listening", host=self._host, port=self.port)

    async def close(self) -> None:
        """Stop listening and end what is under way. Idempotent."""
        server, self._server = self._server, None
        runner, self._runner = self._runner, None
        if server is not None:
            server.close()
        if runner is not None:
            await runner.cleanup()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _not_the_clients_fault(record: logging.LogRecord) -> bool:
    """Whether a line of aiohttp's is worth writing: anybody can send bytes that are no request."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


class _Gate:
    """Lets so many connections in, and closes those that ask for nothing."""

    def __init__(self, first_request_s: float) -> None:
        self._first_request_s = first_request_s
        self._silent: set[asyncio.BaseProtocol] = set()

    async def asked(self, request: web.Request, _: web.StreamResponse) -> None:
        """A request came in over this connection."""
        self._silent.discard(request.protocol)

    def of(self, runner: web.AppRunner) -> Callable[[], asyncio.BaseProtocol]:
        """The factory that gives each connection its protocol."""
        loop = asyncio.get_running_loop()

        def connection() -> asyncio.BaseProtocol:
            serving = runner.server
            if serving is None or len(serving.connections) >= MAX_CONNECTIONS:
                return _Refusal()
            protocol = serving()
            self._silent.add(protocol)
            loop.call_later(self._first_request_s, self._close_if_silent, protocol)
            return protocol

        return connection

    def _close_if_silent(self, protocol: RequestHandler) -> None:
        if protocol in self._silent:
            self._silent.discard(protocol)
            protocol.force_close()
            if protocol.transport is not None:
                protocol.transport.abort()


class _Refusal(asyncio.Protocol):
    """Closes its connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()
