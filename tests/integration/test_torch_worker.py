"""PyTorch in a real worker on a real broker: pushed with trust, served, and refused without."""

from __future__ import annotations

import subprocess

import numpy as np
import orjson
import pytest
from ruamel.yaml import YAML

from benchmarks import models
from streamserve.config.engine_settings import EngineSettings
from streamserve.engines.onnx import OnnxEngine
from tests.pipelines import drained, environment, free_port, run, running, tailed, wait_ready
from tests.services import create_topic, produce, unique

pytestmark = pytest.mark.torch

ROWS = 300
TOLERANCE = 1e-6
EX_CONFIG = 78


@pytest.fixture
def source(tmp_path):
    """Folder of an archive and what goes in and out of it, as `model push` takes it."""
    from tests import torch_models

    def write(kind):
        model = torch_models.mlp()
        folder = tmp_path / f"made-{kind}"
        model.save(folder, kind)
        declared = {"runtime": "torch", "files": {}}
        for side in ("inputs", "outputs"):
            declared[side] = [
                {"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)}
                for spec in getattr(model.signature, side)
            ]
        with (folder / "model.yaml").open("w") as file:
            YAML(typ="safe", pure=True).dump(declared, file)
        return folder

    return write


@pytest.fixture
def pipeline(tmp_path, kafka):
    """A pipeline's folder whose model is still to be pushed."""
    folder = tmp_path / "pipeline"
    folder.mkdir()
    name = unique("torch").replace(".", "-")
    topics = [create_topic(kafka.bootstrap, f"{name}.{kind}") for kind in ("events", "predictions", "events.dlq")]
    settings = {
        "version": 1,
        "pipeline": name,
        "kafka": {"bootstrap.servers": kafka.bootstrap},
        "input": {"topics": topics[:1], "id": "id"},
        "features": {"field": "x", "size": 16, "dtype": "float32"},
        "model": {"name": "scorer"},
        "engine": {"device": "cpu", "max_batch_size": 64},
        "output": {"topic": topics[1]},
        "dead_letter": {"topic": topics[2]},
        "http": {"port": free_port()},
    }
    with (folder / "streamserve.yaml").open("w") as file:
        YAML(typ="safe", pure=True).dump(settings, file)
    return folder, settings


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pt2", "ts"])
def test_a_worker_predicts_with_it_what_onnx_runtime_does(source, pipeline, kafka, tmp_path, kind):
    folder, settings = pipeline
    env = environment()
    run(["streamserve", "model", "push", "scorer", str(source(kind)), "--trust"], folder, env)
    x = np.random.default_rng(3).normal(size=(ROWS, 16)).astype(np.float32)
    records = [orjson.dumps({"id": str(i), "x": row.tolist()}) for i, row in enumerate(x)]
    produce(kafka.bootstrap, settings["input"]["topics"][0], records)

    log = tmp_path / "worker.log"
    with running(["streamserve", "run"], folder, env, log) as worker:
        wait_ready(settings["http"]["port"], worker, log, timeout_s=100)
        predictions = [record["value"] for record in tailed(folder, env, ROWS)]
        drained(worker, log)

    onnx = OnnxEngine(models.save(models.mlp(), tmp_path / "onnx"), EngineSettings(device="cpu"))
    got = {p["id"]: np.ravel(p["outputs"]["probability"])[0] for p in predictions}
    assert len(got) == ROWS
    np.testing.assert_allclose(
        [got[str(i)] for i in range(ROWS)], onnx.infer({"x": x})["probability"][:, 0], rtol=0, atol=TOLERANCE
    )


def test_without_trust_nothing_of_it_is_loaded(source, pipeline):
    folder, _ = pipeline
    env = environment()
    made = source("pt2")
    command = ["streamserve", "model", "push", "scorer", str(made)]
    pushed = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert pushed.returncode == EX_CONFIG
    assert "--trust" in pushed.stderr

    (folder / "models" / "scorer").mkdir(parents=True, exist_ok=True)
    made.rename(folder / "models" / "scorer" / "1")
    worker = subprocess.run(["streamserve", "run"], cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert worker.returncode == EX_CONFIG
    assert "model.pt2 is refused: a torch archive" in worker.stdout + worker.stderr
