"""One batch through all stages: every row a prediction or a reject, and which of them leave with a partition."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from streamserve.batch import (
    CacheBatch,
    EventBatch,
    FeatureBatch,
    ModelIdentity,
    OutboundBatch,
    PredictionBatch,
    RecordBatch,
    Reject,
    TopicPartition,
)
from streamserve.errors import StreamServeError
from streamserve.pipeline.serving import Deployment, Fixed, LoadedModel, Route, single
from streamserve.pipeline.stages import ScoredBatch, Stages
from streamserve.rollout.split import Split
from streamserve.telemetry.metrics import WorkerMetrics

MODEL = ModelIdentity(name="m", version="1")


def records(values, partitions=None):
    partitions = partitions or [0] * len(values)
    return RecordBatch(
        topic=["t"] * len(values),
        partition=partitions,
        offset=list(range(len(values))),
        timestamp_ms=[1] * len(values),
        key=[b"k%d" % p for p in partitions],
        value=values,
    )


def kept(stage, batch, rows):
    """The positions that a stage keeps, and its rejects: it drops a row whose value names it."""
    values = [batch.value[row] for row in rows]
    keep = [i for i, value in enumerate(values) if value != stage.encode()]
    return keep, [Reject(row=rows[i], stage=stage, reason=stage, detail="") for i in set(range(len(rows))) - set(keep)]


def decode(batch):
    keep, rejects = kept("decode", batch, list(range(len(batch))))
    n = len(keep)
    return EventBatch(origin=batch, row=keep, id=[""] * n, entity=[None] * n, event_time_ms=[0] * n, fields={}), rejects


def enrich(events):
    keep, rejects = kept("enrich", events.origin, events.row)
    return FeatureBatch(events=events, inputs={"x": np.zeros(len(events))}).take(keep), rejects


def infer(features, identity):
    keep, rejects = kept("infer", features.events.origin, features.events.row)
    return PredictionBatch(events=features.events.take(keep), outputs={}, model=identity), rejects


def encode(predictions):
    origin, row = predictions.events.origin, predictions.events.row
    keep, rejects = kept("encode", origin, row)
    outbound = OutboundBatch(
        topic="out",
        row=row,
        partition=[origin.partition[r] for r in row],
        key=[origin.key[r] for r in row],
        value=[origin.value[r] for r in row],
    )
    return outbound.take(keep), rejects


def letters(batch, rejects):
    rows = [reject.row for reject in rejects]
    return OutboundBatch(
        topic="dead",
        row=rows,
        partition=[batch.partition[r] for r in rows],
        key=[None for _ in rows],
        value=[batch.value[r] for r in rows],
    )


def entries(events, outbound):
    n = len(outbound)
    return CacheBatch(row=outbound.row, key=[b"k"] * n, version=[b"1"] * n, document=outbound.value)


def stages(**replaced):
    model = {
        "name": "m",
        "version": "1",
        "enricher": SimpleNamespace(enrich=enrich),
        "infer": SimpleNamespace(run=infer),
        "encoder": SimpleNamespace(encode=encode),
        "metrics": WorkerMetrics(CollectorRegistry(), pipeline="p", model="m", version="1"),
    }
    parts = {
        "decoder": SimpleNamespace(decode=decode),
        "reject_encoders": lambda _: SimpleNamespace(encode=letters),
        "max_output_bytes": 100,
        "cache_entries": entries,
    }
    for name, part in replaced.items():
        (model if name in model else parts)[name] = part
    return Stages(deployments=Fixed(single(LoadedModel(**model))), **parts)


value = st.sampled_from([b"good", b"decode", b"enrich", b"infer", b"encode", b"x" * 200])


@given(st.lists(st.tuples(value, st.integers(0, 3)), min_size=1, max_size=30), st.sets(st.integers(0, 3)))
def test_consumed_is_predicted_plus_rejected_for_the_batch_and_for_what_stays_of_it(rows, gone):
    batch = stages().score(records([v for v, _ in rows], [p for _, p in rows]))
    assert len(rows) == batch.predicted + len(batch.rejects)
    assert sum(map(len, batch.outbound)) == len(rows)
    left = batch.without({TopicPartition("t", p) for p in gone})
    staying = [i for i, (_, p) in enumerate(rows) if p not in gone]
    if not staying:
        assert left is None
        return
    assert left.predicted + len(left.rejects) == len(staying)
    assert sorted(row for part in left.outbound for row in part.row) == staying
    assert sorted(left.positions) == sorted({TopicPartition("t", p) for _, p in rows if p not in gone})
    assert left.cache is None or set(left.cache.row) <= set(staying)


def test_predictions_come_before_dead_letters():
    batch = stages().score(records([b"decode", b"good", b"infer", b"fine"]))
    assert [(part.topic, part.value) for part in batch.outbound] == [
        ("out", [b"good", b"fine"]),
        ("dead", [b"decode", b"infer"]),
    ]
    assert batch.positions == {TopicPartition("t", 0): 4}
    assert batch.cache.document == [b"good", b"fine"]


def test_dead_letters_stand_in_the_order_of_their_records_whatever_stage_found_them():
    batch = stages().score(records([b"encode", b"decode", b"infer", b"good", b"enrich", b"decode"]))
    assert batch.outbound[1].row == [0, 1, 2, 4, 5]
    assert [reject.row for reject in batch.rejects] == [0, 1, 2, 4, 5]


def test_a_batch_without_rejects_has_no_dead_letters():
    batch = stages().score(records([b"a", b"b"]))
    assert [part.topic for part in batch.outbound] == ["out"]


def test_a_batch_of_rejects_alone_keeps_its_positions():
    batch = stages().score(records([b"decode", b"decode"]))
    assert [part.topic for part in batch.outbound] == ["dead"]
    assert batch.positions == {TopicPartition("t", 0): 2}
    assert batch.cache is None


@pytest.mark.parametrize("size", [96, 97, 98, 99])
def test_a_prediction_is_too_large_by_key_and_value_together(size):
    batch = stages().score(records([b"x" * size, b"good"]))  # the key has two bytes
    assert [r.reason for r in batch.rejects] == (["too_large"] if size + 2 > 100 else [])
    assert batch.predicted == 2 - len(batch.rejects)


def test_a_batch_with_small_headers_is_not_gone_through_row_by_row(monkeypatch):
    def traced(predictions):
        outbound, rejects = encode(predictions)
        return replace(outbound, headers=[[("traceparent", b"00-1")], None]), rejects

    def row_by_row(*_):
        raise AssertionError("every row was measured")

    monkeypatch.setattr(Stages, "_without_oversized", row_by_row)
    batch = stages(encoder=SimpleNamespace(encode=traced)).score(records([b"good", b"good"]))
    assert batch.predicted == 2


def test_headers_count_too():
    def with_headers(predictions):
        outbound, rejects = encode(predictions)
        headers = [[("n" * 50, b"v" * 49)], None]
        return OutboundBatch(
            topic="out",
            row=outbound.row,
            partition=outbound.partition,
            key=outbound.key,
            value=outbound.value,
            headers=headers,
        ), rejects

    batch = stages(encoder=SimpleNamespace(encode=with_headers)).score(records([b"good", b"good"]))
    assert [(r.row, r.stage, r.reason) for r in batch.rejects] == [(0, "encode", "too_large")]


@pytest.mark.parametrize("part", ["decoder", "enricher", "infer", "encoder"])
def test_a_stage_that_loses_a_row_without_a_word_stops_the_batch(part):
    method = {"decoder": "decode", "enricher": "enrich", "infer": "run", "encoder": "encode"}[part]
    honest = {"decoder": decode, "enricher": enrich, "infer": infer, "encoder": encode}[part]

    def silent(*arguments):
        return honest(*arguments)[0], []

    lossy = stages(**{part: SimpleNamespace(**{method: silent})})
    stage = {"decoder": b"decode", "enricher": b"enrich", "infer": b"infer", "encoder": b"encode"}[part]
    with pytest.raises(StreamServeError, match="2 records became 1 predictions and 0 rejects"):
        lossy.score(records([stage, b"good"]))


def test_without_keeps_the_rows_of_a_partition_of_the_same_number_in_another_topic():
    two = RecordBatch(
        topic=["a", "b"], partition=[0, 0], offset=[5, 6], timestamp_ms=[1, 1], key=[None] * 2, value=[b"1", b"2"]
    )
    batch = stages().score(two).without({TopicPartition("a", 0)})
    assert batch.outbound[0].value == [b"2"]
    assert batch.positions == {TopicPartition("b", 0): 7}


def test_a_scored_batch_is_a_value():
    batch = stages().score(records([b"good"]))
    assert isinstance(batch, ScoredBatch)
    assert batch.without(set()).outbound == batch.outbound


INFER = SimpleNamespace(run=infer)


def routed(split, *, sampled=True, infer=INFER, **replaced):
    """Stages of two versions, side 0 stable."""
    metrics = WorkerMetrics(CollectorRegistry(), pipeline="p", model="m", version="1")
    routes = tuple(
        Route(
            LoadedModel(
                name="m",
                version=version,
                enricher=SimpleNamespace(enrich=enrich),
                infer=infer,
                encoder=SimpleNamespace(encode=encode),
                metrics=metrics,
            ),
            ModelIdentity(name="m", version=version, role=role),
        )
        for version, role in (("1", "stable"), ("2", "canary"))
    )
    return Stages(
        decoder=SimpleNamespace(decode=decode),
        deployments=Fixed(Deployment(routes=routes, split=split)),
        reject_encoders=lambda _: SimpleNamespace(encode=letters),
        max_output_bytes=100,
        sampled=sampled,
        **replaced,
    )


@given(st.lists(value, min_size=1, max_size=20), st.floats(0, 1))
def test_every_row_is_in_one_leg_and_the_legs_samples_say_which(values, weight):
    scored = routed(Split(b"", (1 - weight,))).score(records(values))
    told = [leg.samples.routed for leg in scored.legs]
    if told == [None]:
        told = [list(range(len(values)))]
    assert sorted(row for rows in told for row in rows) == list(range(len(values)))
    for leg, rows in zip(scored.legs, told, strict=True):
        assert rows == sorted([*leg.row, *(reject.row for reject in leg.rejects)])
    undecodable = [row for row, each in enumerate(values) if each == b"decode"]
    assert [reject.row for reject in scored.legs[0].rejects if reject.stage == "decode"] == undecodable
    assert sum(leg.inferred for leg in scored.legs) == sum(each not in {b"decode", b"enrich"} for each in values)


@pytest.mark.parametrize("weight", [0.5, 1.0])
def test_a_batch_of_which_nothing_decodes_is_the_stable_versions(weight):
    scored = routed(Split(b"", (1 - weight,))).score(records([b"decode"] * 3))
    assert [(leg.model.version, len(leg.rejects)) for leg in scored.legs] == [("1", 3)]


@pytest.mark.parametrize(("timed", "slower", "pairs"), [(False, 1, 0), (True, 1, 3), (True, 4, 10), (True, 99, 20)])
def test_the_stable_version_is_timed_on_the_rows_of_the_others_for_a_share_of_their_time(timed, slower, pairs):
    def took(features, identity):
        predictions, rejects = infer(features, identity)
        return replace(predictions, infer_s=float(slower if identity.version == "2" else 1)), rejects

    stages = routed(Split(b"", (0.0,)), timed=timed, infer=SimpleNamespace(run=took))
    legs = [leg for _ in range(20) for leg in stages.score(records([b"a", b"b"])).legs]
    found = [leg for leg in legs if leg.stable_s is not None]
    assert len(found) == pairs
    assert {(leg.model.version, leg.infer_s, leg.stable_s) for leg in found} <= {("2", slower, 1)}


def test_a_call_that_was_slow_by_chance_is_not_timed_for_it():
    rng = np.random.default_rng(1)

    def took(features, identity):
        predictions, rejects = infer(features, identity)
        return replace(predictions, infer_s=20.0 if rng.random() < 0.05 else 1.0), rejects

    stages = routed(Split(b"", (0.0,)), timed=True, sampled=False, infer=SimpleNamespace(run=took))
    legs = [leg for _ in range(2000) for leg in stages.score(records([b"a"])).legs]
    ratios = [leg.infer_s / leg.stable_s for leg in legs if leg.stable_s is not None]
    assert len(ratios) > 100
    assert abs(np.mean(np.log(ratios))) < 0.2  # both versions are alike
