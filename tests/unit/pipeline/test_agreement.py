"""What is told of two models' answers, against a plain loop over the rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from streamserve.batch import EventBatch, ModelIdentity, PredictionBatch, RecordBatch
from streamserve.config.settings import OutputSettings
from streamserve.pipeline.agreement import Agreement, Answers, OutputAgreement

ORIGIN = RecordBatch(topic=[], partition=[], offset=[], timestamp_ms=[], key=[], value=[])


def said(outputs, rows=None):
    n = len(next(iter(outputs.values())))
    rows = list(range(n)) if rows is None else rows
    events = EventBatch(origin=ORIGIN, row=rows, id=[""] * n, entity=[None] * n, event_time_ms=[0] * n, fields={})
    return PredictionBatch(events=events, outputs=outputs, model=ModelIdentity(name="m", version="1"))


def compared(a, b, **thresholds):
    (found,) = Agreement(thresholds).compare(answers({"y": np.array(a)}), answers({"y": np.array(b)}))
    return found


def answers(outputs, rows=None):
    return Answers.joined([(0, said(outputs, rows))])


@given(st.data(), st.integers(1, 3), st.booleans())
def test_numbers_differ_by_their_mean_distance_and_decide_by_threshold_or_largest(data, width, threshold):
    shape = (data.draw(st.integers(1, 9)), width)
    numbers = arrays.arrays(np.float32, shape, elements=st.floats(-4, 4, width=16))
    a, b = data.draw(numbers), data.draw(numbers)
    found = compared(a, b, **({"y": 0.5} if threshold else {}))
    assert found.rows == len(a)
    assert found.difference == pytest.approx(sum(np.abs(x - y).mean() for x, y in zip(a, b, strict=True)), abs=1e-5)
    if threshold:
        wanted = sum(
            any((p >= 0.5) != (q >= 0.5) for p, q in zip(x, y, strict=True)) for x, y in zip(a, b, strict=True)
        )
    else:
        wanted = sum(np.argmax(x) != np.argmax(y) for x, y in zip(a, b, strict=True)) if width > 1 else 0
    assert found.disagreements == wanted


@pytest.mark.parametrize(
    ("a", "b"),
    [([1, 2, 3], [1, 5, 3]), ([True, False], [True, True]), (["AA", "BA", None], ["AA", None, None])],
)
def test_labels_differ_or_do_not(a, b):
    kind = object if isinstance(a[0], str) else None
    assert compared(np.array(a, dtype=kind), np.array(b, dtype=kind)) == OutputAgreement("y", len(a), 0.0, 1)


@given(st.lists(st.integers(0, 2), min_size=1, max_size=20), st.sets(st.integers(0, 19)))
def test_rows_are_paired_by_their_record_whoever_predicted_them(sides, missing):
    """The legs of a canary in two batches of 20 records, and a shadow that rejected some rows."""
    numbers = np.arange(20 + len(sides), dtype=np.float32)
    legs = [[row for row, side in enumerate(sides) if side == leg] for leg in range(3)]
    stable = [(start, said({"y": numbers[rows] + start}, rows)) for start in (0, 20) for rows in legs if rows]
    kept = [start + row for start in (0, 20) for row in range(len(sides)) if start + row not in missing]
    found = Agreement({}).compare(Answers.joined(stable), Answers(kept, {"y": numbers[kept] + 1}))
    assert found == ([OutputAgreement("y", len(kept), float(len(kept)), 0)] if kept else [])


def test_what_cannot_be_compared_is_left_out():
    ours = {"y": np.zeros((2, 1)), "wide": np.zeros((2, 3)), "text": np.array(["a", "b"], dtype=object)}
    theirs = {"z": np.zeros((2, 1)), "wide": np.zeros((2, 4)), "text": np.array([1, 2])}
    assert Agreement({}).compare(answers(ours), answers(theirs)) == []
    changing = Answers.joined([(0, said({"y": np.zeros((1, 2))})), (1, said({"y": np.zeros((1, 3)), "z": np.ones(1)}))])
    assert changing == ([0, 1], {})
    assert Answers.joined([]) == ([], {})


def test_a_number_that_is_none_adds_no_distance():
    assert compared([[1.0], [np.nan]], [[2.0], [1.0]]).difference == 1


def test_thresholds_are_the_settings_by_output_of_the_model():
    output = {"topic": "p", "outputs": {"risk": "probability"}, "threshold": {"risk": {"at": 0.7, "as": "late"}}}
    assert Agreement.of(OutputSettings.model_validate(output)).thresholds == {"probability": 0.7}
