"""The observability port on real sockets."""

import gzip
import http.client
import io
import json
import socket
import threading
import time
from dataclasses import dataclass, replace

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from streamserve.config.settings import HttpSettings
from streamserve.errors import StreamServeError
from streamserve.ports import TensorSpec
from streamserve.telemetry import http as server_module
from streamserve.telemetry.health import Health
from streamserve.telemetry.http import ObservabilityServer
from streamserve.telemetry.logs import Log
from streamserve.telemetry.metadata import ModelMetadata
from streamserve.telemetry.metrics import WorkerMetrics
from tests.unit.telemetry.manual_clock import HandClock

MODEL = ModelMetadata(
    name="delay",
    version="3",
    inputs=[
        TensorSpec(name="x", dtype="float32", shape=(-1, 16)),
        TensorSpec(name="c", dtype="str", shape=(-1,)),
    ],
    outputs=[
        TensorSpec(name="p", dtype="int64", shape=(-1, 1)),
        TensorSpec(name="b", dtype="bool", shape=(-1,)),
    ],
)
QUIET = Log.open(verbosity=-2)


@dataclass
class World:
    server: ObservabilityServer
    health: Health
    clock: HandClock
    models: list

    def ask(self, path, method="GET", headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=10)
        connection.request(method, path, headers=headers or {})
        response = connection.getresponse()
        body = response.read()
        connection.close()
        return response, body

    def json(self, path):
        response, body = self.ask(path)
        return response.status, json.loads(body)

    def raw(self, data):
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=10) as connection:
            connection.sendall(data)
            return read_all(connection)


def read_all(connection):
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


@pytest.fixture
def world():
    clock = HandClock()
    health = Health(clock, stall_s=60)
    registry = CollectorRegistry()
    WorkerMetrics(registry, pipeline="p", model="delay", version="3")
    models = [MODEL]
    server = ObservabilityServer(
        HttpSettings(port=0),
        0,
        health=health,
        registry=registry,
        models=lambda: models,
        log=QUIET,
        request_timeout_s=1.0,
    )
    with server:
        yield World(server, health, clock, models)


def test_live_follows_health(world):
    assert world.json("/v2/health/live") == (200, {"live": True})
    world.health.tick()
    world.clock.now_s += 1000
    assert world.json("/v2/health/live") == (503, {"live": False, "why": ["no tick for 1000 s"]})


def test_ready_says_what_is_missing(world):
    assert world.json("/v2/health/ready") == (
        503,
        {"ready": False, "why": ["topics", "model", "warm", "group"]},
    )
    for name in ("topics", "model", "warm", "group"):
        world.health.condition(name, True)
    assert world.json("/v2/health/ready") == (200, {"ready": True})
    assert world.json("/v2/health/ready?verbose=1")[0] == 200


def test_server_metadata(world):
    status, document = world.json("/v2")
    assert status == 200
    assert document["name"] == "streamserve"
    assert document["extensions"] == []
    assert isinstance(document["version"], str)


@pytest.mark.parametrize("path", ["/v2/models/delay", "/v2/models/delay/versions/3"])
def test_model_metadata_is_the_protocols(world, path):
    assert world.json(path) == (
        200,
        {
            "name": "delay",
            "versions": ["3"],
            "platform": "onnx_onnxv1",
            "inputs": [
                {"name": "x", "datatype": "FP32", "shape": [-1, 16]},
                {"name": "c", "datatype": "BYTES", "shape": [-1]},
            ],
            "outputs": [
                {"name": "p", "datatype": "INT64", "shape": [-1, 1]},
                {"name": "b", "datatype": "BOOL", "shape": [-1]},
            ],
        },
    )


def test_metadata_is_there_for_every_version_that_serves_the_stable_one_first(world):
    world.models.append(replace(MODEL, version="4", inputs=[]))
    assert world.json("/v2/models/delay")[1]["versions"] == ["3", "4"]
    assert world.json("/v2/models/delay")[1]["inputs"] != []
    assert world.json("/v2/models/delay/versions/4")[1]["inputs"] == []
    assert world.json("/v2/models/delay/versions/5")[0] == 404


@pytest.mark.parametrize("path", ["/v2/models/delay/ready", "/v2/models/delay/versions/3/ready"])
def test_a_model_is_ready_when_loaded_and_warm(world, path):
    assert world.json(path) == (503, {"name": "delay", "ready": False})
    world.health.condition("model", True)
    world.health.condition("warm", True)
    assert world.json(path) == (200, {"name": "delay", "ready": True})


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/nothing",
        "/v2/models",
        "/v2/models/other",
        "/v2/models/delay/versions/4",
        "/v2/models/other/ready",
        "/v2/x%00%ff",
    ],
)
def test_what_is_not_there_is_a_404_in_json(world, path):
    status, document = world.json(path)
    assert status == 404
    assert list(document) == ["error"]


def test_before_a_model_is_loaded_there_is_none(world):
    world.models.clear()
    assert world.json("/v2/models/delay")[0] == 404


def test_metrics_parse(world):
    response, body = world.ask("/metrics")
    assert response.status == 200
    assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    names = {family.name for family in text_string_to_metric_families(body.decode())}
    assert "streamserve_records_consumed" in names


def test_metrics_negotiate_format_and_compression(world):
    accept = {"Accept": "application/openmetrics-text; version=1.0.0", "Accept-Encoding": "gzip"}
    response, body = world.ask("/metrics", headers=accept)
    assert response.headers["Content-Type"].startswith("application/openmetrics-text")
    assert response.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(body).endswith(b"# EOF\n")


def test_a_nonsense_accept_header_gets_plain_text(world):
    response, _ = world.ask("/metrics", headers={"Accept": "application/openmetrics-text; version=x.y"})
    assert response.status == 200


def test_head_has_the_headers_and_no_body(world):
    answer = world.raw(b"HEAD /v2 HTTP/1.1\r\nHost: x\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]) > 0
    assert body == b""


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "BREW"])
def test_only_get_and_head(world, method):
    response, body = world.ask("/v2/health/live", method=method)
    assert response.status == 405
    assert response.headers["Allow"] == "GET, HEAD"
    assert "error" in json.loads(body)


def test_a_post_with_a_body_still_hears_its_405(world):
    answer = world.raw(b"POST /v2 HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n" + b"x" * 200_000)
    assert answer.startswith(b"HTTP/1.1 405")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /v2 HTTP/1.1\r\nX: " + b"y" * 20_000 + b"\r\n\r\n", b"431"),
        (b"GET /" + b"y" * 20_000 + b" HTTP/1.1\r\n\r\n", b"431"),
        (b"GET /v2 HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n", b"431"),
        (b"GET /v2 HTTP/9.9\r\n\r\n", b"505"),
        (b"complete and utter nonsense here\r\n\r\n", b"400"),
    ],
)
def test_a_bad_head_gets_an_error_in_json(world, data, status):
    answer = world.raw(data)
    assert answer.split(b" ", 2)[1] == status
    assert list(json.loads(answer.partition(b"\r\n\r\n")[2])) == ["error"]
    assert world.json("/v2")[0] == 200


def test_nothing_tells_which_python_answers(world):
    response, _ = world.ask("/v2")
    assert response.headers["Server"] == "streamserve"


def test_a_client_that_drips_is_cut_off_and_does_not_hold_up_others(world):
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", world.server.port), timeout=10) as slow:
        slow.sendall(b"GET /v2 HTTP/1.1\r\n")
        try:
            while time.monotonic() - began < 8:
                slow.sendall(b"X")
                time.sleep(0.1)
                assert world.json("/v2")[0] == 200
        except OSError:
            pass
        assert 0.5 < time.monotonic() - began < 5


def test_a_silent_client_is_cut_off(world):
    with socket.create_connection(("127.0.0.1", world.server.port), timeout=10) as silent:
        assert silent.recv(1) == b""


def test_the_number_of_threads_is_bounded_and_recovers(world):
    before = threading.active_count()
    crowd = [socket.create_connection(("127.0.0.1", world.server.port), timeout=10) for _ in range(100)]
    try:
        time.sleep(0.3)
        assert threading.active_count() - before <= server_module.MAX_CONNECTIONS
    finally:
        for connection in crowd:
            connection.close()
    until = time.monotonic() + 5
    while True:
        try:
            assert world.json("/v2")[0] == 200
            break
        except (OSError, http.client.HTTPException):
            assert time.monotonic() < until
            time.sleep(0.05)


def server(port, slot_index=0, host="127.0.0.1"):
    health = Health(HandClock(), stall_s=60)
    return ObservabilityServer(
        HttpSettings(host=host, port=port),
        slot_index,
        health=health,
        registry=CollectorRegistry(),
        models=lambda: (),
        log=QUIET,
    )


def test_close_does_not_wait_for_clients(world):
    with socket.create_connection(("127.0.0.1", world.server.port), timeout=10) as idle:
        idle.sendall(b"GET ")
        began = time.monotonic()
        world.server.close()
        world.server.close()
        assert time.monotonic() - began < 0.8


def test_a_busy_port_is_named_with_the_remedy(world):
    with pytest.raises(StreamServeError, match=rf"port {world.server.port} on 127\.0\.0\.1 is in use.*http\.port"):
        server(world.server.port).open()


def test_slots_take_the_ports_after_the_first():
    with server(0) as first:
        base = first.port
    with pytest.raises(RuntimeError):
        _ = first.port
    if base < 65535:
        with server(base, 1) as second:
            assert second.port == base + 1
    with pytest.raises(StreamServeError, match="65536"):
        server(65535, 1).open()


def test_a_host_that_is_not_ours_is_an_error_that_names_the_key():
    with pytest.raises(StreamServeError, match=r"http\.host"):
        server(8080, host="203.0.113.1").open()


def test_a_provider_that_fails_is_a_500_and_a_line_in_the_log():
    def broken():
        raise RuntimeError("no model")

    stream = io.StringIO()
    health = Health(HandClock(), stall_s=60)
    log = Log.open(stream=stream, verbosity=-2)
    listening = ObservabilityServer(
        HttpSettings(port=0), 0, health=health, registry=CollectorRegistry(), models=broken, log=log
    )
    with listening, socket.create_connection(("127.0.0.1", listening.port), timeout=10) as connection:
        connection.sendall(b"GET /v2/models/m HTTP/1.1\r\n\r\n")
        assert read_all(connection).startswith(b"HTTP/1.1 500")
    assert json.loads(stream.getvalue())["event"] == "http_request_failed"
