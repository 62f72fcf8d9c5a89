"""What docker-compose.yml and the Dockerfile start, started: the same words, the same environment, real services.

Not run: the broker's health check, whose class the jars of the local broker do not have.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.compose import compose, stages
from tests.pipelines import FLIGHTS, drained, environment, flights_folder, free_port, run, running, tailed, wait_ready

SERVICES = compose()["services"]
(ENTRYPOINT,) = (eval(line) for line in stages()["worker-cpu"]["ENTRYPOINT"])  # noqa: S307  a list of words
(HEALTH,) = (eval(line.split("CMD ", 1)[1]) for line in stages()["worker-cpu"]["HEALTHCHECK"])  # noqa: S307


def words(service: str) -> list[str]:
    """What a service of our image runs."""
    return [*SERVICES[service].get("entrypoint", ENTRYPOINT), *SERVICES[service]["command"]]


def test_the_mounted_folder_is_a_pipeline():
    (volume,) = SERVICES["worker"]["volumes"]
    default = volume.removeprefix("${PIPELINE:-").split("}")[0]
    assert Path(default).parts[-3:] == FLIGHTS.parts[-3:]
    run([*ENTRYPOINT, "lint"], FLIGHTS, environment())


@pytest.mark.slow
def test_topics_worker_health_and_demo_work_together(tmp_path, kafka, redis_server):
    flights_folder(tmp_path)
    port = free_port()
    assert set(SERVICES["worker"]["environment"]) == {"KAFKA_BOOTSTRAP", "REDIS_URL", "STREAMSERVE_WORKERS"}
    env = environment(
        KAFKA_BOOTSTRAP=kafka.bootstrap,
        REDIS_URL=redis_server.url,
        STREAMSERVE_WORKERS="1",
        STREAMSERVE_HTTP__HOST="0.0.0.0",  # noqa: S104  as in the image
        STREAMSERVE_HTTP__PORT=str(port),
        STREAMSERVE_STATE_DIR=str(tmp_path / "tmp"),
    )
    run(words("topics"), tmp_path, env)
    probe = [word.replace(":8080/", f":{port}/") for word in HEALTH]
    assert probe != HEALTH
    log = tmp_path / "worker.log"
    with running(words("worker"), tmp_path, env, log) as worker:
        wait_ready(port, worker, log)
        run(probe, tmp_path, env)
        with running(words("demo"), tmp_path, env, tmp_path / "demo.log") as demo:
            predictions = tailed(tmp_path, env, 200)
            os.killpg(demo.pid, signal.SIGTERM)
        assert len(predictions) == 200
        drained(worker, log)
    failed = subprocess.run(probe, env=env, capture_output=True, check=False)
    assert failed.returncode != 0, "the probe tells a worker that is gone"


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
