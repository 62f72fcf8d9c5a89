"""A model's life as its users live it: the flights learn anew on request, canary, experiment, promotion, replay."""

from __future__ import annotations

import json
import subprocess
import time

import pytest

from streamserve.demo.flights import Flights
from streamserve.drift.events import RetrainRequest
from tests.markdown import ROOT
from tests.pipelines import drained, environment, flights_folder, free_port, run, running, tailed, wait_ready
from tests.services import produce

SEPTEMBER_MS = 1_377_993_600_000
FIRST = 220_000
"""A departure of late August."""
MORE = f"""
rollout: {{guard: {{drift: false}}}}
retrain:
  command: [python, {ROOT}/examples/flights/retrain.py]
  environment: [OMP_NUM_THREADS]
  check: {{rows: 1000, metrics: {{gain_auc: 0.0}}}}
  weight: 0.3
"""


class Pipeline:
    def __init__(self, folder, prefix, env, bootstrap):
        self.folder, self.prefix, self.env, self.bootstrap = folder, prefix, env, bootstrap
        self.flights = Flights.load()
        self.sent = 0
        self.seen = set()

    def send(self, count):
        """Departures, in order."""
        start = FIRST + self.sent
        produce(self.bootstrap, f"{self.prefix}.departures", self.flights.encoded(start, start + count))
        self.sent += count

    def predictions(self):
        """Those that were not asked for before, when every departure sent has one."""
        found = [record["value"] for record in tailed(self.folder, self.env, self.sent)]
        fresh = [prediction for prediction in found if prediction["id"] not in self.seen]
        self.seen |= {prediction["id"] for prediction in fresh}
        return fresh

    def label(self):
        """What became of every departure sent."""
        late = self.flights.late()[FIRST : FIRST + self.sent]
        ids = self.flights.flight_ids(FIRST, FIRST + self.sent)
        values = [
            json.dumps({"id": name, "label": int(truth), "ts": SEPTEMBER_MS}).encode()
            for name, truth in zip(ids, late, strict=True)
            if truth >= 0
        ]
        produce(self.bootstrap, f"{self.prefix}.labels", values)

    def say(self, *words, timeout_s=60):
        return run(["streamserve", *words], self.folder, self.env, timeout_s=timeout_s).stdout

    def told(self, *words):
        return json.loads(self.say(*words, "--format", "json"))


@pytest.fixture
def pipeline(tmp_path, kafka, redis_server):
    prefix = flights_folder(tmp_path)
    config = tmp_path / "streamserve.yaml"
    text = "".join(line for line in config.read_text().splitlines(keepends=True) if not line.startswith("rollout:"))
    config.write_text(text + MORE)
    port = free_port()
    env = environment(
        KAFKA_BOOTSTRAP=kafka.bootstrap,
        REDIS_URL=redis_server.url,
        STREAMSERVE_HTTP__PORT=str(port),
        OMP_NUM_THREADS="1",
    )
    made = Pipeline(tmp_path, prefix, env, kafka.bootstrap)
    made.say("topics", "apply")
    log = tmp_path / "worker.log"
    with running(["streamserve", "run"], tmp_path, env, log) as worker:
        wait_ready(port, worker, log)
        yield made
        drained(worker, log)


def roles(predictions):
    return {(p["version"], p.get("role", ""), p.get("arm", "")) for p in predictions}


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_a_models_life(pipeline, tmp_path):
    pipeline.send(1500)
    assert roles(pipeline.predictions()) == {("1", "", "")}

    # The monitor asks; the runner trains, checks, and puts the new version on canary.
    asked = RetrainRequest(
        pipeline=pipeline.prefix, model="flight-delay", version="1", reason="performance fell", at_ms=SEPTEMBER_MS,
        evidence={},
    )  # fmt: skip
    log = tmp_path / "retrain.log"
    with running(["streamserve", "retrain"], pipeline.folder, pipeline.env, log) as runner:
        until(lambda: "waiting_for_requests" in log.read_text(), runner, log)
        produce(pipeline.bootstrap, f"{pipeline.prefix}.drift.alerts", [(b"flight-delay", asked.json())])
        until(
            lambda: '"result":"canary"' in log.read_text().replace(" ", "") or "result=canary" in log.read_text(),
            runner,
            log,
        )
        runner.terminate()
        assert runner.wait(30) == 0, log.read_text()
    state = pipeline.told("model", "status")["state"]
    assert (state["stable"], state["canary"], state["weight"]) == ("1", "2", 0.3)
    until(
        lambda: all(
            slot["acknowledgement"]["serving"] == state["revision"]
            for slot in pipeline.told("model", "status")["workers"]
        )
    )

    pipeline.send(2000)
    assert roles(pipeline.predictions()) == {("1", "stable", ""), ("2", "canary", "")}
    pipeline.label()
    report = pipeline.told("model", "report")
    assert report["arms"]["stable"]["version"] == "1"
    assert report["arms"]["canary"]["version"] == "2"
    assert report["arms"]["canary"]["labels"] > 300
    assert report["differences"]["canary"]["low"] < report["differences"]["canary"]["high"]

    # An experiment instead.
    pipeline.say("model", "rollback")
    pipeline.say("model", "experiment", "autumn", "--arm", "control=1:0.5", "--arm", "new=2:0.5")
    pipeline.send(2000)
    assert {arm for _, _, arm in roles(pipeline.predictions())} == {"control", "new"}
    pipeline.label()
    report = pipeline.told("model", "report", "autumn", "--metric", "brier")
    assert sum(arm["predictions"] for arm in report["arms"].values()) == 2000
    assert report["control"] == "control"

    # What was predicted by version 1 is what version 1 predicts again.
    first = pipeline.told("replay", "--model-version", "1", "--offsets", f"{pipeline.prefix}.departures:0:0-200")
    assert first["beside"] == {"1": 200}
    assert first["outputs"][0]["max"] < 1e-6
    other = pipeline.told("replay", "--model-version", "2", "--offsets", f"{pipeline.prefix}.departures:0:0-200")
    assert other["outputs"][0]["max"] > 0.01

    pipeline.say("model", "promote", "2", "--check")
    pipeline.send(500)
    assert roles(pipeline.predictions()) == {("2", "", "")}
    history = pipeline.told("model", "history")
    assert [entry["kind"] for entry in history][-4:] == ["canary", "rollback", "experiment", "promote"], history


def until(fact, process=None, log=None, timeout_s=200):
    deadline = time.monotonic() + timeout_s
    while not fact():
        assert process is None or process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text() if log else "not in time"
        time.sleep(0.2)


def test_a_version_that_is_not_there_is_no_mystery(tmp_path):
    flights_folder(tmp_path)
    done = subprocess.run(
        ["streamserve", "model", "check", "7", "--against", "1"],
        cwd=tmp_path, env=environment(KAFKA_BOOTSTRAP="127.0.0.1:1"), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 78
    assert "has no version '7'" in done.stderr
