"""A worker in memory that follows a rollout: swaps under load, broken versions, starts, and what is answerable after."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter

import numpy as np
import orjson
import pytest

from streamserve.batch import TopicPartition
from streamserve.errors import BrokerUnavailable, ModelCorrupt, ModelNotFound, SinkError
from streamserve.ports import Signature, TensorSpec
from streamserve.rollout.log import RolloutLog
from streamserve.rollout.records import (
    Arm,
    Canary,
    Experiment,
    Promote,
    Retire,
    Rollback,
    Shadow,
    Stop,
    acknowledgement_key,
    new_id,
)
from streamserve.testing import FunctionEngine, MemoryBroker, MemoryRolloutWriter, MemoryWorker, memory_settings
from tests.memory import DOUBLE, doubled, exactly_once, fill, topics, until

CONTROL = "memory.rollout"
NARROW = Signature(
    inputs=(TensorSpec(name="in", dtype="float32", shape=(-1, 3)),),
    outputs=(TensorSpec(name="y", dtype="float32", shape=(-1, 1)),),
)
RENAMED = Signature(inputs=DOUBLE.inputs, outputs=(TensorSpec(name="z", dtype="float32", shape=(-1, 1)),))


def nan(inputs):
    return {"y": np.full_like(inputs["in"], np.nan)}


class Repository:
    """Makes engines, counts how often, and breaks the versions that are listed."""

    def __init__(self):
        self.made: list[tuple[str, FunctionEngine]] = []
        self.broken: dict[str, object] = {}
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, version):
        self.gate.wait(20)
        fault = self.broken.get(version)
        if isinstance(fault, Exception):
            raise fault
        function, signature = fault or (doubled, DOUBLE)
        engine = FunctionEngine(function, signature)
        self.made.append((version, engine))
        return engine

    def loads(self):
        return Counter(version for version, _ in self.made)


@pytest.fixture
def broker():
    broker = topics(MemoryBroker(), 2)
    broker.create_topic(CONTROL)
    return broker


@pytest.fixture
def repository():
    return Repository()


def following(broker, repository, *, slot="w-0", everything=True, version=1, **blocks):
    blocks = {
        "engine": {"max_batch_size": 8},
        "delivery": {"commit_interval_ms": 2, "commit_min_interval_ms": 0},
    } | blocks
    settings = memory_settings(
        [{"name": "x"}],
        rollout={},
        model={"name": "model", "version": version},
        output={"topic": "predictions", "outputs": {"y": "y"}},
        **blocks,
    )
    return MemoryWorker(settings, repository, broker, slot=slot, everything=everything)


@contextlib.contextmanager
def running(broker, repository, **options):
    """A worker that follows, once it has answered."""
    with following(broker, repository, **options) as worker:
        until(lambda: options.get("slot", "w-0") in log_of(broker).acknowledgements)
        yield worker


def give(broker, kind, **fields):
    with MemoryRolloutWriter(broker, CONTROL) as writer:
        return writer.publish(kind(id=new_id(), by="test", why="test", **fields))


def log_of(broker):
    log = RolloutLog()
    for record in broker.records(CONTROL):
        log.add(record.offset, record.key, record.value)
    return log


def acknowledged(broker, revision, slot="w-0"):
    """The slot's answer to a revision."""
    until(lambda: (ack := log_of(broker).acknowledgements.get(slot)) is not None and ack.revision >= revision)
    return log_of(broker).acknowledgements[slot]


def documents(broker):
    return [orjson.loads(record.value) for record in broker.records("predictions")]


def consistent(broker):
    """Every prediction's version is what the topic's history says of its offset."""
    log = log_of(broker)
    for document, record in zip(documents(broker), broker.records("predictions"), strict=True):
        source = document["source"]
        said = log.version_at(
            source["topic"], source["partition"], source["offset"], record.key or document["id"].encode()
        )
        assert document["version"] == said, (document, said)
    return True


def loads(worker, version):
    return worker.versions.of(version).model_loads.collect()


def value(metric):
    return next(iter(metric.collect())).samples[0].value


def test_the_first_worker_says_which_version_it_starts_with(broker, repository):
    with running(broker, repository, version=3) as worker:
        fill(broker, 4, partitions=2)
        broker.wait_records("predictions", 4)
    log = log_of(broker)
    assert [(given.command.version, given.command.by) for given in log.history] == [("3", "w-0")]
    assert worker.failure is None
    assert {document["version"] for document in documents(broker)} == {"3"}


def test_the_topic_wins_over_the_configured_version_at_restarts(broker, repository):
    give(broker, Promote, version="1", expects=-1)
    give(broker, Promote, version="2")
    with running(broker, repository, version=1):
        fill(broker, 4, partitions=2)
        broker.wait_records("predictions", 4)
    assert {document["version"] for document in documents(broker)} == {"2"}
    assert len(log_of(broker).history) == 2


def test_two_first_workers_with_different_configurations_agree(broker, repository):
    broker.create_topic("events", 2)
    with running(broker, repository, version=1), running(broker, repository, slot="w-1", everything=False, version=2):
        first, second = (acknowledged(broker, 0, slot) for slot in ("w-0", "w-1"))
        log = log_of(broker)
    assert log.state.revision == 0
    assert first.serving == second.serving == 0
    assert first.versions == second.versions == (log.state.stable,)


def test_a_promotion_switches_between_two_batches_and_every_offset_tells_its_version(broker, repository):
    with running(broker, repository) as worker:
        for round_ in range(12):
            fill(broker, 40, partitions=2, start=round_ * 40)
            revision = give(broker, Promote, version=str(2 + round_ % 3))
            assert acknowledged(broker, revision).error == ""
        broker.wait_records("predictions", 480)
    assert worker.failure is None
    exactly_once(broker, 480)
    consistent(broker)
    assert len({document["version"] for document in documents(broker)}) >= 3


def test_an_acknowledgement_comes_without_traffic_and_says_what_is_loaded(broker, repository):
    with running(broker, repository):
        revision = give(broker, Promote, version="2")
        ack = acknowledged(broker, revision)
    assert (ack.serving, ack.versions, ack.error) == (revision, ("1", "2"), "")
    assert ack.took_ms >= 0


def test_a_clean_stop_takes_the_acknowledgement_away_and_a_failure_leaves_it(broker, repository):
    with running(broker, repository):
        acknowledged(broker, 0)
    assert log_of(broker).acknowledgements == {}
    assert broker.records(CONTROL)[-1].key == acknowledgement_key("w-0")
    worker = following(broker, repository)
    with worker:
        until(lambda: "w-0" in log_of(broker).acknowledgements)
        worker.worker.fail(RuntimeError("cable"))
        worker.join()
    assert "w-0" in log_of(broker).acknowledgements


BROKEN = {
    "missing": ModelNotFound("model model has no version '7'"),
    "truncated or empty": ModelCorrupt("ONNX Runtime cannot load model.onnx: Protobuf parsing failed"),
    "wrong digest": ModelCorrupt("model.onnx has sha256 aa, but model.yaml promises bb"),
    "no memory": MemoryError("std::bad_alloc"),
    "inputs that the features do not fill": (doubled, NARROW),
    "outputs that `output` does not have": (lambda inputs: {"z": inputs["in"]}, RENAMED),
    "NaN for every row": (nan, DOUBLE),
    "a warm-up that fails": (lambda inputs: {"y": inputs["nothing"]}, DOUBLE),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_version_keeps_the_old_one_and_the_answer_says_why(broker, repository, fault):
    """Triton #8969: a load that fails must leave nothing behind; here: no engine open, nothing resident."""
    repository.broken["7"] = BROKEN[fault]
    with running(broker, repository) as worker:
        fill(broker, 50, partitions=2)
        revision = give(broker, Promote, version="7")
        ack = acknowledged(broker, revision)
        fill(broker, 50, partitions=2, start=50)
        broker.wait_records("predictions", 100)
        assert (ack.serving, ack.versions) == (0, ("1",))
        assert ack.error
        assert value(worker.versions.of("7").model_load_failures) == 1
    exactly_once(broker, 100)
    consistent(broker)
    assert broker.records("dead") == []
    for version, engine in repository.made:
        if version == "7":
            with pytest.raises(Exception, match="closed"):
                engine.infer({})


def test_a_broken_version_is_tried_again_with_a_new_command_only(broker, repository):
    repository.broken["2"] = BROKEN["wrong digest"]
    with running(broker, repository):
        assert acknowledged(broker, give(broker, Promote, version="2")).error
        del repository.broken["2"]
        revision = give(broker, Rollback)
        assert acknowledged(broker, revision).error == ""
        assert repository.loads()["2"] == 0
        revision = give(broker, Promote, version="2")
        ack = acknowledged(broker, revision)
        assert (ack.serving, ack.error) == (revision, "")


def test_several_broken_commands_at_once_leave_the_worker_as_it_was(broker, repository):
    for version, fault in zip("234", ("missing", "NaN for every row", "wrong digest"), strict=True):
        repository.broken[version] = BROKEN[fault]
    with running(broker, repository):
        for version in "234":
            revision = give(broker, Promote, version=version)
        ack = acknowledged(broker, revision)
        fill(broker, 20, partitions=2)
        broker.wait_records("predictions", 20)
    assert ack.serving == 0
    exactly_once(broker, 20)
    consistent(broker)


def test_events_flow_while_a_version_loads(broker, repository):
    """Triton #8117, TensorFlow Serving #1866: a load stalls the model that serves."""
    with running(broker, repository):
        acknowledged(broker, 0)
        repository.gate.clear()
        revision = give(broker, Promote, version="2")
        fill(broker, 60, partitions=2)
        assert len(broker.wait_records("predictions", 60)) == 60
        assert log_of(broker).acknowledgements["w-0"].revision < revision
        repository.gate.set()
        assert acknowledged(broker, revision).serving == revision


def test_every_batch_size_was_run_before_a_version_serves(broker, repository):
    """Triton #7776: the first use of a batch size takes seconds."""
    with running(broker, repository):
        acknowledged(broker, give(broker, Promote, version="2"))
        engine = next(engine for version, engine in repository.made if version == "2")
        assert {1, 2, 4, 8} <= set(engine.batches)


def test_a_rollback_to_a_warm_version_loads_nothing(broker, repository):
    with running(broker, repository) as worker:
        acknowledged(broker, give(broker, Promote, version="2"))
        ack = acknowledged(broker, give(broker, Rollback))
        assert ack.error == ""
        assert value(worker.versions.of("1").model_loads) == 1
    assert repository.loads() == {"1": 1, "2": 1}


def test_after_a_restart_the_version_to_roll_back_to_is_loaded_once_the_worker_serves(broker, repository):
    give(broker, Promote, version="1", expects=-1)
    give(broker, Promote, version="2")
    with running(broker, repository):
        until(lambda: log_of(broker).acknowledgements["w-0"].versions == ("1", "2"))
        before = repository.loads()
        acknowledged(broker, give(broker, Rollback))
        assert repository.loads() == before


def test_what_is_retired_is_let_go_and_its_engine_closed(broker, repository):
    with running(broker, repository):
        acknowledged(broker, give(broker, Promote, version="2"))
        revision = give(broker, Retire)
        assert acknowledged(broker, revision).versions == ("2",)
        engine = next(engine for version, engine in repository.made if version == "1")
        until(lambda: engine._closed)


@pytest.mark.parametrize("in_flight", [1, 2])
def test_the_engine_of_the_last_batch_is_closed_though_no_other_batch_comes(broker, repository, in_flight):
    with running(broker, repository, engine={"max_batch_size": 8, "in_flight": in_flight}):
        fill(broker, 20, partitions=2)
        until(lambda: sum(broker.offsets.values()) == 20)
        acknowledged(broker, give(broker, Promote, version="2"))
        give(broker, Retire)
        engine = next(engine for version, engine in repository.made if version == "1")
        until(lambda: engine._closed)


def test_a_canary_gets_its_keys_and_both_say_their_role(broker, repository):
    with running(broker, repository):
        acknowledged(broker, give(broker, Canary, version="2", weight=0.5))
        for n in range(400):
            broker.produce("events", b'{"x": %d}' % n, key=b"key-%d" % n, partition=n % 2)
        broker.wait_records("predictions", 400)
    exactly_once(broker, 400)
    consistent(broker)
    models = Counter((d["version"], d.get("role")) for d in documents(broker))
    assert set(models) == {("1", "stable"), ("2", "canary")}
    assert 150 < models["2", "canary"] < 250


def test_a_canary_that_ends_leaves_no_role_behind(broker, repository):
    with running(broker, repository):
        acknowledged(broker, give(broker, Canary, version="2", weight=0.5))
        acknowledged(broker, give(broker, Stop, what="canary"))
        fill(broker, 10, partitions=2)
        broker.wait_records("predictions", 10)
    assert all("role" not in document for document in documents(broker))


def test_an_experiments_predictions_name_their_arm(broker, repository):
    arms = (Arm(name="old", version="1", weight=0.5), Arm(name="new", version="2", weight=0.5))
    with running(broker, repository):
        acknowledged(broker, give(broker, Experiment, name="june", arms=arms))
        for n in range(100):
            broker.produce("events", b'{"x": %d}' % n, key=b"key-%d" % n, partition=n % 2)
        broker.wait_records("predictions", 100)
    consistent(broker)
    found = {(d["version"], d["experiment"], d["arm"]) for d in documents(broker)}
    assert found == {("1", "june", "old"), ("2", "june", "new")}


def test_a_shadow_is_loaded_and_answers_nothing(broker, repository):
    with running(broker, repository) as worker:
        ack = acknowledged(broker, give(broker, Shadow, version="2"))
        assert ack.versions == ("1", "2")
        assert worker.deployments.current.shadow.identity.role == "shadow"
        fill(broker, 10, partitions=2)
        broker.wait_records("predictions", 10)
    assert {document["version"] for document in documents(broker)} == {"1"}


def test_a_worker_that_cannot_load_the_stable_version_starts_with_the_one_before_it(broker, repository):
    repository.broken["2"] = BROKEN["wrong digest"]
    first = give(broker, Promote, version="1", expects=-1)
    revision = give(broker, Promote, version="2")
    with running(broker, repository) as worker:
        ack = acknowledged(broker, revision)
        fill(broker, 10, partitions=2)
        broker.wait_records("predictions", 10)
    assert (ack.serving, ack.revision) == (first, revision)
    assert "promises" in ack.error
    consistent(broker)
    assert "rollout_not_followed" in worker.log.getvalue()


def test_a_worker_that_cannot_load_a_canary_starts_with_the_stable_version_alone(broker, repository):
    repository.broken["3"] = BROKEN["missing"]
    give(broker, Promote, version="1", expects=-1)
    second = give(broker, Promote, version="2")
    give(broker, Canary, version="3", weight=0.5)
    with running(broker, repository):
        ack = acknowledged(broker, 2)
        fill(broker, 10, partitions=2)
        broker.wait_records("predictions", 10)
    assert ack.serving == second
    assert {document["version"] for document in documents(broker)} == {"2"}
    consistent(broker)


def test_a_worker_that_died_between_two_broken_versions_serves_on_with_what_it_served(broker, repository):
    repository.broken |= {"2": BROKEN["missing"], "3": BROKEN["wrong digest"]}
    with running(broker, repository) as worker:
        acknowledged(broker, give(broker, Promote, version="2"))
        revision = give(broker, Promote, version="3")
        acknowledged(broker, revision)
        worker.worker.fail(RuntimeError("power"))
        worker.join()
    with running(broker, repository):
        ack = acknowledged(broker, revision)
        fill(broker, 10, partitions=2)
        broker.wait_records("predictions", 10)
    assert (ack.serving, ack.versions) == (0, ("1",))
    assert "promises" in ack.error
    consistent(broker)


def test_a_worker_that_can_load_nothing_ends_with_the_newest_versions_error(broker, repository):
    repository.broken |= {"1": BROKEN["missing"], "2": BROKEN["wrong digest"]}
    give(broker, Promote, version="1", expects=-1)
    give(broker, Promote, version="2")
    worker = following(broker, repository)
    with worker:
        worker.join()
    assert isinstance(worker.failure, ModelCorrupt)


def test_a_broker_that_is_away_stops_the_following_only(broker, repository):
    with running(broker, repository) as worker:
        acknowledged(broker, 0)
        follower = worker.deployments
        original = follower._reader.poll
        follower._reader.poll = lambda timeout_s: (_ for _ in ()).throw(BrokerUnavailable("away", retryable=True))
        until(lambda: "rollout_topic_away" in worker.log.getvalue())
        fill(broker, 10, partitions=2)
        assert len(broker.wait_records("predictions", 10)) == 10
        follower._reader.poll = original
        revision = give(broker, Promote, version="2")
        assert acknowledged(broker, revision).serving == revision


def test_an_answer_that_was_not_taken_is_given_again(broker, repository):
    with running(broker, repository) as worker:
        acknowledged(broker, 0)
        writer = worker.deployments._writer
        publish, refusals = writer.publish, []

        def refused_once(record):
            if not refusals:
                refusals.append(record)
                raise BrokerUnavailable("away", retryable=True)
            return publish(record)

        writer.publish = refused_once
        revision = give(broker, Promote, version="2")
        assert acknowledged(broker, revision).serving == revision
        assert refusals


def test_switch_points_are_exact_through_aborts_and_moves(broker, repository):
    """A record that was scored, aborted, and scored again under another version is known by the version that counts."""
    with (
        running(broker, repository, everything=False) as first,
        running(broker, repository, slot="w-1", everything=False) as second,
    ):
        first.source.assign(TopicPartition("events", 0), TopicPartition("events", 1))
        for round_ in range(12):
            fill(broker, 30, partitions=2, start=round_ * 30)
            victim = (first, second)[round_ % 2]
            victim.sink.faults.fail("commit", SinkError("again", retryable=True), at=1, afterwards=round_ % 3 == 0)
            give(broker, Promote, version=str(2 + round_ % 4))
            here, there = (first, second) if round_ % 2 == 0 else (second, first)
            moving = TopicPartition("events", 0)
            if moving in here.assignment.epochs:
                getattr(here.source, ("revoke", "lose")[round_ % 4 // 2])(moving)
                until(lambda here=here: not here.source.rebalancing)
                there.source.assign(moving)
        broker.wait_records("predictions", 360)
        until(lambda: sum(broker.offsets.values()) == 360)
    exactly_once(broker, 360)
    consistent(broker)


def test_a_switch_point_that_was_aborted_is_written_again(broker, repository):
    with running(broker, repository) as worker:
        fill(broker, 10, partitions=2)
        until(lambda: sum(broker.offsets.values()) == 10)
        acknowledged(broker, give(broker, Promote, version="2"))
        worker.sink.faults.fail("commit", SinkError("again", retryable=True), at=1, afterwards=False)
        fill(broker, 10, partitions=2, start=10)
        until(lambda: sum(broker.offsets.values()) == 20)
    assert "starting_over" in worker.log.getvalue()
    consistent(broker)


def test_a_partition_that_comes_back_from_a_worker_of_another_version_gets_a_switch_point(broker, repository):
    stuck = Repository()
    stuck.broken["2"] = BROKEN["missing"]
    place = TopicPartition("events", 0)
    with (
        running(broker, repository, everything=False) as first,
        running(broker, stuck, slot="w-1", everything=False) as second,
    ):
        revision = give(broker, Promote, version="2")
        assert (acknowledged(broker, revision).serving, acknowledged(broker, revision, "w-1").serving) == (revision, 0)
        for round_, owner in enumerate([first, second, first]):
            owner.source.assign(place)
            fill(broker, 10, start=round_ * 10)
            until(lambda round_=round_: broker.offsets.get(place) == round_ * 10 + 10)
            owner.source.revoke(place)
            until(lambda owner=owner: not owner.source.rebalancing)
    assert [d["version"] for d in documents(broker)] == ["2"] * 10 + ["1"] * 10 + ["2"] * 10
    consistent(broker)


def test_without_a_rollout_nothing_is_written_to_a_control_topic(broker):
    engine = FunctionEngine(doubled, DOUBLE)
    with MemoryWorker(memory_settings([{"name": "x"}]), engine, broker):
        fill(broker, 10, partitions=2)
        broker.wait_records("predictions", 10)
    assert broker.records(CONTROL) == []


def test_the_law_of_counters_holds_over_all_versions(broker, repository):
    with running(broker, repository) as worker:
        for round_ in range(6):
            fill(broker, 20, partitions=2, start=round_ * 20)
            broker.produce("events", b"no json")
            acknowledged(broker, give(broker, Promote, version=str(2 + round_ % 2)))
        until(lambda: sum(broker.offsets.values()) == 126)
        until(lambda: total(worker, "records_consumed") == 126)
        rejected = sum(value(counter) for v in "123" for counter in worker.versions.of(v).records_rejected.values())
        assert total(worker, "predictions") + rejected == 126
        assert rejected == 6


ARMS = (Arm(name="old", version="1", weight=0.5), Arm(name="new", version="2", weight=0.5))


def nan_when_large(inputs):
    return {"y": np.where(inputs["in"] > 100, np.nan, inputs["in"] * 2).astype(np.float32)}


def produce_large(broker, count):
    """Events that a version of `nan_when_large` rejects, by 50 keys; one in a hundred does not decode."""
    for n in range(count):
        value = b"no json" if n % 100 == 99 else b'{"x": %d}' % (1000 + n)
        broker.produce("events", value, key=b"key-%d" % (n % 50), partition=n % 2)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (Canary, {"version": "2", "weight": 0.7}),
        (Experiment, {"name": "june", "arms": ARMS}),
    ],
)
def test_what_a_candidate_rejects_is_left_to_the_guard_and_stops_nobody(broker, repository, kind, fields):
    repository.broken["2"] = nan_when_large, DOUBLE
    letters = {"topic": "dead", "max_ratio": 0.3, "ratio_window": 50}
    with running(broker, repository, dead_letter=letters) as worker:
        acknowledged(broker, give(broker, kind, **fields))
        produce_large(broker, 400)
        until(lambda: worker.failure or sum(broker.offsets.values()) == 400)
    assert worker.failure is None
    assert len(broker.records("dead")) > 0.3 * 400


def test_a_stable_version_that_rejects_too_much_stops_the_worker_whatever_the_canary_does(broker, repository):
    repository.broken["1"] = nan_when_large, DOUBLE
    with running(broker, repository, dead_letter={"topic": "dead", "max_ratio": 0.5, "ratio_window": 50}) as worker:
        acknowledged(broker, give(broker, Canary, version="2", weight=0.7))
        produce_large(broker, 400)
        until(lambda: worker.failure)
    assert "dead_letter.max_ratio" in str(worker.failure)


def total(worker, name):
    return sum(value(getattr(worker.versions.of(version), name)) for version in "123")
