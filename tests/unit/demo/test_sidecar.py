"""The demo's view of the sidecar, over a real port: what is shown, when it has read everything, what is missing."""

from __future__ import annotations

import json
import sys
import threading
import time
import types
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from streamserve.demo.local_process import free_ports
from streamserve.demo.served import fetch, first_port, ready
from streamserve.demo.sidecar import PACKAGES, Glance, missing_packages

NEWEST_MS = 1_357_035_420_000


@dataclass
class Dashboard:
    """Answers as the sidecar's port does."""

    port: int = 0
    healthy: bool = True
    alive: bool = True
    log: Path = Path("sidecar.log")
    document: dict = field(default_factory=dict)

    @property
    def dashboard(self):
        return f"http://127.0.0.1:{self.port}/"


@pytest.fixture
def dashboard():
    served = Dashboard(document=overview(chunks=1, joined=0))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            is_health = self.path == "/v2/health/ready"
            self.send_response(503 if is_health and not served.healthy else 200)
            self.end_headers()
            self.wfile.write(b"" if is_health else json.dumps(served.document).encode())

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        served.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield served
        server.shutdown()


@pytest.fixture
def glance(dashboard):
    looking = Glance(dashboard)
    looking.start()
    yield looking
    looking.stop()


def overview(*, chunks, joined, message="Nothing drifts."):
    return {
        "state": "ok", "message": message, "pipeline": "flights",
        "models": [{"newest_ms": NEWEST_MS, "labels": {"joined": joined}}, {"newest_ms": NEWEST_MS, "labels": None}],
        "sidecar": {"chunks": chunks},
    }  # fmt: skip


def eventually(fact, timeout_s=20):
    deadline = time.monotonic() + timeout_s
    while not fact():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_address_stands_there_from_the_start_and_the_state_when_it_is_known(dashboard):
    looking = Glance(dashboard)
    assert looking.text == f"dashboard {dashboard.dashboard} starts"
    looking.start()
    eventually(lambda: looking.text == f"dashboard {dashboard.dashboard} · Nothing drifts.")
    dashboard.document = overview(chunks=2, joined=0, message="Drift of temp.")
    eventually(lambda: looking.text.endswith("Drift of temp."))
    looking.stop()


def test_a_sidecar_that_is_not_ready_is_not_asked(dashboard):
    dashboard.healthy = False
    looking = Glance(dashboard)
    looking.start()
    time.sleep(1.2)
    assert (looking.ready, looking.overview) == (False, None)
    dashboard.healthy = True
    eventually(lambda: looking.overview is not None)
    looking.stop()


def test_it_has_caught_up_when_every_label_has_its_prediction_and_nothing_new_was_read(dashboard, glance):
    assert not glance.caught_up(NEWEST_MS, 0)
    eventually(lambda: glance.caught_up(NEWEST_MS, 0))
    dashboard.document = overview(chunks=1, joined=7)
    eventually(lambda: not glance.caught_up(NEWEST_MS, 7))
    eventually(lambda: glance.caught_up(NEWEST_MS, 7))
    assert not glance.caught_up(NEWEST_MS, 8)


def test_labels_that_never_find_a_prediction_are_not_waited_for_without_an_end(glance):
    eventually(lambda: glance.caught_up(NEWEST_MS, 1_000_000))
    assert glance.overview.joined == 0


def test_it_has_not_caught_up_while_its_newest_samples_are_of_another_day(glance):
    eventually(lambda: glance.caught_up(NEWEST_MS + 3_600_000, 0))
    assert not glance.caught_up(NEWEST_MS + 86_400_000, 0)


def test_one_that_ended_is_told_with_its_log(dashboard, glance):
    dashboard.alive = False
    assert "the sidecar ended" in glance.text
    assert "sidecar.log" in glance.text


def test_a_port_that_nobody_listens_on_gives_nothing():
    (port,) = free_ports(1)
    assert fetch(port, "/api/overview") is None
    assert not ready(port)


def test_the_preferred_port_is_left_when_somebody_has_it(dashboard):
    assert first_port(dashboard.port) != dashboard.port
    (free,) = free_ports(1)
    assert first_port(free) == free


@pytest.mark.parametrize("package", PACKAGES)
def test_without_its_packages_there_is_no_sidecar_and_the_remedy_is_told(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    reason = missing_packages()
    assert package in reason
    assert 'pip install "streamserve[sidecar]"' in reason


def test_a_package_that_replaced_its_own_module_is_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "faust", types.ModuleType("faust"))
    assert sys.modules["faust"].__spec__ is None
    assert missing_packages() is None
