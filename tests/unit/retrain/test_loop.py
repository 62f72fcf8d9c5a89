"""From a request to a version on trial, over a real repository and a real command."""

from __future__ import annotations

import contextlib
import io
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from benchmarks import models
from streamserve.cli.rollout_session import RolloutSession
from streamserve.clock import SystemClock
from streamserve.config.rollout_settings import RetrainLoopSettings
from streamserve.registry.repository import FolderRepository
from streamserve.retrain.loop import Retrainer, Trial
from streamserve.retrain.requests import Request
from streamserve.rollout.records import Arm, Canary, Experiment, Promote, Rollback, Shadow
from streamserve.telemetry.logs import Log
from streamserve.testing import MemoryBroker
from streamserve.testing.rollout import MemoryRolloutReader, MemoryRolloutWriter

REQUEST = Request(
    reason="an incident has been open for 90 s", at_ms=1_370_000_000_000, version="1", document=b'{"a":1}'
)
WRITES = (
    "import os, shutil; out = os.environ['RETRAIN_OUT']; shutil.copy('new.onnx', out + '/model.onnx');"
    "open('seen', 'a').write(open(os.environ['RETRAIN_REQUEST']).read() + os.environ['RETRAIN_AT_MS']);"
)
METRICS = "open(out + '/model.yaml', 'w').write('metrics: {auc: 0.9}')"


class Rig:
    def __init__(self, folder, code=WRITES, trial=None, broker=None, **settings):
        self.folder = folder
        self.repository = FolderRepository(folder / "models")
        (folder / "new.onnx").write_bytes(models.mlp(seed=2).SerializeToString())
        if not (folder / "models").exists():
            (folder / "old.onnx").write_bytes(models.mlp(seed=1).SerializeToString())
            self.repository.push("m", folder / "old.onnx")
        (folder / "streamserve.yaml").write_text("")
        self.checked = []
        self.broker = broker or MemoryBroker()
        if broker is None:
            self.broker.create_topic("rollout")
            self.give(Promote(id="first", version="1"))
        self.log = io.StringIO()
        self.retrainer = Retrainer(
            RetrainLoopSettings(command=[sys.executable, "-c", code], **settings),
            model="m",
            config_file=folder / "streamserve.yaml",
            repository=self.repository,
            lock=folder / "models" / ".retrain-m.lock",
            stable=lambda: "1",
            check=self.check,
            rollouts=self.opened,
            stop=lambda: False,
            clock=SystemClock(),
            log=Log.open(stream=self.log, format="json"),
        )
        self.trial = trial or Trial(rows=10, figures={"mean_difference": 0.1})

    @contextlib.contextmanager
    def opened(self):
        with (
            MemoryRolloutReader(self.broker, "rollout") as reader,
            MemoryRolloutWriter(self.broker, "rollout") as writer,
        ):
            yield RolloutSession(reader, writer, members=lambda: None)

    def give(self, command):
        with self.opened() as session:
            session.read()
            session.give(command)

    @property
    def commands(self):
        """Those of the runner, whatever came of them."""
        with self.opened() as session:
            session.read()
        return [given.command for given in session.log.history if given.command.by == "retrain"]

    def check(self, pushed, stable):
        self.checked.append((pushed.version, stable))
        return self.trial


def test_a_new_version_is_pushed_checked_and_put_on_canary(tmp_path):
    rig = Rig(tmp_path, weight=0.2)
    how = rig.retrainer.handle(REQUEST)
    assert (how.result, how.version, how.why) == ("canary", "2", "")
    assert rig.checked == [("2", "1")]
    (command,) = rig.commands
    assert isinstance(command, Canary)
    assert (command.version, command.weight, command.by, command.why) == ("2", 0.2, "retrain", REQUEST.reason)
    assert (tmp_path / "seen").read_text() == '{"a":1}1370000000000'
    assert "asked 2013-05-31T11:33:20.000+00:00" in rig.repository.resolve("m", "2").manifest.source


@pytest.mark.parametrize(
    ("then", "kind", "result"),
    [("shadow", Shadow, "shadow"), ("promote", Promote, "promoted"), ("nothing", None, "pushed")],
)
def test_what_follows_is_configured(tmp_path, then, kind, result):
    rig = Rig(tmp_path, then=then)
    assert rig.retrainer.handle(REQUEST).result == result
    assert [type(command) for command in rig.commands] == ([kind] if kind else [])


def test_a_version_that_fails_its_check_sees_no_traffic(tmp_path):
    rig = Rig(tmp_path, trial=Trial(problems=("it differs",), rows=10))
    how = rig.retrainer.handle(REQUEST)
    assert (how.result, how.version, how.why, rig.commands) == ("refused", "2", "it differs", [])


@pytest.mark.parametrize(
    ("code", "least", "why"),
    [
        (WRITES + METRICS, 0.95, "its metric auc is 0.9, at least 0.95 is asked for"),
        (WRITES, 0.5, "its model.yaml has no metric auc"),
        (WRITES + METRICS.replace("0.9", ".nan"), 0.5, "its metric auc is nan"),
    ],
)
def test_a_metric_under_its_floor_refuses_the_version_before_it_is_tried(tmp_path, code, least, why):
    rig = Rig(tmp_path, code, check={"metrics": {"auc": least}})
    how = rig.retrainer.handle(REQUEST)
    assert how.result == "refused"
    assert how.why.startswith(why)
    assert rig.checked == []


def test_a_metric_over_its_floor_passes(tmp_path):
    rig = Rig(tmp_path, WRITES + METRICS, check={"metrics": {"auc": 0.85}})
    assert rig.retrainer.handle(REQUEST).result == "canary"


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("raise SystemExit('no data')", "ended with 1; its last lines:\n    no data"),
        ("pass", "RETRAIN_OUT"),
        ("import os; open(os.environ['RETRAIN_OUT'] + '/model.onnx', 'wb').write(b'x')", "model.onnx"),
        ("import os, pickle; pickle.dump(1, open(os.environ['RETRAIN_OUT'] + '/model.pkl', 'wb'))", "pickle"),
    ],
)
def test_a_failure_is_told_and_the_next_request_is_dealt_with(tmp_path, code, why):
    rig = Rig(tmp_path, code)
    how = rig.retrainer.handle(REQUEST)
    assert how.result == "failed"
    assert why in how.why
    assert (rig.commands, rig.repository.versions("m")) == ([], [1])
    assert '"retrained"' in rig.log.getvalue()


def test_a_runner_that_died_after_the_push_goes_on_with_the_check(tmp_path):
    class Died(BaseException):
        pass

    def dies(*_):
        raise Died

    rig = Rig(tmp_path)
    rig.retrainer._check = dies
    with pytest.raises(Died):
        rig.retrainer.handle(REQUEST)
    again = Rig(tmp_path, broker=rig.broker)
    assert again.retrainer.handle(REQUEST).version == "2"
    assert again.repository.versions("m") == [1, 2]
    assert (tmp_path / "seen").read_text().count('{"a":1}') == 1
    other = Request(reason=REQUEST.reason, at_ms=REQUEST.at_ms + 1, version="1")
    assert again.retrainer.handle(other).version == "3"


def test_a_request_that_comes_again_does_not_roll_out_again_what_was_rolled_back(tmp_path):
    rig = Rig(tmp_path)
    assert rig.retrainer.handle(REQUEST).result == "canary"
    rig.give(Rollback(id="guard-1", by="guard"))
    how = rig.retrainer.handle(REQUEST)
    assert (how.version, how.why) == ("2", "its command was given before; the history says what came of it")
    assert len(rig.commands) == 1


@pytest.mark.parametrize(
    "running",
    [
        Canary(id="c", version="7", weight=0.3),
        Experiment(
            id="e", name="x", arms=(Arm(name="a", version="1", weight=0.5), Arm(name="b", version="7", weight=0.5))
        ),
    ],
)
@pytest.mark.parametrize("then", ["canary", "promote", "shadow"])
def test_what_people_have_under_way_is_left_alone(tmp_path, running, then):
    rig = Rig(tmp_path, then=then)
    rig.give(running)
    how = rig.retrainer.handle(REQUEST)
    assert (how.result, how.version) == ("refused", "2")
    assert "is being tried" in how.why
    assert rig.commands == []


def test_a_request_that_reaches_two_runners_is_trained_once(tmp_path):
    slow = "import time; time.sleep(1);" + WRITES
    first = Rig(tmp_path, slow)
    rigs = [first, Rig(tmp_path, slow, broker=first.broker)]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda rig: rig.retrainer.handle(REQUEST), rigs))
    assert [how.version for how in found] == ["2"] * 2
    assert (tmp_path / "seen").read_text().count('{"a":1}') == 1
