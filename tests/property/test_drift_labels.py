"""Laws of labels: any bytes are a label or a reason; the join is the inner join of what came first, in any order."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamserve.drift.label_join import JoinSettings, LabelJoin, Predictions
from streamserve.drift.labels import Label, LabelDecoder, MalformedLabel
from streamserve.drift.task import Task

TASKS = {
    "binary": Task(),
    "multiclass": Task(kind="multiclass", classes=3, names=("a", "b", "c")),
    "regression": Task(kind="regression"),
}
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.just([])
messages = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("id", "label", "ts", "value", "clicked", "other"), scalars)
).map(lambda message: json.dumps(message).encode())


@pytest.mark.parametrize("kind", TASKS)
@given(data=st.binary(max_size=60) | messages)
@settings(deadline=None, max_examples=200)
def test_any_bytes_are_a_label_or_a_reason(kind, data):
    found = LabelDecoder(TASKS[kind]).decode(data)
    if isinstance(found, MalformedLabel):
        assert found.reason
        return
    assert found.id
    assert np.isfinite(found.label)
    assert found.time_ms >= 0
    assert found.value is None or np.isfinite(found.value)
    assert kind == "regression" or found.label in range(3)


events = st.sampled_from("abcdefgh")
steps = st.lists(
    st.one_of(
        st.tuples(st.just("predicted"), st.sampled_from("12"), st.lists(events, max_size=4)),
        st.tuples(st.just("labelled"), st.lists(st.tuples(events, st.integers(0, 1)), max_size=4)),
        st.tuples(st.just("release")),
        st.tuples(st.just("restart")),
    ),
    max_size=25,
)
TIMES = {event: 100 - 7 * at for at, event in enumerate("abcdefgh")}


def predictions(version: str, ids: list[str]) -> Predictions:
    return Predictions(
        version=version,
        id=ids,
        event_time_ms=np.array([TIMES[each] for each in ids], dtype=np.int64),
        weight=np.ones(len(ids)),
        outputs=np.ones((len(ids), int(version))),
        groups=np.zeros((len(ids), 0), dtype=np.int64),
    )


@given(steps=steps, reorder_ms=st.sampled_from([0, 3, 1000]))
@settings(deadline=None, max_examples=300)
def test_the_join_is_the_inner_join_of_what_came_first(steps, reorder_ms):
    bounds = JoinSettings(wait_ms=10_000, max_waiting=1000, reorder_ms=reorder_ms, max_reordered=50)
    joined, out = LabelJoin(bounds), []
    first: dict[str, float] = {}
    predicted: dict[tuple[str, str], None] = {}
    for now, step in enumerate(steps):
        match step:
            case ("predicted", version, ids):
                joined.predicted(predictions(version, ids), now)
                predicted |= dict.fromkeys((version, each) for each in ids)
            case ("labelled", labels):
                joined.labelled([Label(id=each, label=float(value), time_ms=now) for each, value in labels], now)
                for each, value in labels:
                    first.setdefault(each, float(value))
            case ("release",):
                out += joined.release(now)
            case _:
                joined = LabelJoin.from_document(json.loads(json.dumps(joined.to_document())), bounds)
    out += joined.release(len(steps), everything=True)
    got = [(pairs.version, each, value) for pairs in out for each, value in zip(pairs.id, pairs.label, strict=True)]
    assert sorted(got) == sorted((version, each, first[each]) for version, each in predicted if each in first)
    for version in "12":
        mine = [pairs for pairs in out if pairs.version == version]
        assert all((np.diff(pairs.event_time_ms) >= 0).all() for pairs in mine)
        in_order = [time for pairs in mine for time in pairs.event_time_ms[~pairs.late].tolist()]
        assert in_order == sorted(in_order)
    counts, figures = joined.counts, joined.figures()
    assert counts["joined"] == len(got)
    assert figures.waiting == len(predicted) - len(got)
    assert figures.held == len(first)
    assert counts["predictions"] == len(predicted) + counts["repeated"]
    assert counts["labels"] == len(first) + counts["duplicate"] + counts["contradicting"]


@given(
    batches=st.lists(
        st.tuples(
            st.integers(0, 30), st.lists(st.integers(0, 40), max_size=6), st.lists(st.integers(0, 40), max_size=6)
        ),
        max_size=20,
    ),
    most=st.integers(1, 8),
)
@settings(deadline=None, max_examples=200)
def test_what_came_is_joined_waiting_or_counted_out_and_never_more_than_allowed(batches, most):
    joined, now, out = LabelJoin(JoinSettings(wait_ms=50, max_waiting=most, reorder_ms=0)), 0, 0
    for pause, ids, labels in batches:
        now += pause
        names = [chr(97 + each % 8) for each in ids]
        joined.predicted(predictions("1", names), now)
        joined.labelled([Label(id=chr(97 + each % 8), label=1.0, time_ms=now) for each in labels], now)
        out += sum(len(pairs) for pairs in joined.release(now, everything=True))
        counts, figures = joined.counts, joined.figures()
        assert figures.waiting <= most
        assert figures.held <= most
        gone = counts["expired"] + counts["crowded_out_predictions"] + counts["repeated"]
        assert counts["predictions"] == out + figures.waiting + gone
        assert counts["joined"] == out
