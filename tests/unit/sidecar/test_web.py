"""The sidecar's port on real sockets: what is served, to whom, and with which bounds."""

from __future__ import annotations

import asyncio
import io
import json
import re
from contextlib import asynccontextmanager

import aiohttp
import pytest
from prometheus_client import CollectorRegistry, Gauge

from streamserve.errors import StreamServeError
from streamserve.sidecar import listener, web
from streamserve.sidecar.assets import load_assets
from streamserve.sidecar.listener import DashboardServer
from streamserve.sidecar.web import Changes, Sources
from streamserve.telemetry.logs import Log
from tests.unit.sidecar.sample_board import STATES, SampleBoard, healthy, sources


class World:
    def __init__(self, board, server, session):
        self.board = board
        self.server = server
        self.session = session

    def url(self, path):
        return f"http://127.0.0.1:{self.server.port}{path}"

    async def ask(self, path, method="GET", **options):
        async with self.session.request(method, self.url(path), **options) as response:
            return response, await response.read()

    async def json(self, path, **options):
        response, body = await self.ask(path, **options)
        return response.status, json.loads(body)

    async def raw(self, data):
        """What comes back for these bytes, until the server closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        writer.write(data)
        try:
            return await asyncio.wait_for(reader.read(), 20)
        finally:
            writer.close()


@asynccontextmanager
async def served(board=None, *, log=None, registry=None, health=None, **options):
    board = board or SampleBoard("alarm", features=40)
    given = sources(board, log)
    given = Sources(
        board=board, health=health or given.health, registry=registry or given.registry, clock=given.clock, log=given.log
    )  # fmt: skip
    async with DashboardServer("127.0.0.1", 0, given, **options) as server, aiohttp.ClientSession() as session:
        yield World(board, server, session)


def run(test, *arguments, **options):
    """Run a test's coroutine against a server of its own."""

    async def go():
        async with served(*arguments, **options) as world:
            await test(world)

    asyncio.run(go())


async def event(stream):
    """The next server-sent event as (kind, number)."""
    fields = {}
    while line := (await asyncio.wait_for(stream.readline(), 20)).decode().rstrip("\n"):
        name, _, value = line.partition(": ")
        fields[name] = value
    assert fields["id"] == fields["data"]
    return fields["event"], int(fields["data"])


def test_the_page_and_every_file_it_names_are_served():
    async def test(world):
        response, body = await world.ask("/")
        assert response.status == 200
        assert response.content_type == "text/html"
        named = set(re.findall(r'(?:src|href)="([^"#]+\.(?:js|css|svg))"', body.decode()))
        assert {"app.js", "style.css", "vendor/uplot.js"} <= named
        for name in named:
            response, _ = await world.ask(f"/{name}")
            assert response.status == 200, name

    run(test)


def test_every_module_that_a_script_imports_is_served_and_preloaded():
    assets = load_assets()
    page = assets["index.html"].body.decode()
    for name, asset in assets.items():
        if name.endswith(".js") and not name.startswith("vendor/"):
            for imported in re.findall(r'from "\./([\w.]+)"', asset.body.decode()):
                assert imported in assets
                assert f'href="{imported}"' in page or f'src="{imported}"' in page


def test_the_page_holds_nothing_inline_and_names_no_other_host():
    for name, asset in load_assets().items():
        if name.startswith("vendor/"):
            continue
        text = asset.body.decode()
        hosts = set(re.findall(r"https?://([\w.-]+)", text)) - {"www.w3.org"}  # the name space of SVG
        assert hosts == set(), name
        if name.endswith(".html"):
            assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:|<script(?![^>]*\ssrc=)", text)


def test_the_modules_are_short():
    for name, asset in load_assets().items():
        if not name.startswith("vendor/"):
            assert asset.body.count(b"\n") <= 450, name


def test_uplot_comes_with_its_licence():
    assets = load_assets()
    assert b"uPlot (v1.6.32)" in assets["vendor/uplot.js"].body
    assert b"MIT License" in assets["vendor/LICENSE"].body


@pytest.mark.parametrize("path", ["/", "/api/overview", "/metrics", "/v2/health/ready", "/nope", "/api/column"])
def test_every_answer_carries_the_security_headers(path):
    async def test(world):
        response, _ = await world.ask(path)
        for name, value in web.SECURITY_HEADERS.items():
            assert response.headers[name] == value
        assert "unsafe" not in response.headers["Content-Security-Policy"]
        assert response.headers["Server"] == "streamserve"
        assert "Access-Control-Allow-Origin" not in response.headers

    run(test)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("path", ["/", "/api/overview", "/metrics"])
def test_nothing_can_be_changed(method, path):
    async def test(world):
        response, body = await world.ask(path, method)
        assert response.status == 405
        assert set(response.headers["Allow"].split(",")) == {"GET", "HEAD"}
        assert "error" in json.loads(body)

    run(test)


@pytest.mark.parametrize(
    "path",
    [
        "/../web.py",
        "/%2e%2e/web.py",
        "/vendor/../../web.py",
        "/..%2fweb.py",
        "/web.py",
        "/vendor",
        "/vendor/",
        "//etc/passwd",
    ],
)
def test_no_path_leads_out_of_the_dashboard(path):
    async def test(world):
        answer = await world.raw(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 404")
        assert b"import" not in answer

    run(test)


def test_a_file_that_the_browser_has_is_not_sent_again():
    async def test(world):
        first, body = await world.ask("/app.js")
        second, nothing = await world.ask("/app.js", headers={"If-None-Match": first.headers["ETag"]})
        assert (second.status, nothing) == (304, b"")
        assert len(body) > 1000
        assert first.headers["Content-Encoding"] == "gzip"

    run(test)


def test_without_gzip_files_and_data_come_as_they_are():
    async def test(world):
        for path in ("/app.js", "/api/overview"):
            response, body = await world.ask(path, headers={"Accept-Encoding": "identity"})
            assert "Content-Encoding" not in response.headers
            assert int(response.headers["Content-Length"]) == len(body)

    run(test)


def test_head_is_get_without_a_body():
    async def test(world):
        for path in ("/", "/api/overview", "/api/events", "/metrics"):
            response, body = await world.ask(path, "HEAD")
            assert (response.status, body) == (200, b""), path

    run(test)


@pytest.mark.parametrize("state", STATES)
def test_the_overview_is_the_boards(state):
    async def test(world):
        status, document = await world.json("/api/overview")
        assert status == 200
        assert document["state"] == state
        assert document == json.loads(json.dumps(world.board.overview()))

    run(test, SampleBoard(state, features=40))


def test_numbers_that_are_not_finite_are_null():
    board = SampleBoard("ok", features=40)
    document = {**board.overview(), "traffic": {"lag": [float("nan"), float("inf"), 1.0]}}
    board.overview = lambda: document

    async def test(world):
        _, answer = await world.json("/api/overview")
        assert answer["traffic"]["lag"] == [None, None, 1.0]

    run(test, board)


def test_a_moments_readers_share_one_overview():
    board = SampleBoard("ok", features=40)
    made = []
    overview = board.overview
    board.overview = lambda: made.append(1) or overview()

    async def test(world):
        await asyncio.gather(*(world.ask("/api/overview") for _ in range(20)))
        assert len(made) < 20

    run(test, board)


def test_an_overview_is_kept_until_there_is_news_and_no_longer_than_a_second():
    kept = web._Kept(sequence=4, made_s=100.0, body=b"", packed=b"")
    assert kept.serves(4, 100.9)
    assert not kept.serves(4, 101.1)
    assert kept.serves(5, 100.1)
    assert not kept.serves(5, 100.3)


def test_a_column_that_a_busy_monitor_does_not_know_yet_is_asked_for_again():
    board = SampleBoard()
    column, busy = board.column, iter([True, True])
    board.column = lambda *asked: None if next(busy, False) else column(*asked)

    async def test(world):
        query = {"model": "delay", "version": "8", "window_s": "600.0", "segment": "", "name": "carrier"}
        status, document = await world.json("/api/column", params=query)
        assert (status, document["name"]) == (200, "carrier")

    run(test, board)


def test_a_column_is_found_by_model_version_window_segment_and_name():
    async def test(world):
        query = {"model": "delay", "version": "8", "window_s": "600.0", "segment": "origin=EWR", "name": "carrier"}
        status, document = await world.json("/api/column", params=query)
        assert status == 200
        assert (document["name"], document["window_s"], document["segment"]) == ("carrier", 600.0, "origin=EWR")
        status, document = await world.json("/api/column", params={**query, "name": "nobody"})
        assert status == 404
        assert "error" in document

    run(test)


@pytest.mark.parametrize("window_s", ["", "x", "0", "-1", "nan", "inf", "1e999"])
def test_a_window_that_is_none_is_refused(window_s):
    async def test(world):
        status, document = await world.json("/api/column", params={"window_s": window_s, "name": "carrier"})
        assert status == 400
        assert "window_s" in document["error"]

    run(test)


def test_a_parameter_without_end_is_refused():
    async def test(world):
        status, _ = await world.json("/api/column", params={"window_s": "60", "name": "x" * 600})
        assert status == 400

    run(test)


def test_a_broken_board_is_an_answer_and_a_line_in_the_log():
    log = io.StringIO()
    board = SampleBoard("ok", features=40)
    board.broken = True

    async def test(world):
        status, document = await world.json("/api/overview")
        assert status == 500
        assert document == {"error": "internal error; see the sidecar's log"}
        board.broken = False
        assert (await world.json("/api/overview"))[0] == 200

    run(test, board, log=Log.open(stream=log, format="json"))
    assert "broken on purpose" in log.getvalue()
    assert "dashboard_request_failed" in log.getvalue()


def test_probes_and_metrics_are_those_of_a_workers_port():
    registry = CollectorRegistry()
    Gauge("streamserve_drift_columns", "Columns that drifted.", registry=registry).set(6)
    health = healthy()

    async def test(world):
        assert await world.json("/v2/health/live") == (200, {"live": True})
        assert await world.json("/v2/health/ready") == (200, {"ready": True})
        health.condition("group", met=False)
        assert await world.json("/v2/health/ready") == (503, {"ready": False, "why": ["group"]})
        _, body = await world.ask("/metrics")
        assert b"streamserve_drift_columns 6.0" in body

    run(test, registry=registry, health=health)


def test_a_stream_tells_where_it_stands_and_then_of_every_change():
    async def test(world):
        async with world.session.get(world.url("/api/events")) as response:
            assert response.content_type == "text/event-stream"
            assert await event(response.content) == ("changed", 0)
            world.board.step()
            assert await event(response.content) == ("changed", 1)
            world.board.step()
            world.board.step()
            assert await event(response.content) == ("changed", 3)

    run(test)


def test_a_burst_of_changes_is_told_in_few_events():
    async def test(world):
        async with world.session.get(world.url("/api/events")) as response:
            await event(response.content)
            told = 0
            for _ in range(50):
                world.board.step()
                await asyncio.sleep(0.01)
            while (await event(response.content))[1] < 50:
                told += 1
            assert told < 10

    run(test)


def test_a_silent_stream_beats():
    async def go():
        app = web.application(sources(SampleBoard("ok", features=40)), beat_s=0.05)
        runner = aiohttp.web.AppRunner(app)
        await runner.setup()
        site = aiohttp.web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/api/events") as response:
            assert await event(response.content) == ("changed", 0)
            assert await event(response.content) == ("beat", 0)
        await runner.cleanup()

    asyncio.run(go())


def test_streams_are_bounded_and_a_closed_one_makes_room(monkeypatch):
    monkeypatch.setattr(web, "MAX_STREAMS", 2)

    async def test(world):
        streams = [await world.session.get(world.url("/api/events")) for _ in range(2)]
        status, document = await world.json("/api/events")
        assert status == 503
        assert "poll" in document["error"]
        streams[0].close()
        for _ in range(200):
            world.board.step()
            async with world.session.get(world.url("/api/events")) as again:
                if again.status == 200:
                    break
            await asyncio.sleep(0.05)
        else:
            raise AssertionError("the stream that was closed keeps its place")
        streams[1].close()

    run(test)


def test_closing_ends_the_streams():
    async def go():
        async with served() as world:
            async with world.session.get(world.url("/api/events")) as response:
                await event(response.content)
                await asyncio.wait_for(world.server.close(), 10)
                assert await response.content.read() == b""
            await world.server.close()

    asyncio.run(go())


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8090", "127.0.0.1.evil.example", "", "[::2]:80"])
def test_on_loopback_another_name_is_another_site(host):
    async def test(world):
        status, document = await world.json("/api/overview", headers={"Host": host})
        assert status == 421
        assert "localhost" in document["error"]

    run(test)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:8090", "[::1]:8090", "[::1]"])
def test_on_loopback_this_machines_names_are_answered(host):
    async def test(world):
        response, _ = await world.ask("/api/overview", headers={"Host": host})
        assert response.status == 200

    run(test)


def test_opened_to_the_network_any_name_is_answered():
    async def go():
        server = DashboardServer("0.0.0.0", 0, sources(SampleBoard("ok", features=40)))  # noqa: S104  # the case itself
        async with server, aiohttp.ClientSession() as session:
            url = f"http://127.0.0.1:{server.port}/api/overview"
            async with session.get(url, headers={"Host": "drift.example"}) as response:
                assert response.status == 200

    asyncio.run(go())


def test_a_connection_that_asks_for_nothing_is_closed():
    async def test(world):
        assert await world.raw(b"") == b""
        assert await world.raw(b"GET / HTTP/1.1\r\nHost: local") == b""

    run(test, first_request_s=0.2)


def test_connections_are_bounded(monkeypatch):
    monkeypatch.setattr(listener, "MAX_CONNECTIONS", 3)

    async def test(world):
        held = [await asyncio.open_connection("127.0.0.1", world.server.port) for _ in range(3)]
        await asyncio.sleep(0.1)
        reader, writer = await asyncio.open_connection("127.0.0.1", world.server.port)
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()
        for _, one in held:
            one.close()
        for _ in range(100):
            if (await world.raw(b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")).startswith(
                b"HTTP/1.1 200"
            ):
                return
            await asyncio.sleep(0.05)
        raise AssertionError("no room after the others left")

    run(test)


def test_a_head_without_end_is_refused_and_not_logged():
    log = io.StringIO()

    async def test(world):
        answer = await world.raw(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 40_000 + b"\r\n\r\n")
        assert answer.startswith((b"HTTP/1.0 400", b"HTTP/1.1 400"))

    run(test, log=Log.open(stream=log, format="json"))
    assert [json.loads(line)["event"] for line in log.getvalue().splitlines()] == ["dashboard_listening"]


def test_a_port_in_use_is_told_with_the_remedy():
    async def test(world):
        again = DashboardServer("127.0.0.1", world.server.port, sources(world.board))
        with pytest.raises(StreamServeError, match=r"drift\.http_port"):
            await again.open()
        with pytest.raises(RuntimeError):
            _ = again.port

    run(test)


def test_changes_wake_all_who_wait():
    async def go():
        changes = Changes()
        waiting = [asyncio.create_task(changes.beyond(0)) for _ in range(3)]
        await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
        changes.advance()
        assert await asyncio.gather(*waiting) == [1, 1, 1]
        assert await changes.beyond(0) == 1

    asyncio.run(go())
