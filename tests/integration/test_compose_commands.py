"""What docker-compose.yml and the Dockerfile start, started: the same words, the same environment, real services.

Not run: the broker's health check, whose class the jars of the local broker do not have.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

from streamserve.demo.sidecar import missing_packages
from tests.compose import compose, stages
from tests.pipelines import FLIGHTS, drained, environment, flights_folder, free_port, run, running, tailed, wait_ready

SERVICES = compose()["services"]
(ENTRYPOINT,) = (eval(line) for line in stages()["worker-cpu"]["ENTRYPOINT"])  # noqa: S307  a list of words
HEALTH = {
    stage: eval(stages()[stage]["HEALTHCHECK"][0].split("CMD ", 1)[1])  # noqa: S307
    for stage in ("worker-cpu", "sidecar")
}


def words(service: str) -> list[str]:
    """What a service of our image runs."""
    return [*SERVICES[service].get("entrypoint", ENTRYPOINT), *SERVICES[service]["command"]]


def probe(stage: str, old: int, port: int) -> list[str]:
    """The health check of an image, on another port."""
    found = [word.replace(f":{old}/", f":{port}/") for word in HEALTH[stage]]
    assert found != HEALTH[stage]
    return found


def test_the_mounted_folder_is_a_pipeline():
    (volume,) = SERVICES["worker"]["volumes"]
    default = volume.removeprefix("${PIPELINE:-").split("}")[0]
    assert Path(default).parts[-3:] == FLIGHTS.parts[-3:]
    run([*ENTRYPOINT, "lint"], FLIGHTS, environment())


@pytest.fixture
def pipeline(tmp_path, kafka, redis_server):
    """The environment of a pipeline's folder at `tmp_path`, whose topics are made, and the prefix of its names."""
    prefix = flights_folder(tmp_path)
    assert set(SERVICES["worker"]["environment"]) == {"KAFKA_BOOTSTRAP", "REDIS_URL", "STREAMSERVE_WORKERS"}
    env = environment(
        KAFKA_BOOTSTRAP=kafka.bootstrap,
        REDIS_URL=redis_server.url,
        STREAMSERVE_WORKERS="1",
        STREAMSERVE_HTTP__HOST="0.0.0.0",  # noqa: S104  as in the image
        STREAMSERVE_HTTP__PORT=str(free_port()),
        STREAMSERVE_DRIFT__HTTP_PORT=str(free_port()),
        STREAMSERVE_STATE_DIR=str(tmp_path / "tmp"),
    )
    run(words("topics"), tmp_path, env)
    return prefix, env


def demo_words(prefix: str) -> list[str]:
    """The demo's words, with the prefix of its topics."""
    return [word.replace("flights.labels", f"{prefix}.labels") for word in words("demo")]


@pytest.mark.slow
def test_topics_worker_health_and_demo_work_together(tmp_path, pipeline):
    prefix, env = pipeline
    port, log = int(env["STREAMSERVE_HTTP__PORT"]), tmp_path / "worker.log"
    asked = probe("worker-cpu", 8080, port)
    with running(words("worker"), tmp_path, env, log) as worker:
        wait_ready(port, worker, log)
        run(asked, tmp_path, env)
        with running(demo_words(prefix), tmp_path, env, tmp_path / "demo.log") as demo:
            predictions = tailed(tmp_path, env, 200)
            os.killpg(demo.pid, signal.SIGTERM)
        assert len(predictions) == 200
        drained(worker, log)
    failed = subprocess.run(asked, env=env, capture_output=True, check=False)
    assert failed.returncode != 0, "the probe tells a worker that is gone"


@pytest.mark.slow
@pytest.mark.skipif(missing_packages() is not None, reason=str(missing_packages()))
def test_the_sidecar_watches_what_the_worker_predicts_and_joins_what_the_demo_tells_of_arrivals(tmp_path, pipeline):
    prefix, env = pipeline
    port, log = int(env["STREAMSERVE_DRIFT__HTTP_PORT"]), tmp_path / "sidecar.log"
    with (
        running(words("worker"), tmp_path, env, tmp_path / "worker.log"),
        running(words("sidecar"), tmp_path, env, log) as sidecar,
        running(demo_words(prefix), tmp_path, env, tmp_path / "demo.log"),
    ):
        wait_ready(port, sidecar, log)
        run(probe("sidecar", 8090, port), tmp_path, env)
        joined, deadline = 0, time.monotonic() + 60
        while joined < 100:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/overview", timeout=5) as answer:
                joined = sum(model["labels"]["joined"] for model in json.load(answer)["models"] if model["labels"])
        drained(sidecar, log)


def test_the_caches_health_check_and_options_are_those_of_a_redis(redis_server):
    program = shutil.which("valkey-cli") or shutil.which("redis-cli")
    if program is None:
        pytest.skip("neither valkey-cli nor redis-cli is installed")
    assert SERVICES["cache"]["healthcheck"]["test"] == ["CMD", "valkey-cli", "ping"]
    done = run([program, "-u", redis_server.url, "ping"], Path.cwd(), environment())
    assert done.stdout.strip() == "PONG"
    server, *options = SERVICES["cache"]["command"]
    assert server == "valkey-server"
    for name, value in zip(options[::2], options[1::2], strict=True):
        assert name.startswith("--")
        asked = run([program, "-u", redis_server.url, "config", "get", name[2:]], Path.cwd(), environment())
        assert asked.stdout.split()[:1] == [name[2:]], f"the server knows {name} {value}"
