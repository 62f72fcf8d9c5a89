"""The sidecar's port: the dashboard's files, the JSON that it shows, and what probes and scrapers ask for.

It owns routes, security headers and bounds on clients; what is shown comes from a `Board`, what is healthy from
`Health`, the figures from the registry, all handed in. It refuses everything that would change state: `GET` and
`HEAD` only. A browser is told that there is news (server-sent events of a few bytes) and fetches it when it has
time for it, so that a slow one holds up nobody and nothing piles up for it. The listener is in `listener`.
"""

from __future__ import annotations

import asyncio
import gzip
import math
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Protocol

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from prometheus_client import CollectorRegistry

from streamserve.clock import Clock
from streamserve.sidecar.assets import Asset, load_assets
from streamserve.telemetry.health import Health
from streamserve.telemetry.logs import Log
from streamserve.telemetry.routes import Response, Routes

MAX_STREAMS = 32
"""Browsers that listen for events at once; the next one polls."""
MIN_INTERVAL_S = 0.2
"""A stream tells of news no more often, and the overview is made no more often."""
BEAT_S = 15.0
"""A stream without news says that it is alive so often; the page reconnects after three of them."""
KEEP_S = 1.0
"""The overview is made anew after so long even without news: ages in it go by the clock on the wall."""
WRITE_TIMEOUT_S = 10.0
"""A stream whose client takes nothing for so long is closed."""
LOOKS = 6
LOOK_S = 0.1
"""A monitor that is being fed knows nothing of a column that nobody has asked for before; so it is asked again."""
MAX_TEXT_CHARS = 512
"""Longest parameter of a request."""
COMPRESS_BYTES = 1024
"""Smaller answers are sent as they are."""

SECURITY_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})

Document = Mapping[str, object]


class Changes:
    """A number that grows with every change, and a way to wait for that. For one event loop."""

    def __init__(self) -> None:
        self._sequence = 0
        self._news = asyncio.Event()

    @property
    def sequence(self) -> int:
        """How many changes there were."""
        return self._sequence

    def advance(self) -> None:
        """Something changed: whoever waits goes on."""
        self._sequence += 1
        self._news.set()
        self._news = asyncio.Event()

    async def beyond(self, sequence: int) -> int:
        """Wait until there were more than `sequence` changes; returns how many."""
        while self._sequence <= sequence:
            await self._news.wait()
        return self._sequence


class Board(Protocol):
    """What the dashboard shows. Called on the event loop, at most five times a second in all."""

    @property
    def changes(self) -> Changes:
        """Grows whenever `overview` would give something new."""
        ...

    def overview(self) -> Document:
        """Everything but the details of columns; numbers that are not finite are told as null."""
        ...

    def column(self, model: str, version: str, window_s: float, segment: str, name: str) -> Document | None:
        """One column in one window and segment (`""`: all rows), or None when that is not known."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where the answers come from.

    Attributes:
        board: what the dashboard shows.
        health: answers `/v2/health/live` and `/v2/health/ready`.
        registry: scraped by `/metrics`.
        clock: for the age of the overview that is kept.
        log: gets errors of the board.
    """

    board: Board
    health: Health
    registry: CollectorRegistry
    clock: Clock
    log: Log


def application(sources: Sources, *, loopback: bool = True, beat_s: float = BEAT_S) -> web.Application:
    """The web application, ready to be served on one event loop.

    Args:
        sources: where the answers come from.
        loopback: only requests that name this machine are answered, which shuts out foreign pages whose name was
            bound to 127.0.0.1 behind the browser's back (DNS rebinding).
        beat_s: a stream without news says so often that it is alive.
    """
    app = web.Application(
        middlewares=[_guard(sources.log, loopback=loopback)], handler_args={"lingering_time": 0.2}, client_max_size=1024
    )
    app.on_response_prepare.append(_add_headers)
    pages = Pages(sources, beat_s=beat_s)
    app.on_shutdown.append(pages.close)
    app.router.add_get("/api/overview", pages.overview)
    app.router.add_get("/api/column", pages.column)
    app.router.add_get("/api/events", pages.events)
    app.router.add_get("/metrics", pages.probe)
    app.router.add_get("/v2{rest:.*}", pages.probe)
    app.router.add_get("/{name:.*}", pages.asset)
    return app


class Pages:
    """The answers.

    Args:
        sources: where they come from.
        beat_s: see `application`.
    """

    def __init__(self, sources: Sources, *, beat_s: float) -> None:
        self._board = sources.board
        self._clock = sources.clock
        self._log = sources.log
        self._routes = Routes(sources.health, sources.registry, lambda: ())
        self._assets = load_assets()
        self._beat_s = beat_s
        self._streams = 0
        self._closing = asyncio.Event()
        self._kept: _Kept | None = None

    async def close(self, _: web.Application) -> None:
        """End the streams."""
        self._closing.set()

    async def asset(self, request: web.Request) -> web.StreamResponse:
        """A file of the dashboard."""
        asset = self._assets.get(request.match_info["name"] or "index.html")
        if asset is None:
            return error(HTTPStatus.NOT_FOUND, "no such path; see /, /metrics, /v2/health/ready")
        return _file(request, asset)

    async def overview(self, request: web.Request) -> web.StreamResponse:
        """The board's overview, made once for all who ask in the same moment."""
        now_s, sequence = self._clock.monotonic_s(), self._board.changes.sequence
        kept = self._kept
        if kept is None or not kept.serves(sequence, now_s):
            body = _encode(self._board.overview())
            kept = self._kept = _Kept(sequence=sequence, made_s=now_s, body=body, packed=gzip.compress(body, 1))
        return _document(request, kept.body, kept.packed)

    async def column(self, request: web.Request) -> web.StreamResponse:
        """One column's details."""
        query = {name: request.query.get(name, "") for name in ("model", "version", "window_s", "segment", "name")}
        if any(len(value) > MAX_TEXT_CHARS for value in query.values()):
            return error(HTTPStatus.BAD_REQUEST, f"a parameter has more than {MAX_TEXT_CHARS} characters")
        window_s = _seconds(query["window_s"])
        if window_s is None:
            return error(HTTPStatus.BAD_REQUEST, "window_s is to be a number of seconds above 0")
        asked = (query["model"], query["version"], window_s, query["segment"], query["name"])
        for left in reversed(range(LOOKS)):
            found = self._board.column(*asked)
            if found is not None or not left:
                break
            await asyncio.sleep(LOOK_S)
        if found is None:
            return error(HTTPStatus.NOT_FOUND, "nothing is known of this column in this window and segment")
        body = _encode(found)
        return _document(request, body, gzip.compress(body, 1))

    async def events(self, request: web.Request) -> web.StreamResponse:
        """A stream that tells of changes by their number; the page fetches what it shows."""
        if self._streams >= MAX_STREAMS:
            busy = f"{MAX_STREAMS} streams are open already: poll /api/overview"
            return error(HTTPStatus.SERVICE_UNAVAILABLE, busy, {"Retry-After": "30"})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
        response.headers["Cache-Control"] = "no-store"
        if request.method == "HEAD":
            return response
        self._streams += 1
        try:
            await response.prepare(request)
            await self._tell(response)
        except (ConnectionError, TimeoutError):  # the client went away, or takes nothing
            if request.transport is not None:
                request.transport.abort()
        finally:
            self._streams -= 1
        return response

    async def _tell(self, response: web.StreamResponse) -> None:
        changes, told = self._board.changes, -1
        closing = asyncio.ensure_future(self._closing.wait())
        try:
            while not closing.done():
                news = asyncio.ensure_future(changes.beyond(told))
                done, _ = await asyncio.wait({news, closing}, timeout=self._beat_s, return_when=asyncio.FIRST_COMPLETED)
                if news in done:
                    told = news.result()
                else:
                    news.cancel()
                kind = "changed" if news in done else "beat"
                line = f"event: {kind}\nid: {told}\ndata: {told}\n\n".encode()
                async with asyncio.timeout(WRITE_TIMEOUT_S):
                    await response.write(line)
                await asyncio.wait({closing}, timeout=MIN_INTERVAL_S)
        finally:
            closing.cancel()

    async def probe(self, request: web.Request) -> web.StreamResponse:
        """Health and metrics, with the same routes as a worker's port."""
        accept, packing = request.headers.get("Accept", ""), request.headers.get("Accept-Encoding", "")
        return _plain(self._routes.answer(request.raw_path.partition("?")[0], accept, packing))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """An overview as it was sent."""

    sequence: int
    made_s: float
    body: bytes
    packed: bytes

    def serves(self, sequence: int, now_s: float) -> bool:
        """Whether it still does: nothing changed and it is young, or it is so young that it does not matter."""
        age_s = now_s - self.made_s
        return age_s < MIN_INTERVAL_S or (sequence == self.sequence and age_s < KEEP_S)


def error(status: HTTPStatus, message: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """An error as JSON."""
    return web.Response(
        status=status, body=_encode({"error": message}), content_type="application/json", headers=dict(headers or {})
    )


def _guard(log: Log, *, loopback: bool) -> Middleware:
    """The middleware around every answer: whose requests are taken, and what headers go out."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if loopback and not _names_this_machine(request.headers.get("Host", "")):
            return error(HTTPStatus.MISDIRECTED_REQUEST, "this port answers to localhost only; http.host opens it")
        return await _answer(request, handler, log)

    return guard


async def _answer(request: web.Request, handler: Handler, log: Log) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as refused:
        allow = {"Allow": refused.headers["Allow"]} if "Allow" in refused.headers else None
        return error(HTTPStatus(refused.status), refused.reason, allow)
    except Exception as failure:  # the page must get an answer, and a person the reason
        log.failure("dashboard_request_failed", failure, path=request.path)
        return error(HTTPStatus.INTERNAL_SERVER_ERROR, "internal error; see the sidecar's log")


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    """Put the security headers on whatever is about to be sent."""
    response.headers.update(SECURITY_HEADERS)
    response.headers["Server"] = "streamserve"
    response.headers.setdefault("Cache-Control", "no-store")


def _names_this_machine(host: str) -> bool:
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    return name.lower() in LOOPBACK_NAMES


def _seconds(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None


def _encode(document: Document) -> bytes:
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)


def _takes_gzip(request: web.Request) -> bool:
    return "gzip" in request.headers.get("Accept-Encoding", "")


def _document(request: web.Request, body: bytes, packed: bytes) -> web.Response:
    headers = {"Vary": "Accept-Encoding"}
    if len(body) >= COMPRESS_BYTES and _takes_gzip(request):
        return web.Response(
            body=packed, content_type="application/json", headers={**headers, "Content-Encoding": "gzip"}
        )
    return web.Response(body=body, content_type="application/json", headers=headers)


def _file(request: web.Request, asset: Asset) -> web.Response:
    headers = {"ETag": asset.tag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
    if asset.tag in request.headers.get("If-None-Match", ""):
        return web.Response(status=HTTPStatus.NOT_MODIFIED, headers=headers)
    headers["Content-Type"] = asset.content_type
    if asset.packed is not None and _takes_gzip(request):
        return web.Response(body=asset.packed, headers={**headers, "Content-Encoding": "gzip"})
    return web.Response(body=asset.body, headers=headers)


def _plain(answer: Response) -> web.Response:
    return web.Response(
        status=answer.status, body=answer.body, headers={"Content-Type": answer.content_type, **answer.headers}
    )
