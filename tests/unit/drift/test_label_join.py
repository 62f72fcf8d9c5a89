"""Labels find their predictions: early, late, twice, never; bounded, counted, in the order of events."""

from __future__ import annotations

import json

import numpy as np
import pytest

from streamserve.drift.label_delay import LabelDelay
from streamserve.drift.label_join import JoinSettings, LabelJoin, Predictions
from streamserve.drift.labels import Label, MalformedLabel
from streamserve.drift.pairs import Pairs, Reordering
from streamserve.drift.waiting import Waiting


def predictions(ids, times=None, version="1", outputs=1, score=0.7) -> Predictions:
    n = len(ids)
    return Predictions(
        version=version,
        id=list(ids),
        event_time_ms=np.array(times if times is not None else range(n), dtype=np.int64),
        weight=np.full(n, 4.0),
        outputs=np.full((n, outputs), score),
        groups=np.zeros((n, 2), dtype=np.int64),
    )


def label(id: str, truth: float = 1.0, time_ms: int = 500, **more) -> Label:
    return Label(id=id, label=truth, time_ms=time_ms, **more)


def join(**bounds) -> LabelJoin:
    return LabelJoin(JoinSettings(**{"wait_ms": 1000, "max_waiting": 100, "reorder_ms": 10, **bounds}))


def non_zero(joined: LabelJoin) -> dict[str, int]:
    return {outcome: count for outcome, count in joined.counts.items() if count}


def test_a_label_finds_its_prediction_with_everything_both_had():
    joined = join()
    joined.predicted(predictions(["a", "b"], [100, 200]), now_ms=1000)
    joined.labelled([label("b", 0.0, 450, value=9.5, clicked=True)], now_ms=1500)
    assert joined.release(1509) == []
    [pairs] = joined.release(1510)
    assert (pairs.version, pairs.id) == ("1", ["b"])
    got = {name: getattr(pairs, name).tolist() for name in ("joined_ms", "event_time_ms", "label_time_ms", "label")}
    assert got == {"joined_ms": [1500], "event_time_ms": [200], "label_time_ms": [450], "label": [0.0]}
    assert (pairs.value.tolist(), pairs.clicked.tolist(), pairs.late.tolist()) == ([9.5], [1.0], [False])
    assert (pairs.weight.tolist(), pairs.outputs.tolist(), pairs.groups.tolist()) == ([4.0], [[0.7]], [[0, 0]])
    assert non_zero(joined) == {"predictions": 2, "labels": 1, "joined": 1}
    assert joined.release(1520) == []


def test_a_label_may_come_before_its_prediction():
    joined = join()
    joined.labelled([label("a"), label("b")], now_ms=1000)
    joined.predicted(predictions(["x", "b"]), now_ms=1999)
    [pairs] = joined.release(2010)
    assert pairs.id == ["b"]
    assert np.isnan(pairs.value).all()
    assert np.isnan(pairs.clicked).all()


def test_what_waits_too_long_leaves_and_is_counted():
    joined = join()
    joined.predicted(predictions(["late", "good"]), now_ms=1000)
    joined.labelled([label("unsampled"), label("good")], now_ms=1000)
    joined.predicted(predictions(["unsampled"]), now_ms=2001)
    joined.labelled([label("late")], now_ms=2001)
    assert non_zero(joined) == {"predictions": 3, "labels": 3, "joined": 1, "expired": 1, "unmatched": 1}
    assert joined.figures().waiting == 1
    assert joined.figures().held == 1


def test_the_first_label_counts_and_a_second_is_known_as_such():
    joined = join()
    joined.predicted(predictions(["a"]), now_ms=0)
    joined.labelled([label("a", 1.0), label("a", 1.0), label("a", 0.0)], now_ms=0)
    joined.labelled([label("a", 0.0), label("a", 1.0)], now_ms=5)
    [pairs] = joined.release(100)
    assert pairs.label.tolist() == [1.0]
    assert non_zero(joined) == {"predictions": 1, "labels": 5, "joined": 1, "duplicate": 2, "contradicting": 2}


def test_broken_labels_are_counted():
    joined = join()
    joined.labelled([MalformedLabel(reason="x"), MalformedLabel(reason="y")], now_ms=0)
    assert non_zero(joined) == {"malformed": 2}


def test_every_version_gets_the_label_once():
    joined = join()
    joined.predicted(predictions(["a"], version="1"), now_ms=0)
    joined.predicted(predictions(["a"], version="2", outputs=3), now_ms=0)
    joined.labelled([label("a")], now_ms=0)
    joined.predicted(predictions(["a"], version="3"), now_ms=1)
    joined.predicted(predictions(["a", "b", "b"], version="1"), now_ms=1)
    pairs = joined.release(100)
    assert [(each.version, each.id, each.outputs.shape) for each in pairs] == [
        ("1", ["a"], (1, 1)),
        ("2", ["a"], (1, 3)),
        ("3", ["a"], (1, 1)),
    ]
    assert non_zero(joined) == {"predictions": 6, "labels": 1, "joined": 3, "repeated": 2}


def test_a_version_with_other_outputs_than_before_is_refused():
    joined = join()
    joined.predicted(predictions(["a"]), now_ms=0)
    with pytest.raises(ValueError, match="column outputs of shape"):
        joined.predicted(predictions(["b"], outputs=2), now_ms=0)


def test_the_oldest_leave_first_when_there_are_too_many():
    joined = join(max_waiting=3)
    joined.predicted(predictions(["a", "b"]), now_ms=0)
    joined.predicted(predictions(["c", "d"], version="2"), now_ms=1)
    joined.predicted(predictions(["e"]), now_ms=2)
    assert joined.counts["crowded_out_predictions"] == 2
    joined.labelled([label(each) for each in "abcde"], now_ms=3)
    assert sorted(event for pairs in joined.release(100) for event in pairs.id) == ["c", "d", "e"]
    assert joined.counts["crowded_out_labels"] == 2
    assert (joined.figures().waiting, joined.figures().held) == (0, 3)


def test_pairs_come_in_the_order_of_events():
    joined = join()
    joined.predicted(predictions(["a", "b", "c", "d"], [10, 20, 30, 40]), now_ms=0)
    joined.labelled([label("c")], now_ms=100)
    joined.labelled([label("d")], now_ms=104)
    joined.labelled([label("a")], now_ms=108)
    [first] = joined.release(110)
    assert (first.id, first.late.tolist()) == (["a", "c"], [False, False])
    joined.labelled([label("b")], now_ms=111)
    [second] = joined.release(114)
    assert (second.id, second.late.tolist()) == (["b", "d"], [True, False])
    assert joined.counts["late"] == 1


def test_pairs_do_not_wait_when_they_are_too_many_or_at_the_end():
    joined = join(max_reordered=2)
    joined.predicted(predictions(["a", "b", "c"], [30, 10, 20]), now_ms=0)
    joined.labelled([label(each) for each in "abc"], now_ms=0)
    assert [pairs.id for pairs in joined.release(0)] == [["b"]]
    assert [pairs.id for pairs in joined.release(0, everything=True)] == [["c", "a"]]


def test_a_version_that_is_gone_is_forgotten():
    joined = join()
    joined.predicted(predictions(["a"], version="1"), now_ms=0)
    joined.release(3000)
    joined.predicted(predictions(["a"], outputs=5, version="1"), now_ms=3000)
    assert joined.counts["expired"] == 1


def test_time_only_moves_forward():
    joined = join()
    joined.predicted(predictions(["a"]), now_ms=5000)
    joined.labelled([label("a")], now_ms=10)
    [pairs] = joined.release(5010)
    assert pairs.joined_ms.tolist() == [5000]


def test_delay_and_coverage():
    joined = join(wait_ms=1_000_000, max_waiting=100_000)
    for second in range(200):
        now = 1000 * second
        joined.predicted(predictions([f"{second}-{i}" for i in range(10)], [now] * 10), now_ms=now)
        past = second - 20
        if past >= 0:
            hits = [label(f"{past}-{i}", time_ms=1000 * past + 8000) for i in range(6)]
            joined.labelled([*hits, label(f"unsampled-{second}")], now_ms=now)
    figures = joined.figures()
    assert figures.delay_p50_ms == pytest.approx(8000, rel=0.25)
    assert figures.delay_p90_ms == pytest.approx(8000, rel=0.25)
    assert figures.coverage == pytest.approx(0.6)
    assert 1500 <= figures.old_enough <= 1800
    assert figures.waiting == 2000 - 6 * 180


def test_without_labels_there_is_no_delay_and_no_coverage():
    joined = join()
    joined.predicted(predictions(["a"]), now_ms=0)
    figures = joined.figures()
    assert (figures.delay_p50_ms, figures.delay_p90_ms, figures.coverage) == (None, None, None)


def test_memory_follows_the_rows_that_are_there():
    joined = join(wait_ms=10**9, max_waiting=2000)
    for batch in range(200):
        ids = [f"{batch}-{i}" for i in range(100)]
        joined.predicted(predictions(ids), now_ms=batch)
        joined.labelled([label(each) for each in ids[::2]], now_ms=batch)
        joined.release(batch + 10)
    assert 1900 <= joined.figures().waiting <= 2000
    assert joined.figures().held == 2000
    assert all(len(each.waiting.columns["arrived"]) <= 8000 for each in joined._versions.values())
    assert len(joined._labels.columns["arrived"]) <= 8000


def test_a_document_is_json_and_goes_on_the_same():
    joined = join()
    joined.predicted(predictions(["a", "b", "c"], [1, 2, 3]), now_ms=1)
    joined.labelled([label("a", 1.0), label("z")], now_ms=2)
    again = LabelJoin.from_document(json.loads(json.dumps(joined.to_document())), JoinSettings(wait_ms=1000))
    again.labelled([label("a"), label("b")], now_ms=3)
    again.predicted(predictions(["z", "a"], [0, 1]), now_ms=3)
    [pairs] = again.release(4, everything=True)
    assert pairs.id == ["z", "a", "b"]
    assert again.counts["duplicate"] == 1
    assert again.counts["repeated"] == 1
    assert again.counts["joined"] == 3
    assert again.figures().waiting == 1


def test_documents_of_something_else_are_refused():
    for document in ({}, {**join().to_document(), "labels": {}}):
        with pytest.raises(ValueError, match=r"."):
            LabelJoin.from_document(document, JoinSettings())
    waiting = Waiting({"arrived": np.zeros(0, dtype=np.int64)})
    waiting.append(["a", "b"], {"arrived": np.zeros(2, dtype=np.int64)})
    with pytest.raises(ValueError, match="twice"):
        Waiting.from_document({**waiting.to_document(), "ids": ["a", "a"]})
    with pytest.raises(ValueError, match="shape"):
        Waiting.from_document({**waiting.to_document(), "ids": ["a"]})
    delay = LabelDelay(1000)
    delay.predicted(5, 1)
    with pytest.raises(ValueError, match="do not fit"):
        LabelDelay.from_document({**delay.to_document(), "cohorts": []}, 1000)
    with pytest.raises(ValueError, match="are no array"):
        LabelDelay.from_document({"cohorts": [], "table": {"dtype": "<f8", "shape": [1], "data": ""}}, 1000)


def test_pairs_of_a_broken_document_are_refused():
    joined = join()
    joined.labelled([label("a")], now_ms=0)
    joined.predicted(predictions(["a"]), now_ms=0)
    document = joined.to_document()["versions"]["1"]["joined"]
    assert isinstance(Reordering.from_document(document, "1", 1, 1).release(0, everything=True), Pairs)
    with pytest.raises(ValueError, match="missing"):
        Reordering.from_document({**document, "columns": {}}, "1", 1, 1)
    with pytest.raises(ValueError, match="do not fit"):
        Reordering.from_document({**document, "ids": ["a", "b"]}, "1", 1, 1)
