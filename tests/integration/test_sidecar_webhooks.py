"""Webhooks of the sidecar against a real small HTTP server: once an alert, in order, and never in the drift path's way."""

from __future__ import annotations

import asyncio
import random
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import orjson
import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException

from streamserve.clock import SystemClock
from streamserve.config.loading import load
from streamserve.drift.chunk import encode
from streamserve.kafka.clients import reader_properties
from streamserve.sidecar import notifier as notifier_module
from streamserve.sidecar.notifier import Notifier, group_of
from streamserve.telemetry.logs import Log
from tests.services import produce
from tests.sidecars import Pipeline, SidecarProcess, Writer, sample_chunk
from tests.unit.sidecar.counting_monitor import Told


class Receiver:
    """Takes posts; `answer` says with which status, 0 hangs."""

    def __init__(self, port=0) -> None:
        self.posts = []
        self.posted = threading.Event()
        self.answer = lambda n: 200
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.posts.append((dict(self.headers), body))
                outer.posted.set()
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
        assert "SESSTMOUT" not in sidecar.log  # it stays a member for as long as it waits


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


def alert(number, age_s):
    """An alert, as a record of its topic."""
    what = {"incident": f"m-{number}", "sequence": 0, "alert": "opened", "severity": "warning", "title": "rows"}
    told = Told("alert", "m", pipeline="p", at_ms=1000, opened_ms=1000, **what)
    return {"value": told.json(), "timestamp": round((time.time() - age_s) * 1000)}


@pytest.mark.parametrize("unanswered", ["committed", "offsets_for_times", "commit"])
@pytest.mark.parametrize("how", ["raises", "tells"])
def test_a_new_webhook_gets_no_old_alerts_whatever_the_broker_leaves_unanswered(
    kafka, tmp_path, receiver, monkeypatch, unanswered, how
):
    pipeline = Pipeline(kafka.bootstrap, tmp_path, drift={"webhooks": [{"url": f"http://127.0.0.1:{receiver.port}/"}]})
    produce(pipeline.bootstrap, pipeline.alerts, [*(alert(n, 3600) for n in range(3)), alert(3, 0)])
    settings = load(pipeline.file).settings
    [webhook] = settings.drift.webhooks
    failed = []

    class Unsure(Consumer):
        """The first time it has no answer."""

        def _answer(self, name, *arguments, **options):
            if name != unanswered or failed:
                return getattr(super(), name)(*arguments, **options)
            failed.append(name)
            error = KafkaError(KafkaError.COORDINATOR_LOAD_IN_PROGRESS)
            if how == "raises":
                raise KafkaException(error)
            return [Unanswered(pipeline.alerts, error)]

        def committed(self, *arguments, **options):
            return self._answer("committed", *arguments, **options)

        def offsets_for_times(self, *arguments, **options):
            return self._answer("offsets_for_times", *arguments, **options)

        def commit(self, *arguments, **options):
            return self._answer("commit", *arguments, **options)

    monkeypatch.setattr(notifier_module, "Consumer", Unsure)
    monkeypatch.setattr(notifier_module, "BROKEN_PAUSE_S", 0.1)
    notifier = Notifier(
        reader_properties(settings, group=group_of(pipeline.name, webhook)),
        pipeline.alerts,
        webhook,
        dashboard="http://here/",
        count=lambda _: None,
        clock=SystemClock(),
        log=Log.open(verbosity=-3),
        rng=random.Random(1),
    )

    async def until_told():
        running = asyncio.create_task(notifier.run())
        async with asyncio.timeout(30):
            await asyncio.to_thread(receiver.posted.wait)
        running.cancel()
        await asyncio.wait({running})

    asyncio.run(until_told())
    assert failed
    assert keys(receiver) == ["m-3.0"]


class Unanswered:
    """A partition of which the client says an error."""

    def __init__(self, topic, error) -> None:
        self.topic, self.partition, self.offset, self.error = topic, 0, -1001, error
