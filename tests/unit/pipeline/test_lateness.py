"""Records that cannot make the latency goal: found by their own time, never silent, whatever the policy."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamserve.batch import EventBatch, RecordBatch, TopicPartition
from streamserve.config.engine_settings import EngineSettings
from streamserve.errors import ContractError
from streamserve.pipeline.fallback import Fallback
from streamserve.pipeline.lateness import Lateness
from streamserve.ports import TensorSpec
from streamserve.testing import ManualClock
from tests.chunks import chunk

NOW_MS = 1_700_000_000_000


class Goal:
    """100 ms, of which 20 are needed."""

    slo_s = 0.1

    def leeway_s(self):
        return 0.08


def events(*ages_ms, polled_s=1000.0):
    records = replace(chunk(len(ages_ms), polled_s=polled_s), timestamp_ms=[NOW_MS - age for age in ages_ms])
    return event_batch(records)


def event_batch(records):
    n = len(records)
    return EventBatch(
        origin=records,
        row=list(range(n)),
        id=[str(i) for i in range(n)],
        entity=[None] * n,
        event_time_ms=records.timestamp_ms,
        fields={"x": np.arange(n, dtype=np.float64)},
    )


def lateness(policy):
    return Lateness(policy, Goal(), ManualClock(now_s=1000, epoch_ms=NOW_MS))


def test_late_is_what_its_age_and_a_batch_of_its_own_and_a_commit_put_beyond_the_goal():
    admission = lateness("process").admit(events(79, 80, 81, 5000))
    assert admission.late.rows == [2, 3]


def test_without_late_records_the_batch_goes_on_as_it_is():
    batch = events(0, 10, 79)
    for policy in ("process", "dead_letter", "fallback"):
        admission = lateness(policy).admit(batch)
        assert admission.events is batch
        assert (admission.late, list(admission.rejects), admission.fallback) == (None, [], None)


def test_process_changes_nothing_but_the_count():
    batch = events(500, 10)
    admission = lateness("process").admit(batch)
    assert admission.events is batch
    assert admission.late == ("processed", [0])


def test_dead_letters_say_why():
    admission = lateness("dead_letter").admit(events(10, 500, 20, 600))
    assert admission.events.row == [0, 2]
    assert [(r.row, r.stage, r.reason) for r in admission.rejects] == [
        (1, "infer", "too_late"),
        (3, "infer", "too_late"),
    ]
    assert "100 ms" in admission.rejects[0].detail
    assert admission.late == ("dead_letter", [1, 3])


def test_a_fallback_is_for_the_late_ones_alone():
    admission = lateness("fallback").admit(events(10, 500, 20))
    assert (admission.events.row, admission.fallback.row) == ([0, 2], [1])
    assert admission.late == ("fallback", [1])


def test_rows_are_those_of_the_records_also_when_some_did_not_decode():
    batch = events(500, 10, 500, 500)
    batch = batch.take([1, 3])
    assert lateness("dead_letter").admit(batch).late.rows == [3]


@pytest.mark.parametrize("stamp", [-1, 0, NOW_MS // 1000, NOW_MS + 3_600_000])
def test_a_record_without_a_plausible_timestamp_is_never_late(stamp):
    records = replace(chunk(2, polled_s=999.0), timestamp_ms=[stamp, NOW_MS - 900])
    assert lateness("dead_letter").admit(event_batch(records)).late.rows == [1]


def test_a_record_polled_after_a_stall_is_not_as_old_as_the_records_before_it():
    stalled = replace(chunk(2, polled_s=999.8), timestamp_ms=[NOW_MS - 202, NOW_MS - 201])
    fresh = replace(chunk(2, start=2, polled_s=999.995), timestamp_ms=[NOW_MS - 6, NOW_MS - 5])
    admission = lateness("dead_letter").admit(event_batch(RecordBatch.concat([stalled, fresh])))
    assert (admission.events.row, admission.late.rows) == ([2, 3], [0, 1])


@given(
    st.sampled_from(["process", "dead_letter", "fallback"]),
    st.lists(st.integers(-1000, 10_000), min_size=1, max_size=30),
    st.data(),
)
def test_every_event_goes_one_way_and_every_late_one_is_told(policy, ages_ms, data):
    batch = events(*ages_ms)
    kept = data.draw(st.lists(st.sampled_from(range(len(ages_ms))), unique=True))
    admission = lateness(policy).admit(batch.take(sorted(kept)))
    ways = Counter(admission.events.row)
    ways.update(reject.row for reject in admission.rejects)
    ways.update(admission.fallback.row if admission.fallback is not None else [])
    assert ways == Counter(kept)
    late = admission.late.rows if admission.late is not None else []
    assert late == [row for row in sorted(kept) if ages_ms[row] > 80]
    if policy != "process":
        assert not set(late) & set(admission.events.row)


def spec(name, shape, dtype="float32"):
    return TensorSpec(name=name, dtype=dtype, shape=shape)


def engine(**fallback):
    return EngineSettings(slo_ms=50, late="fallback", fallback=fallback)


def test_a_fallback_has_the_shape_and_type_of_the_models_outputs():
    outputs = [
        spec("p", (-1, 1)),
        spec("scores", (-1, 3)),
        spec("label", (-1,), "str"),
        spec("n", (-1,), "int64"),
        spec("yes", (-1, 1), "bool"),
        spec("free", (-1, -1)),
    ]
    fallback = Fallback.of(engine(p=0.5, scores=[1, 2, 3.5], label="none", n=7, yes=True, free=[1, 2]), outputs)
    made = fallback.outputs(4)
    assert {name: (t.shape, str(t.dtype)) for name, t in made.items()} == {
        "p": ((4, 1), "float32"),
        "scores": ((4, 3), "float32"),
        "label": ((4,), "object"),
        "n": ((4,), "int64"),
        "yes": ((4, 1), "bool"),
        "free": ((4, 2), "float32"),
    }
    assert made["scores"][3].tolist() == [1, 2, 3.5]
    assert made["label"][0] == "none"


def test_a_single_value_fills_a_row():
    assert Fallback.of(engine(scores=0), [spec("scores", (-1, 3))]).outputs(2)["scores"].tolist() == [[0] * 3] * 2


@pytest.mark.parametrize(
    ("fallback", "output", "message"),
    [
        ({}, spec("p", (-1, 1)), "no value for the model's output p"),
        ({"p": 1, "q": 1}, spec("p", (-1, 1)), "q is no output of the model; these are p"),
        ({"p": "high"}, spec("p", (-1, 1)), "'high' is no float32"),
        ({"p": 0.5}, spec("p", (-1,), "int64"), "0.5 is no int64"),
        ({"p": 1}, spec("p", (-1,), "bool"), "1 is no bool"),
        ({"p": 1}, spec("p", (-1,), "str"), "1 is no str"),
        ({"p": [1, 2]}, spec("p", (-1, 3)), "2 values do not fill a row of shape"),
    ],
)
def test_a_fallback_that_does_not_fit_the_model_is_refused(fallback, output, message):
    with pytest.raises(ContractError, match=message):
        Fallback.of(engine(**fallback), [output])


def test_there_is_none_unless_late_records_get_it():
    outputs = [spec("p", (-1, 1))]
    assert Fallback.of(EngineSettings(), outputs) is None
    assert Fallback.of(EngineSettings(slo_ms=50, late="dead_letter"), outputs) is None


def test_the_partition_of_a_batch_is_not_lost_when_all_of_it_is_late():
    batch = events(500, 500)
    admission = lateness("dead_letter").admit(batch)
    assert len(admission.events) == 0
    assert admission.events.origin.next_positions() == {TopicPartition("t", 0): 2}
