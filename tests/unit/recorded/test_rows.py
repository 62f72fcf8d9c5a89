"""Sample chunks as inputs of a model again."""

import numpy as np
import pytest

from streamserve.config.drift_settings import DriftSettings
from streamserve.config.settings import FeatureSettings, SequenceSettings, VectorSettings
from streamserve.drift.chunk import TextColumn
from streamserve.errors import ConfigError, ContractError
from streamserve.ports import Signature, TensorSpec
from streamserve.recorded.rows import recorded_rows
from streamserve.testing import memory_settings
from tests.samples import sample_chunk

SIGNATURE = Signature(
    inputs=(
        TensorSpec(name="x", dtype="float32", shape=(-1, 2)),
        TensorSpec(name="n", dtype="int64", shape=(-1, 1)),
        TensorSpec(name="c", dtype="str", shape=(-1, 1)),
    ),
    outputs=(TensorSpec(name="p", dtype="float32", shape=(-1,)),),
)
FEATURES = [
    FeatureSettings(name="a", input="x"),
    FeatureSettings(name="b", input="x", default=7.0),
    FeatureSettings(name="n", dtype="int64", input="n"),
    FeatureSettings(name="c", dtype="string", categories=["u", "v"], input="c"),
]


def settings(features=FEATURES, **more):
    made = memory_settings([{"name": "a"}])
    return made.model_copy(update={"features": features, **more})


def columns(n, *, start=0, text="u"):
    return {
        "a": np.arange(start, start + n, dtype=np.float64),
        "b": np.full(n, np.nan),
        "n": np.arange(n, dtype=np.int64),
        "c": TextColumn.of([text] * n),
        "output.p": np.linspace(0, 1, n, dtype=np.float32),
    }


def test_features_become_inputs_as_a_worker_would_make_them():
    found = recorded_rows([sample_chunk(rows=3, columns=columns(3))], settings(), SIGNATURE, rows=10)
    np.testing.assert_array_equal(found.inputs["x"], np.array([[0, 7], [1, 7], [2, 7]], np.float32))
    assert found.inputs["x"].dtype == np.float32
    assert found.inputs["n"].tolist() == [[0], [1], [2]]
    assert found.inputs["c"].tolist() == [["u"]] * 3
    assert found.outputs["p"].tolist() == [0, 0.5, 1]
    assert found.events.id == ["e0", "e1", "e2"]
    assert found.version == ["1"] * 3
    assert found.events.origin.offset == [0, 1, 2]


def test_the_newest_rows_stay_and_a_record_that_stands_twice_counts_once():
    chunks = [
        sample_chunk(rows=3, columns=columns(3)),
        sample_chunk(first=2, rows=2, columns=columns(2, start=2), version="2"),
        sample_chunk(first=0, rows=2, partition=1, columns=columns(2, start=40)),
    ]
    found = recorded_rows(chunks, settings(), SIGNATURE, rows=10)
    assert found.inputs["x"][:, 0].tolist() == [0, 1, 2, 3, 40, 41]
    assert found.version == ["1", "1", "2", "2", "1", "1"]
    newest = recorded_rows(chunks, settings(), SIGNATURE, rows=3)
    assert newest.inputs["x"][:, 0].tolist() == [3, 40, 41]
    assert newest.outputs["p"].tolist() == [1, 0, 1]


def test_rows_that_the_model_would_not_be_given_are_left_out_and_counted():
    chunks = [sample_chunk(rows=2, columns=columns(2, text="w")), sample_chunk(first=2, rows=2, columns=columns(2))]
    found = recorded_rows(chunks, settings(), SIGNATURE, rows=10)
    assert len(found) == 2
    assert found.rejected == {("enrich", "schema", "c"): 2}
    assert found.events.id == ["e2", "e3"]
    assert found.outputs["p"].tolist() == [0, 1]


def test_whole_numbers_with_gaps_and_booleans_come_back():
    features = [
        FeatureSettings(name="n", dtype="int64", input="n", default=5),
        FeatureSettings(name="t", dtype="bool", input="t"),
    ]
    signature = Signature(
        inputs=(
            TensorSpec(name="n", dtype="int64", shape=(-1,)),
            TensorSpec(name="t", dtype="bool", shape=(-1,)),
        ),
        outputs=(),
    )
    held = {"n": np.array([1.0, np.nan]), "t": np.array([True, False])}
    found = recorded_rows([sample_chunk(rows=2, columns=held)], settings(features), signature, rows=10)
    assert found.inputs["n"].tolist() == [1, 5]
    assert found.inputs["t"].tolist() == [True, False]
    assert found.inputs["t"].dtype == np.bool_


def test_a_vector_comes_back():
    signature = Signature(inputs=(TensorSpec(name="x", dtype="float32", shape=(-1, 3)),), outputs=())
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    vector = VectorSettings(field="v", size=3)
    found = recorded_rows([sample_chunk(rows=2, columns={"v": x})], settings(vector), signature, rows=10)
    np.testing.assert_array_equal(found.inputs["x"], x)
    with pytest.raises(ContractError, match="the samples hold 3 numbers a row in v, where the configuration has 4"):
        recorded_rows(
            [sample_chunk(rows=2, columns={"v": x})], settings(VectorSettings(field="v", size=4)), signature, rows=10
        )


def test_samples_of_another_configuration_are_refused_by_name():
    held = columns(2)
    del held["c"]
    with pytest.raises(ContractError, match="the samples hold no c"):
        recorded_rows([sample_chunk(rows=2, columns=held)], settings(), SIGNATURE, rows=10)
    held["c"] = np.zeros(2)
    with pytest.raises(ContractError, match="numbers in c, where the configuration has texts"):
        recorded_rows([sample_chunk(rows=2, columns=held)], settings(), SIGNATURE, rows=10)


def test_personal_features_are_no_inputs_any_more():
    pii = DriftSettings().model_copy(update={"pii": {"c": "hash", "key": "hash"}})
    with pytest.raises(ConfigError, match=r"drift\.pii hashes or drops c in the samples"):
        recorded_rows([sample_chunk(rows=2, columns=columns(2))], settings(drift=pii), SIGNATURE, rows=10)


def test_of_sequences_only_the_lengths_are_recorded():
    features = [FeatureSettings(name="words", dtype="string", sequence=SequenceSettings(max_length=8))]
    with pytest.raises(ConfigError, match=r"of sequences \(words\) the samples hold the lengths alone"):
        recorded_rows([sample_chunk(rows=2, columns=columns(2))], settings(features), SIGNATURE, rows=10)
