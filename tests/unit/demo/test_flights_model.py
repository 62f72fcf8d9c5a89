"""The flights model: the file is the one described, it runs, it is as good as claimed, and the pipeline fits it."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from ruamel.yaml import YAML

from streamserve.batch import RecordBatch
from streamserve.codecs import build_decoder
from streamserve.config.loading import load
from streamserve.demo.flights import CONFIG, ROOT, TOPICS, Flights, bad_events
from streamserve.demo.flights.dataset import WEATHER
from streamserve.engines import build_engine
from streamserve.enrich import FeatureEnricher
from streamserve.registry.repository import FolderRepository

pytest.importorskip("onnxruntime")
MODEL = ROOT / "models" / "flight-delay" / "1"


@pytest.fixture(scope="module")
def flights():
    return Flights.load()


@pytest.fixture(scope="module")
def settings():
    return load(CONFIG, environ={}).settings


class Pipeline:
    """Records through the demo's decoder, features and model."""

    def __init__(self, settings):
        version = FolderRepository(ROOT / settings.model.repository).resolve(settings.model.name, "latest")
        self.engine = build_engine(version, settings.engine)
        self.decoder = build_decoder(settings)
        self.enricher = FeatureEnricher(settings.features, self.engine.signature)

    def run(self, records):
        n = len(records)
        batch = RecordBatch(
            topic=["flights.departures"] * n, partition=[0] * n, offset=list(range(n)), timestamp_ms=[0] * n,
            key=[key for key, _ in records], value=[value for _, value in records],
        )  # fmt: skip
        events, undecoded = self.decoder.decode(batch)
        features, unfit = self.enricher.enrich(events)
        return features, [*undecoded, *unfit]


@pytest.fixture(scope="module")
def pipeline(settings):
    built = Pipeline(settings)
    yield built
    built.engine.close()


def auc(label, score):
    """The share of pairs of a late and a punctual flight that are in the right order; no ties expected."""
    order = np.argsort(np.argsort(score)) + 1
    positive = int(label.sum())
    pairs = positive * (len(label) - positive)
    return (order[label == 1].sum() - positive * (positive + 1) / 2) / pairs


def test_the_file_is_the_one_described():
    manifest = YAML(typ="safe").load((MODEL / "model.yaml").read_text())
    assert manifest["files"]["model.onnx"] == hashlib.sha256((MODEL / "model.onnx").read_bytes()).hexdigest()
    assert (MODEL / "model.onnx").stat().st_size < 1_000_000


def test_signature(pipeline):
    signature = pipeline.engine.signature
    assert [(spec.name, spec.shape) for spec in signature.inputs] == [
        ("numeric", (-1, 12)),
        ("categorical", (-1, 2)),
    ]
    assert [(spec.name, spec.dtype, spec.shape) for spec in signature.outputs] == [("probability", "float32", (-1,))]


def test_256_events_get_finite_probabilities(pipeline, flights):
    features, rejects = pipeline.run(flights.encoded(200_000, 200_256))
    probability = pipeline.engine.infer(features.inputs)["probability"]
    assert not rejects
    assert probability.shape == (256,)
    assert np.isfinite(probability).all()
    assert ((probability > 0) & (probability < 1)).all()


def test_it_is_as_good_on_later_months_as_its_card_says(pipeline, flights):
    test = np.flatnonzero((flights.numbers("month") >= 6) & (flights.late() >= 0))
    rows = np.random.default_rng(0).choice(test, 20_000, replace=False)
    records = flights.encoded()
    features, rejects = pipeline.run([records[row] for row in rows.tolist()])
    probability = pipeline.engine.infer(features.inputs)["probability"]
    late = flights.late()[rows]
    assert not rejects
    claimed = YAML(typ="safe").load((MODEL / "model.yaml").read_text())["metrics"]["test_auc"]
    assert claimed > 0.9
    assert auc(late, probability) == pytest.approx(claimed, abs=0.01)  # four standard errors of 20,000 flights
    assert ((probability >= 0.5) == late).mean() > 0.89


def test_an_event_without_weather_is_scored_with_the_defaults(pipeline, flights):
    row = int(np.flatnonzero(np.isnan(flights.numbers("visib")))[0])
    key, value = flights.encoded(row, row + 1)[0]
    assert not json.loads(value).keys() & set(WEATHER)
    features, rejects = pipeline.run([(key, value)])
    assert not rejects
    assert np.isfinite(features.inputs["numeric"]).all()


def test_every_departure_of_the_year_is_accepted(pipeline, flights):
    records = flights.encoded()
    for start in range(0, len(records), 8192):
        assert not pipeline.run(records[start : start + 8192])[1]


def test_bad_events_are_refused_for_the_reason_they_give(pipeline):
    bad = bad_events()
    _, rejects = pipeline.run([(event.key, event.value) for event in bad])
    assert {reject.row: reject.reason for reject in rejects} == {row: event.reason for row, event in enumerate(bad)}


def test_defaults_are_the_medians_of_the_training_months(settings, flights):
    rows = (flights.numbers("month") <= 4) & (flights.late() >= 0)
    defaults = {feature.name: feature.default for feature in settings.features if feature.default is not None}
    assert set(defaults) == set(WEATHER)
    for name, default in defaults.items():
        assert default == pytest.approx(np.nanmedian(flights.numbers(name)[rows]), abs=0.05)


def test_bounds_are_those_of_the_schema(settings):
    fields = json.loads((TOPICS / "schemas" / "flights.departures-value.json").read_text())["properties"]
    for feature in settings.features:
        if feature.dtype == "float32":
            assert (feature.min, feature.max) == (
                fields[feature.name]["minimum"],
                fields[feature.name]["maximum"],
            )
