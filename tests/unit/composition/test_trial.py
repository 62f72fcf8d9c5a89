"""A version tried off the stream: the workers' own path, and what is held against what."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import models
from streamserve.batch import RecordBatch, Reject
from streamserve.codecs import build_decoder
from streamserve.composition.trial import Bench, Scored, tried
from streamserve.errors import ContractError, ModelNotFound
from streamserve.testing import memory_settings
from tests.samples import sample_chunk
from tests.texts import hook


@pytest.fixture
def settings(tmp_path):
    for number in (1, 2):
        models.save(models.mlp(seed=number), tmp_path / "m" / str(number))
    return memory_settings(
        [{"name": f"x{i}"} for i in range(16)],
        model={"name": "m", "repository": str(tmp_path), "version": 1},
        engine={"max_batch_size": 8},
    )


def events(settings, rows):
    values = [json.dumps({f"x{i}": x for i, x in enumerate(row)}).encode() for row in rows]
    n = len(values)
    records = RecordBatch(
        topic=["t"] * n, partition=[0] * n, offset=list(range(n)), timestamp_ms=[0] * n, key=[None] * n, value=values
    )
    return build_decoder(settings).decode(records)[0]


def numbers(count):
    return np.random.default_rng(1).normal(size=(count, 16)).round(3).tolist()


def test_the_path_is_the_workers_own(settings):
    bench = Bench(settings)
    model = bench.load("1")
    rows = [*numbers(30), [1.0] * 15]  # the last one lacks a feature
    scored = bench.score(model, events(settings, rows))
    assert scored.rows == list(range(30))
    assert [json.loads(document)["source"]["offset"] for document in scored.documents] == scored.rows
    assert [(reject.row, reject.reason) for reject in scored.rejects] == [(30, "missing_feature")]
    alone = bench.score(model, events(settings, rows[:1]))
    name = next(iter(scored.outputs))
    np.testing.assert_allclose(scored.outputs[name][:1], alone.outputs[name], rtol=1e-5)


def test_two_versions_differ_and_one_does_not_differ_from_itself(settings):
    bench = Bench(settings)
    scored = {version: bench.score(bench.load(version), events(settings, numbers(50))) for version in "12"}
    same = tried(scored["1"], scored["1"], "1", "1")
    assert (same.rows, same.problems(0.0)) == (50, [])
    other = tried(scored["1"], scored["2"], "1", "2")
    assert other.problems(None) == []
    (problem,) = other.problems(1e-6)
    assert problem.startswith("its outputs differ from version 1 by")


def test_recorded_features_go_through_the_hook_that_makes_the_models_inputs(settings, tmp_path, monkeypatch):
    code = """
import numpy as np

def spread(inputs):
    return {"x": np.repeat(inputs["level"][:, np.newaxis], 16, axis=1)}
"""
    before = hook(tmp_path, "hooks.py", code, "spread", inputs={"level": {"shape": [-1]}})
    changed = settings.model_dump(by_alias=True) | {"features": [{"name": "level"}], "hooks": {"before": before}}
    columns = {"level": np.linspace(-1, 1, 20)}
    monkeypatch.setattr("streamserve.recorded.reading._newest", lambda *_: [sample_chunk(rows=20, columns=columns)])
    found = Bench(type(settings).model_validate(changed)).beside("2", "1", rows=20)
    assert (found.rows, found.comparison.rows, found.lost) == (20, 20, [])


def values(rows, **more):
    return Scored(rows=rows, outputs={"y": np.zeros(len(rows))}, documents=[], rejects=more.get("rejects", []))


def test_rows_that_only_the_new_version_rejects_speak_against_it():
    bad = Reject(row=1, stage="infer", reason="infer", detail="too hot")
    found = tried(values([0, 1, 2]), values([0, 2], rejects=[bad]), "1", "2")
    assert (found.rows, found.comparison.rows) == (3, 2)
    assert found.problems(None) == ["1 of 3 rows are rejected by version 2 alone, the first for: too hot"]


def test_a_row_that_both_reject_speaks_against_nobody():
    bad = Reject(row=1, stage="infer", reason="infer", detail="too hot")
    found = tried(values([0], rejects=[bad]), values([0], rejects=[bad]), "1", "2")
    assert (found.rows, found.problems(0.0)) == (2, [])


def test_nothing_in_common_is_a_problem_and_another_shape_an_error():
    assert tried(values([0]), values([1]), "1", "2").problems(None) == ["none of 1 rows has outputs of both versions"]
    wide = Scored(rows=[0], outputs={"y": np.zeros((1, 2))}, documents=[], rejects=[])
    with pytest.raises(ContractError, match="version 2 cannot be compared with version 1: output y has the shape"):
        tried(values([0]), wide, "1", "2")


def test_what_cannot_serve_is_told(settings, tmp_path):
    with pytest.raises(ModelNotFound):
        Bench(settings).load("3")
    models.save(models.mlp((8, 4, 1)), tmp_path / "m" / "3")
    with pytest.raises(ContractError):
        Bench(settings).load("3")
