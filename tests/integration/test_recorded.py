"""What a worker sampled comes back from a real broker as the inputs that its model was given."""

from __future__ import annotations

import json
import time

import numpy as np
import orjson
import pytest

from streamserve.cli import main
from streamserve.codecs import build_decoder
from streamserve.composition.models import load_engine, resolve_model
from streamserve.config.loading import load
from streamserve.demo.flights import Flights
from streamserve.enrich.features import FeatureEnricher
from streamserve.errors import ContractError, SourceError
from streamserve.kafka.clients import reader_properties
from streamserve.kafka.reading import read_topic
from streamserve.recorded.compare import compare
from streamserve.recorded.reading import recorded_inputs
from streamserve.registry.repository import FolderRepository
from tests.pipelines import drained, environment, flights_folder, free_port, running, wait_ready
from tests.records import batch
from tests.services import create_topic, produce, read_all

EVENTS = 3000


def test_samples_of_a_worker_are_the_inputs_its_model_was_given(kafka, tmp_path, monkeypatch, capsys):
    flights_folder(tmp_path)
    config = tmp_path / "streamserve.yaml"
    config.write_text(
        config.read_text().replace("cache: {url:", "# cache: {url:").replace("\nrollout:", "\n# rollout:")
    )
    settings = load(config, {"kafka.bootstrap.servers": kafka.bootstrap}).settings
    samples = f"{settings.pipeline}.samples"
    for topic in (*settings.input.topics, settings.output.topic, settings.dead_letter.topic, samples):
        create_topic(kafka.bootstrap, topic, 3)
    events = list(Flights.load().events(0, EVENTS))
    values = [*(orjson.dumps(event) for event in events), b"no event"]
    produce(kafka.bootstrap, settings.input.topics[0], ((str(n).encode(), v) for n, v in enumerate(values)))
    engine = load_engine(settings, resolve_model(settings))
    with pytest.raises(ContractError, match=f"{samples} holds no sampled rows of model flight-delay"):
        recorded_inputs(settings, engine.signature, rows=10)

    port, log, env = free_port(), tmp_path / "worker.log", environment(KAFKA_BOOTSTRAP=kafka.bootstrap)
    with running(["streamserve", "run", "--set", f"http.port={port}"], tmp_path, env, log) as worker:
        wait_ready(port, worker, log)
        deadline = time.monotonic() + 30
        while len(read_all(kafka.bootstrap, settings.output.topic)) < EVENTS:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        drained(worker, log)

    found = recorded_inputs(settings, engine.signature, rows=EVENTS * 2)
    assert len(found) == EVENTS
    assert set(found.version) == {"1"}
    wanted = _given(settings, engine.signature)
    assert sorted(wanted) == sorted(found.events.id)
    for name, values in found.inputs.items():
        expected = np.array([wanted[event_id][name] for event_id in found.events.id], dtype=values.dtype)
        np.testing.assert_array_equal(values, expected)
    again = compare(found.outputs, engine.infer(found.inputs), {"probability": 0.5})
    assert again.rows == EVENTS
    assert again.difference("max") < 1e-6  # batches of other sizes round otherwise
    assert again.agreement == 1

    few = recorded_inputs(settings, engine.signature, rows=100)
    assert few.events.id == found.events.id[-100:]
    with pytest.raises(ContractError, match="no sampled rows of version 2"):
        recorded_inputs(settings, engine.signature, rows=10, version="2")
    with pytest.raises(SourceError, match="does not exist"):
        recorded_inputs(settings, engine.signature, rows=10, topic=f"{samples}.other")

    monkeypatch.chdir(tmp_path)
    servers = f"kafka.bootstrap.servers={kafka.bootstrap}"
    optimize = ["model", "optimize", "flight-delay", "--format", "json", "--set", servers]
    assert _called([*optimize, "--by", "ort", "--max-rows", "500", "--alias", "edge"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [(output["rows"], output["max"]) for output in said["outputs"]] == [(500, 0)]
    assert FolderRepository(tmp_path / "models").aliases("flight-delay")["edge"] == 2
    assert _called([*optimize, "--version", "1", "--by", "int8"]) == 3
    assert FolderRepository(tmp_path / "models").versions("flight-delay") == [1, 2]


def _called(arguments: list[str]) -> int:
    """The exit code of a command, in this process."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


def _given(settings, signature) -> dict[str, dict[str, np.ndarray]]:
    """Event id -> input -> its row, by the decoder and the enricher of a worker."""
    stored = read_topic(reader_properties(settings, group="t"), settings.input.topics[0])
    decoded, rejects = build_decoder(settings).decode(batch([record.value for record in stored]))
    assert len(rejects) == 1
    features, refused = FeatureEnricher(settings.features, signature).enrich(decoded)
    assert not refused
    return {
        event_id: {name: values[row] for name, values in features.inputs.items()}
        for row, event_id in enumerate(features.events.id)
    }
