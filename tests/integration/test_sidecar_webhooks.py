"""Webhooks of the sidecar against a real small HTTP server: once an alert, in order, and never in the drift path's way."""

from __future__ import annotations

import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import orjson
import pytest

from streamserve.drift.chunk import encode
from tests.sidecars import Pipeline, SidecarProcess, Writer, sample_chunk


class Receiver:
    """Takes posts; `answer` says with which status, 0 hangs."""

    def __init__(self, port=0) -> None:
        self.posts = []
        self.answer = lambda n: 200
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.posts.append((dict(self.headers), body))
                status = outer.answer(len(outer.posts))
                if status == 0:
                    time.sleep(20)
                    return
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def receiver():
    server = Receiver()
    yield server
    server.close()


def page(writer, pipeline, first, pages):
    """So many alerts, one transaction each."""
    for number in range(pages):
        writer.write(encode(sample_chunk(pipeline.name, first + 100 * number, 100)))


def keys(receiver):
    return [headers["Idempotency-Key"] for headers, _ in receiver.posts]


def test_alerts_of_an_outage_are_sent_once_it_is_over_once_each_and_in_order(kafka, tmp_path, receiver):
    port = receiver.port
    receiver.close()
    token = tmp_path / "token"
    token.write_text("secret\n")
    webhook = {"url": f"http://127.0.0.1:{port}/hook", "timeout_s": 2, "token_file": str(token)}
    pipeline = Pipeline(kafka.bootstrap, tmp_path, drift={"webhooks": [webhook]})
    writer = Writer(pipeline.bootstrap, pipeline.samples)
    with SidecarProcess(pipeline) as sidecar:
        sidecar.wait_ready()
        page(writer, pipeline, 0, 5)
        sidecar.wait_for(lambda: sidecar.metric("drift_webhooks_total", outcome="failed_attempt") >= 2)
        assert sidecar.rows() == {"m": 500}  # merging does not wait

        again = Receiver(port)
        again.answer = lambda n: 503 if n == 2 else 200
        sidecar.wait_for(lambda: sidecar.metric("drift_webhooks_total", outcome="sent") == 5)
        again.close()
        assert list(dict.fromkeys(keys(again))) == [f"m-{n}.0" for n in range(1, 6)]
        assert keys(again).count("m-2.0") == 2  # the one that was answered with 503
        headers, body = again.posts[0]
        assert headers["Authorization"] == "Bearer secret"
        assert orjson.loads(body)["incident"] == "m-1"
        assert "secret" not in sidecar.log


def test_a_webhook_that_hangs_holds_up_neither_merging_nor_the_other_webhook(kafka, tmp_path, receiver):
    hanging = Receiver()
    hanging.answer = lambda n: 0
    webhooks = [
        {"url": f"http://127.0.0.1:{hanging.port}/", "timeout_s": 3, "retry_s": 600},
        {"url": f"http://127.0.0.1:{receiver.port}/api/v2/alerts", "format": "alertmanager"},
    ]
    pipeline = Pipeline(kafka.bootstrap, tmp_path, drift={"webhooks": webhooks})
    writer = Writer(pipeline.bootstrap, pipeline.samples)
    with SidecarProcess(pipeline) as sidecar:
        sidecar.wait_ready()
        page(writer, pipeline, 0, 4)
        sidecar.wait_for(lambda: len(receiver.posts) == 4)
        assert sidecar.rows() == {"m": 400}
        assert keys(hanging) == ["m-1.0"] * len(hanging.posts)  # no other overtakes it
        first = orjson.loads(receiver.posts[0][1])[0]
        assert first["labels"]["incident"] == "m-1"
        sidecar.process.send_signal(signal.SIGTERM)
        assert sidecar.process.wait(10) == 0
    hanging.close()


def test_an_alert_that_was_not_sent_is_sent_by_the_next_life(kafka, tmp_path, receiver):
    receiver.answer = lambda n: 500
    webhook = {"url": f"http://127.0.0.1:{receiver.port}/", "timeout_s": 2}
    pipeline = Pipeline(kafka.bootstrap, tmp_path, drift={"webhooks": [webhook]})
    writer = Writer(pipeline.bootstrap, pipeline.samples)
    with SidecarProcess(pipeline) as sidecar:
        sidecar.wait_ready()
        page(writer, pipeline, 0, 3)
        sidecar.wait_for(lambda: receiver.posts)
        sidecar.process.kill()
    receiver.answer = lambda n: 200
    receiver.posts.clear()
    with SidecarProcess(pipeline) as sidecar:
        sidecar.wait_for(lambda: sidecar.metric("drift_webhooks_total", outcome="sent") == 3)
        assert keys(receiver) == ["m-1.0", "m-2.0", "m-3.0"]
