"""Sampled columns: features as they came, outputs of any kind."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamserve.config.settings import PipelineSettings
from streamserve.drift.sampled_columns import SampledColumns, output_columns, positions
from streamserve.ports import TensorSpec
from tests.unit.drift.scored import batch, line


def taken(at, *, features=(), **how):
    places = line(0, 0, 4)
    columns = SampledColumns(features, {"output.y": "y"})
    return columns.take(batch(places, **how).predictions, at)


def test_what_was_missing_stays_missing():
    exact = np.empty(4, object)
    exact[:] = [2**60, None, -1, 7]
    fields = {
        "number": np.array([1.5, np.nan, 2.0, 0]),
        "integer": np.array([1, 2, 3, 4]),
        "exact": exact,
        "text": ["a", None, "a", "b"],
        "vector": np.arange(8, dtype=np.float32).reshape(4, 2),
    }
    for at in ([0, 1, 2], [0, 1, 2, 3]):
        found = taken(at, features=list(fields), fields=fields)
        np.testing.assert_array_equal(found["number"], fields["number"][at])
        assert found["integer"].tolist() == [i + 1 for i in at]
        assert found["integer"].dtype == np.int64
        assert found["exact"].dtype == np.float64
        np.testing.assert_array_equal(found["exact"], np.array([2.0**60, np.nan, -1, 7])[at])
        assert found["text"] == [fields["text"][i] for i in at]
        np.testing.assert_array_equal(found["vector"], fields["vector"][at])


@pytest.mark.parametrize(
    ("values", "dtype", "axes"),
    [
        (np.float32([1, 2, 3, 4]), "float32", ()),
        (np.float32([[1], [2], [3], [4]]), "float32", ()),
        (np.ones((4, 3), np.float64), "float64", (3,)),
        (np.ones((4, 2, 5), np.float32), "float32", (10,)),
        (np.ones((4, 1, 1), np.int64), "int64", ()),
        (np.ones((4, 0), np.float32), "float32", (0,)),
        (np.ones((4, 2, 0), np.float32), "float32", (0,)),
        (np.ones(4, np.float16), "float32", ()),
        (np.ones(4, np.uint8), "int64", ()),
        (np.ones(4, np.int8), "int64", ()),
        (np.ones(4, np.int32), "int32", ()),
        (np.full(4, 2**64 - 1, np.uint64), "float64", ()),
        (np.ones(4, np.bool_), "bool", ()),
    ],
    ids=lambda value: f"{value.dtype}{value.shape}" if isinstance(value, np.ndarray) else "",
)
@pytest.mark.parametrize("at", [[1, 3], [0, 1, 2, 3]])
def test_outputs_of_any_kind(values, dtype, axes, at):
    column = taken(at, outputs={"y": values})["output.y"]
    assert (column.dtype, column.shape) == (np.dtype(dtype), (len(at), *axes))


@pytest.mark.parametrize("values", [[["yes"], ["no"], [b"\xff"], [None]], ["yes", "no", b"\xff", None]])
def test_texts_of_any_kind(values):
    assert taken([0, 2, 3], outputs={"y": np.array(values, dtype=object)})["output.y"] == ["yes", "\ufffd", None]


def test_batches_whose_outputs_differ_in_width_have_another_shape():
    columns = SampledColumns((), {"output.y": "y"})
    two, three = (batch(line(0, 0, 1), outputs={"y": np.ones((1, width))}).predictions for width in (2, 3))
    assert columns.shape(two) == columns.shape(two) != columns.shape(three)


@given(st.sets(st.integers(0, 9)), st.data())
def test_positions_are_those_of_the_rows(bad, data):
    events = batch(line(0, 0, 10), bad=bad).predictions.events
    rows = sorted(data.draw(st.sets(st.sampled_from(events.row)))) if events.row else []
    assert [events.row[at] for at in positions(events, rows)] == rows


def pipeline(**changed) -> PipelineSettings:
    return PipelineSettings.model_validate(
        {
            "pipeline": "p",
            "kafka": {},
            "input": {"topics": ["t"]},
            "features": [{"name": "x"}, {"name": "name", "dtype": "string"}],
            "model": {"name": "m"},
            "output": {"topic": "out"},
            "dead_letter": {"topic": "dead"},
            "drift": {},
        }
        | changed
    )


OUTPUTS = [
    TensorSpec(name="probability", dtype="float32", shape=(-1, 1)),
    TensorSpec(name="scores", dtype="float32", shape=(-1, 3)),
    TensorSpec(name="label", dtype="str", shape=(-1,)),
    TensorSpec(name="words", dtype="str", shape=(-1, 2)),
]


def test_all_outputs_are_sampled_under_their_own_names_but_lists_of_texts():
    found = output_columns(pipeline().output, OUTPUTS)
    assert found == {"output.probability": "probability", "output.scores": "scores", "output.label": "label"}


def test_named_outputs_are_sampled_under_the_predictions_names_and_thresholds_are_not():
    output = pipeline(output={"topic": "out", "outputs": {"p": "probability"}, "threshold": {"p": 0.5}}).output
    assert output_columns(output, OUTPUTS) == {"output.p": "probability"}


def test_a_dropped_feature_is_not_taken():
    settings = pipeline(drift={"pii": {"name": "drop"}})
    assert settings.drift is not None
    fields = {"x": np.zeros(2), "name": ["a", "b"]}
    predictions = batch(line(0, 0, 2), fields=fields, outputs={"probability": np.zeros((2, 1))}).predictions
    found = SampledColumns.of(settings, settings.drift, OUTPUTS[:1]).take(predictions, [0, 1])
    assert list(found) == ["x", "output.probability"]


def test_a_vector_field_is_one_column():
    settings = pipeline(features={"field": "v", "size": 4})
    assert settings.drift is not None
    vectors = np.arange(12, dtype=np.float32).reshape(3, 4)
    predictions = batch(line(0, 0, 3), fields={"v": vectors}, outputs={"probability": np.zeros((3, 1))}).predictions
    found = SampledColumns.of(settings, settings.drift, OUTPUTS[:1]).take(predictions, [0, 1, 2])
    np.testing.assert_array_equal(found["v"], vectors)


def test_of_a_sequence_its_length_is_sampled_unless_it_is_personal():
    settings = PipelineSettings.model_validate(
        {
            "pipeline": "p",
            "kafka": {},
            "input": {"topics": ["events"]},
            "features": [
                {"name": "words", "dtype": "string", "sequence": {"max_length": 4}},
                {"name": "x"},
                {"name": "secret", "sequence": {"max_length": 4}},
            ],
            "model": {"name": "m"},
            "output": {"topic": "out"},
            "dead_letter": {"topic": "dead"},
            "drift": {"pii": {"secret": "drop"}},
        }
    )
    words = np.empty(4, object)
    words[:] = [np.array(["a", "b"], object), None, np.array([], object), np.array(["c"], object)]
    columns = SampledColumns.of(settings, settings.drift, [TensorSpec(name="y", dtype="float32", shape=(-1, 1))])
    assert columns.names == ["x", "words.length", "output.y"]
    fields = {"words": words, "x": np.arange(4.0), "secret": words}
    for at in ([0, 1, 2, 3], [0, 1, 3]):
        found = columns.take(batch(line(0, 0, 4), fields=fields).predictions, at)
        np.testing.assert_array_equal(found["words.length"], np.array([2, np.nan, 0, 1])[at])
        assert found["words.length"].dtype == np.float64
