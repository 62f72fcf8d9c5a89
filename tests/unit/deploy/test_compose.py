"""The Dockerfile and docker-compose.yml, as far as they can be judged without Docker.

`compose_spec.json` is the Compose Specification's schema as docker-compose 1.29.2 ships it (Apache-2.0). That the
commands work is shown in tests/integration/test_compose_commands.py.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from streamserve.config.drift_settings import DriftSettings
from streamserve.demo.kafka_jars import kafka_version
from tests.compose import COMPOSE, DOCKERFILE, ROOT, compose, stages

SCHEMA = Path(__file__).with_name("compose_spec.json")
SERVICES = compose()["services"]
OURS = [name for name, service in SERVICES.items() if "build" in service]
WORKERS = ["worker", "worker-gpu"]


def test_compose_file_fits_the_specification():
    document = {key: value for key, value in compose().items() if key != "name"}  # younger than the schema
    jsonschema.Draft7Validator(json.loads(SCHEMA.read_text())).validate(document)


def test_there_is_no_version_key_and_every_image_is_pinned():
    assert "version" not in compose()
    images = [service["image"] for service in SERVICES.values() if "build" not in service]
    images += re.findall(r"^FROM (\S+:\S+)", DOCKERFILE.read_text(), re.MULTILINE)
    assert len(images) >= 5
    assert all(re.search(r":\d+\.\d+", image) for image in images), images


def test_the_broker_is_the_version_that_the_tests_run():
    assert SERVICES["kafka"]["image"] == f"apache/kafka:{kafka_version()}"


@pytest.mark.parametrize("name", OURS)
def test_our_containers_have_nothing_to_write_to_and_no_rights(name):
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["tmpfs"] == ["/tmp"]
    assert service["cap_drop"] == ["ALL"]
    assert all(volume.endswith(":ro") for volume in service["volumes"])


@pytest.mark.parametrize("name", WORKERS)
def test_a_worker_gets_more_time_to_stop_than_a_drain_takes(name):
    from streamserve.config.settings import DeliverySettings
    from streamserve.worker.supervisor import SupervisorSettings

    longest_s = DeliverySettings().drain_timeout_s + SupervisorSettings().grace_s
    assert int(SERVICES[name]["stop_grace_period"].removesuffix("s")) > longest_s


def test_nothing_starts_before_what_it_needs():
    waits = {name: service.get("depends_on", {}) for name, service in SERVICES.items()}
    for name, needs in waits.items():
        for other, condition in needs.items():
            assert other in SERVICES
            if condition["condition"] == "service_healthy":
                assert SERVICES[other].get("healthcheck", {}).get("test"), f"{name} waits for {other}'s health"
    assert waits["topics"]["kafka"]["condition"] == "service_healthy"
    assert all(
        waits[name]["topics"]["condition"] == "service_completed_successfully" for name in [*WORKERS, "sidecar", "demo"]
    )


def test_ports_are_open_to_this_machine_only():
    assert all(port.startswith("127.0.0.1:") for service in SERVICES.values() for port in service.get("ports", ()))


def test_workers_have_slot_names_of_their_own():
    slots = [SERVICES[name]["command"][SERVICES[name]["command"].index("--slot") + 1] for name in WORKERS]
    assert len(set(slots)) == len(slots)


def test_the_dockerfile_passes_hadolint():
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("other", ["gpu", "torch"])
def test_the_workers_images_differ_in_their_packages_alone(other):
    cpu, gpu = stages()["worker-cpu"], stages()[f"worker-{other}"]
    assert set(OURS) >= {"worker", "worker-gpu", "sidecar", "topics", "demo"}
    for instruction in ("USER", "WORKDIR", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD"):
        assert cpu[instruction] == gpu[instruction], instruction
    assert cpu["USER"] == ["10001:10001"]
    assert cpu["STOPSIGNAL"] == ["SIGTERM"]


def test_the_sidecars_image_is_that_of_a_worker_with_a_port_and_a_command_of_its_own():
    worker, sidecar = stages()["worker-cpu"], stages()["sidecar"]
    for instruction in ("FROM", "USER", "WORKDIR", "STOPSIGNAL", "ENTRYPOINT", "ENV"):
        ours = " ".join(sidecar.get(instruction, []))
        assert ours.replace("AS sidecar", "AS worker-cpu") == " ".join(worker.get(instruction, [])), instruction
    assert sidecar["HEALTHCHECK"] == [line.replace(":8080/", ":8090/") for line in worker["HEALTHCHECK"]]
    assert sidecar["EXPOSE"] == [str(DriftSettings().http_port)]
    assert SERVICES["sidecar"]["ports"] == [f"127.0.0.1:{DriftSettings().http_port}:{DriftSettings().http_port}"]


def test_the_sidecars_packages_are_no_others_than_those_that_the_tests_run_with():
    def packages(name):
        lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
        return {line.split()[0] for line in lines if "==" in line}

    assert packages("sidecar") <= packages("dev")
    assert any(package.startswith("faust-streaming==") for package in packages("sidecar"))
    assert not any(package.startswith("onnxruntime") for package in packages("sidecar"))


@pytest.mark.parametrize("target", ["cpu", "gpu", "torch", "sidecar"])
def test_packages_come_from_the_lock_file_with_hashes(target):
    (install, *_) = stages()[f"packages-{target}"]["RUN"]
    assert "--require-hashes --only-binary=:all: -r /tmp/requirements.txt" in install
    assert f"requirements/{target}.txt /tmp/requirements.txt" in stages()[f"packages-{target}"]["COPY"]


def test_the_image_gets_every_file_that_it_copies_and_no_other():
    ignored = (ROOT / ".dockerignore").read_text().split("\n")
    let_in = {line[1:].rstrip("/") for line in ignored if line.startswith("!")}
    copied = {
        source.rstrip("/").split("/")[0]
        for stage in stages().values()
        for line in stage.get("COPY", ())
        if "--from=" not in line
        for source in line.split()[:-1]
    }
    assert "*" in ignored
    assert let_in == copied
    assert all((ROOT / name).exists() for name in copied)


def test_the_compose_file_builds_targets_that_exist():
    assert {SERVICES[name]["build"]["target"] for name in OURS} <= set(stages())
    assert COMPOSE.name == "docker-compose.yml"
