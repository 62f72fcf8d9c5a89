"""Commands that come while a version is being loaded, loads that fail half-way, and what stays loaded then."""

import threading

import pytest

from streamserve.errors import ModelCorrupt
from streamserve.rollout.records import Arm, Canary, Experiment, Promote, Retire, Rollback, Shadow
from streamserve.testing import MemoryBroker, MemoryFiles
from tests.memory import fill, topics, until
from tests.unit.worker.test_rollout import (
    CONTROL,
    Repository,
    acknowledged,
    consistent,
    documents,
    following,
    give,
    log_of,
    running,
)

BROKEN = ModelCorrupt("model.onnx has sha256 aa, but model.yaml promises bb")


class Slow(Repository):
    """Version 5 is not loaded before its gate opens."""

    def __init__(self):
        super().__init__()
        self.began = threading.Event()
        self.five = threading.Event()

    def __call__(self, version):
        if version == "5":
            self.began.set()
            self.five.wait(20)
        return super().__call__(version)


@pytest.fixture
def broker():
    broker = topics(MemoryBroker(), 2)
    broker.create_topic(CONTROL)
    return broker


@pytest.fixture
def slow():
    repository = Slow()
    yield repository
    repository.five.set()


def loading(broker, slow, kind, **fields):
    """Give a command that needs version 5; its revision, once the load goes on."""
    revision = give(broker, kind, **fields)
    until(slow.began.is_set)
    return revision


@pytest.mark.parametrize("fault", [None, BROKEN])
def test_a_rollback_does_not_wait_for_a_shadow_that_is_being_loaded_nor_fail_with_it(broker, slow, fault):
    if fault is not None:
        slow.broken["5"] = fault
    with running(broker, slow) as worker:
        acknowledged(broker, give(broker, Promote, version="2"))
        loading(broker, slow, Shadow, version="5")
        revision = give(broker, Rollback)
        ack = acknowledged(broker, revision)
        assert (ack.serving, ack.versions, ack.error) == (revision, ("1", "2"), "")
        fill(broker, 10, partitions=2)
        broker.wait_records("predictions", 10)
        slow.five.set()
        if fault is None:
            until(lambda: log_of(broker).acknowledgements["w-0"].versions == ("1", "2", "5"))
            assert worker.deployments.current.shadow.model.version == "5"
        else:
            until(lambda: "promises" in log_of(broker).acknowledgements["w-0"].error)
        assert log_of(broker).acknowledgements["w-0"].serving == revision
    assert {document["version"] for document in documents(broker)} == {"1"}
    assert slow.loads()["1"] == slow.loads()["2"] == 1
    consistent(broker)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (Promote, {"version": "5"}),
        (Canary, {"version": "5", "weight": 0.5}),
    ],
)
def test_a_rollback_ends_a_command_that_is_being_loaded(broker, slow, kind, fields):
    with running(broker, slow):
        acknowledged(broker, give(broker, Promote, version="2"))
        loading(broker, slow, kind, **fields)
        revision = give(broker, Rollback)
        ack = acknowledged(broker, revision)
        assert (ack.serving, ack.error) == (revision, "")
        assert "5" not in ack.versions
        slow.five.set()
        until(lambda: slow.loads()["5"])
        needed = log_of(broker).state.needed
        until(lambda: set(log_of(broker).acknowledgements["w-0"].versions) == set(needed))
        engines = [engine for version, engine in slow.made if version not in needed]
        until(lambda: all(engine._closed for engine in engines))


def test_a_rollback_does_not_wait_for_what_is_warmed_after_a_restart(broker, slow):
    give(broker, Promote, version="5", expects=-1)
    give(broker, Promote, version="2")
    with running(broker, slow):
        until(slow.began.is_set)
        revision = give(broker, Retire)
        assert acknowledged(broker, revision).versions == ("2",)
        slow.five.set()
        until(lambda: slow.loads()["5"] and slow.made[-1][1]._closed)
        assert acknowledged(broker, revision).versions == ("2",)


def test_a_command_that_needs_another_load_waits_and_is_followed(broker, slow):
    with running(broker, slow):
        loading(broker, slow, Promote, version="5")
        revision = give(broker, Promote, version="3")
        assert log_of(broker).acknowledgements["w-0"].revision < revision
        slow.five.set()
        ack = acknowledged(broker, revision)
    assert (ack.serving, ack.error) == (revision, "")


def test_a_worker_that_is_stopped_in_a_load_ends(broker, slow, monkeypatch):
    monkeypatch.setattr("streamserve.worker.rollout.LOAD_LEFT_S", 0.2)
    with running(broker, slow) as worker:
        loading(broker, slow, Shadow, version="5")
    assert worker.failure is None
    assert not slow.loads()["5"]
    assert log_of(broker).acknowledgements == {}


def test_what_was_loaded_for_an_experiment_that_fails_is_let_go(broker):
    repository = Repository()
    repository.broken["5"] = BROKEN
    arms = tuple(Arm(name=version, version=version, weight=0.5) for version in "45")
    with running(broker, repository):
        acknowledged(broker, give(broker, Promote, version="2"))
        ack = acknowledged(broker, give(broker, Experiment, name="june", arms=arms))
        assert "promises" in ack.error
        assert ack.versions == ("1", "2")
        engine = next(engine for version, engine in repository.made if version == "4")
        until(lambda: engine._closed)


def test_a_load_that_fails_leaves_the_way_back_warm_under_a_budget(broker):
    repository = Repository()
    repository.broken["5"] = BROKEN
    worker = following(broker, repository)
    models = worker.deployments._models
    models._budget_bytes, models._measure = 25, lambda: 0
    models._resolve = lambda version: MemoryFiles(name="model", version=version, size_bytes=10)
    with worker:
        until(lambda: "w-0" in log_of(broker).acknowledgements)
        acknowledged(broker, give(broker, Promote, version="2"))
        ack = acknowledged(broker, give(broker, Promote, version="5"))
        assert "promises" in ack.error
        assert ack.versions == ("1", "2")
        assert acknowledged(broker, give(broker, Rollback)).error == ""
    assert repository.loads() == {"1": 1, "2": 1}


def test_a_worker_that_cannot_load_the_shadow_starts_without_it(broker):
    repository = Repository()
    repository.broken["5"] = BROKEN
    give(broker, Promote, version="1", expects=-1)
    give(broker, Shadow, version="5")
    revision = give(broker, Promote, version="2")
    with running(broker, repository):
        ack = acknowledged(broker, revision)
    assert ack.serving == revision
    assert "promises" in ack.error
