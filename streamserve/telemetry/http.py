"""The observability port of a worker slot: health, model metadata and metrics over plain HTTP.

Read only, on loopback by default. One request a connection, a deadline for the whole of it, a bound on the
bytes of its head and on the connections served at once: a slow or greedy client costs a thread for a few
seconds and nothing else. All threads are daemons, so that a stop never waits for a client. The answers are in
`routes`.
"""

from __future__ import annotations

import errno
import io
import socket
import socketserver
import time
from http import HTTPStatus
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler
from threading import BoundedSemaphore, Thread
from types import TracebackType
from typing import Any, Protocol, Self

from prometheus_client import CollectorRegistry

from streamserve.errors import StreamServeError
from streamserve.telemetry.health import Health
from streamserve.telemetry.logs import Log
from streamserve.telemetry.routes import ModelProvider, Response, Routes, error

MAX_HEAD_BYTES = 16_384
"""Request line and headers together."""
MAX_CONNECTIONS = 32
REQUEST_TIMEOUT_S = 5.0
"""From the connection to the end of the answer."""
LINGER_S = 0.2
"""How long an unread rest is taken in after an error, so that the answer is not lost to a reset."""

Connection = socket.socket | tuple[bytes, socket.socket]


class Address(Protocol):
    """Where to listen (`streamserve.config.settings.HttpSettings` fits)."""

    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...


class ObservabilityServer:
    """Serves one slot's routes from daemon threads between `open` and `close`.

    Args:
        address: host and the port of slot 0; port 0 takes any free one.
        slot_index: added to the port.
        health, registry, models: what is told.
        log: gets a line when the port opens.
        request_timeout_s: for a whole request.
    """

    def __init__(
        self,
        address: Address,
        slot_index: int,
        *,
        health: Health,
        registry: CollectorRegistry,
        models: ModelProvider,
        log: Log,
        request_timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> None:
        self._host = address.host
        self._wanted = address.port + slot_index if address.port else 0
        self._routes = Routes(health, registry, models)
        self._log = log
        self._timeout_s = request_timeout_s
        self._server: _Server | None = None

    @property
    def port(self) -> int:
        """The port listened on. Raises: RuntimeError before `open`."""
        if self._server is None:
            raise RuntimeError("the server is not open")
        return int(self._server.server_address[1])

    def open(self) -> None:
        """Listen and serve. Raises: StreamServeError when the address cannot be had."""
        if self._wanted > 65535:
            raise StreamServeError(f"http.port plus the slot's index is {self._wanted}: choose a lower http.port")
        try:
            self._server = _Server((self._host, self._wanted), self._routes, self._log, self._timeout_s)
        except OSError as cause:
            raise _no_listener(self._host, self._wanted, cause) from cause
        serve = self._server.serve_forever
        Thread(target=serve, kwargs={"poll_interval": 0.1}, name="http", daemon=True).start()
        self._log.info("http_listening", host=self._host, port=self.port)

    def close(self) -> None:
        """Stop listening; requests under way are left to their daemon threads. Idempotent."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _no_listener(host: str, port: int, cause: OSError) -> StreamServeError:
    where = f"port {port} on {host}"
    if cause.errno == errno.EADDRINUSE:
        return StreamServeError(
            f"{where} is in use by another process: stop that one, or set http.port to another port"
            " (0 takes any free one)"
        )
    if cause.errno == errno.EACCES:
        return StreamServeError(f"{where} may not be opened by this user: set http.port to 1024 or more")
    return StreamServeError(f"{where} cannot be opened ({cause.strerror or cause}): check http.host")


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Accepts connections and gives each a thread while there are threads to give."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, where: tuple[str, int], routes: Routes, log: Log, timeout_s: float) -> None:
        self.routes = routes
        self.log = log
        self.timeout_s = timeout_s
        self._free = BoundedSemaphore(MAX_CONNECTIONS)
        self.address_family = socket.AF_INET6 if ":" in where[0] else socket.AF_INET
        super().__init__(where, _Handler)

    def process_request(self, request: Connection, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread to be had
            self._free.release()
            self.shutdown_request(request)

    def process_request_thread(self, request: Connection, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Connection, client_address: Any) -> None:
        """A client that goes away is its own affair."""


class _HeadTooLarge(HTTPException):
    """The head of a request is over its limit."""


class _DeadlineReader(io.RawIOBase):
    """A socket's bytes until a deadline, and no more than a head may have."""

    def __init__(self, connection: socket.socket, until_s: float) -> None:
        super().__init__()
        self._connection = connection
        self._until_s = until_s
        self._left = MAX_HEAD_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left_s = self._until_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        if self._left <= 0:
            raise _HeadTooLarge(f"more than {MAX_HEAD_BYTES} bytes")
        self._connection.settimeout(left_s)
        count = self._connection.recv_into(memoryview(buffer)[: self._left])
        self._left -= count
        return count


class _Handler(BaseHTTPRequestHandler):
    """One connection, one request, one answer."""

    server: _Server
    protocol_version = "HTTP/1.1"
    default_request_version = "HTTP/1.0"  # what the parser assumes when it fails; 0.9 would have no headers

    def setup(self) -> None:
        super().setup()
        self.command = self.requestline = ""
        self.request_version = self.default_request_version
        until_s = time.monotonic() + self.server.timeout_s
        self.connection.settimeout(self.server.timeout_s)
        self.rfile = io.BufferedReader(_DeadlineReader(self.connection, until_s), 4096)

    def handle(self) -> None:
        self.close_connection = True
        try:
            self.raw_requestline = self.rfile.readline(MAX_HEAD_BYTES + 1)
            if not self.raw_requestline or not self.parse_request():
                return
            self._dispatch()
        except _HeadTooLarge:
            self.send_error(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        except OSError:  # too slow, or gone
            return
        except Exception as failure:  # a probe must get an answer, and a person the reason
            self.server.log.failure("http_request_failed", failure)
            self._send(error(HTTPStatus.INTERNAL_SERVER_ERROR, "internal error; see the log"))

    def _dispatch(self) -> None:
        if self.command not in {"GET", "HEAD"}:
            message = f"{self.command[:20]} is not possible here, only GET and HEAD"
            self._send(error(HTTPStatus.METHOD_NOT_ALLOWED, message, {"Allow": "GET, HEAD"}))
            self._linger()
            return
        path = self.path.partition("?")[0]
        headers = self.headers
        self._send(self.server.routes.answer(path, headers.get("Accept", ""), headers.get("Accept-Encoding", "")))

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Errors of the parser, in the protocol's form."""
        status = HTTPStatus(code)
        said = ": ".join(part for part in (message or status.phrase, explain) if part)
        self._send(error(status, said[:300]))
        self._linger()

    def _linger(self) -> None:
        """Take in what else was sent for a moment: closing on unread bytes would reset the answer away."""
        self.connection.shutdown(socket.SHUT_WR)
        until_s = time.monotonic() + LINGER_S
        self.connection.settimeout(LINGER_S)
        while time.monotonic() < until_s and self.connection.recv(65_536):
            pass

    def _send(self, response: Response) -> None:
        self.connection.settimeout(self.server.timeout_s)
        self.send_response(response.status)
        self.send_header("Content-Type", response.content_type)
        self.send_header("Content-Length", str(len(response.body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Connection", "close")
        for name, value in response.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)

    def version_string(self) -> str:
        return "streamserve"

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not changes of state."""
