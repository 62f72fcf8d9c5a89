"""`streamserve model promote, canary, ...` against real workers on a real broker: who follows, who does not, what is refused."""

from __future__ import annotations

import json
import math
import subprocess
import time
from collections import defaultdict

import numpy as np
import pytest
from confluent_kafka import Consumer
from onnx import TensorProto, helper, numpy_helper

from streamserve.config.loading import load
from streamserve.kafka.members import Group
from streamserve.kafka.rollout_topic import RolloutReader, RolloutWriter
from streamserve.rollout.log import RolloutLog
from streamserve.rollout.records import Acknowledgement
from tests.pipelines import drained, environment, free_port, running, wait_ready
from tests.services import create_topic, produce, read_all, unique

CONFIG = """pipeline: {name}
kafka: {{bootstrap.servers: "{bootstrap}"{kafka}}}
input: {{topics: [{name}.events], id: id}}
features: [{{name: x}}]
model: {{name: scale}}
output: {{topic: {name}.predictions}}
dead_letter: {{topic: {name}.dead}}
delivery: {{commit_interval_ms: 20}}
rollout: {{ack_timeout_s: 30}}
workers: 2
"""


def version(folder, number, factor, width=1):
    """A model that multiplies `x`."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", width])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", width])
    weight = numpy_helper.from_array(np.array([factor], dtype=np.float32), "k")
    graph = helper.make_graph([helper.make_node("Mul", ["x", "k"], ["y"])], "g", [x], [y], [weight])
    target = folder / "models" / "scale" / str(number)
    target.mkdir(parents=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (target / "model.onnx").write_bytes(model.SerializeToString())


class Pipeline:
    def __init__(self, folder, bootstrap, kafka=""):
        self.folder, self.bootstrap = folder, bootstrap
        self.name = unique("p")
        self.env = environment(STREAMSERVE_HTTP__PORT=str(free_port()))
        self.events = 0
        (folder / "streamserve.yaml").write_text(CONFIG.format(name=self.name, bootstrap=bootstrap, kafka=kafka))
        for number, factor in enumerate((1, 2, 3), start=1):
            version(folder, number, factor)
        (folder / "models" / "scale" / "aliases.yaml").write_text("stable: 1\n")
        for topic in ("events", "predictions", "dead", "shadow"):
            create_topic(bootstrap, f"{self.name}.{topic}", 2)
        create_topic(bootstrap, f"{self.name}.rollout", 1, {"cleanup.policy": "compact"})

    @property
    def settings(self):
        return load(self.folder / "streamserve.yaml", {}, {}).settings

    def model(self, *words, code=0):
        """Run `streamserve model ...`; it must end with `code`."""
        command = ["streamserve", "model", *words]
        done = subprocess.run(
            command, cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == code, f"{words} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done

    def told(self, *words, code=0):
        return json.loads(self.model(*words, "--format", "json", code=code).stdout)

    def log(self):
        log = RolloutLog()
        with RolloutReader(self.settings) as reader:
            for entry in reader.read_to_end(20):
                log.add(*entry)
        return log

    def send(self, count):
        """Events with the value 1: the output is the version."""
        keys = [f"key-{n}".encode() for n in range(self.events, self.events + count)]
        produce(self.bootstrap, f"{self.name}.events", [(key, b'{"id":"%s","x":1}' % key) for key in keys])
        self.events += count

    def predictions(self):
        """Every prediction, once all events have one."""
        found = []
        deadline = time.monotonic() + 60
        while len(found) < self.events and time.monotonic() < deadline:
            found = [json.loads(message.value()) for message in read_all(self.bootstrap, f"{self.name}.predictions")]
            time.sleep(0.2)
        assert len(found) == self.events
        return found


@pytest.fixture
def pipeline(tmp_path, kafka):
    return Pipeline(tmp_path, kafka.bootstrap)


@pytest.fixture
def served(pipeline, tmp_path):
    """With two workers."""
    log = tmp_path / "workers.log"
    port = int(pipeline.env["STREAMSERVE_HTTP__PORT"])
    with running(["streamserve", "run", "--slot", "host"], tmp_path, pipeline.env, log) as workers:
        for offset in (0, 1):
            wait_ready(port + offset, workers, log)
        yield pipeline
        drained(workers, log)
    assert pipeline.log().acknowledgements == {}, "slots that end in good order leave"


def test_the_life_of_a_version(served):
    assert {slot["standing"] for slot in served.told("status")["workers"]} == {"follows"}
    assert served.told("status")["state"]["stable"] == "3"  # model.version is latest

    said = served.model("promote", "stable", "--why", "the tried one", "--by", "ann")
    assert "host-0 follows after" in said.stderr
    assert "host-1 follows after" in said.stderr
    assert "version 1 is stable\n" in said.stdout
    served.send(40)
    assert {p["version"] for p in served.predictions()} == {"1"}

    canary = served.told("canary", "2", "--weight", "0.5")
    assert (canary["state"]["canary"], canary["state"]["weight"]) == ("2", 0.5)
    assert [w["acknowledgement"]["serving"] for w in canary["workers"]] == [canary["revision"]] * 2
    served.send(60)
    found = served.predictions()
    assert {p["version"] for p in found[40:] if p["id"] not in {f"key-{n}" for n in range(40)}} == {"1", "2"}
    log = served.log()
    for prediction in found:
        source = prediction["source"]
        key = prediction["id"].encode()
        version = log.version_at(source["topic"], source["partition"], source["offset"], key)
        assert prediction["version"] == version
        assert prediction["outputs"]["y"] == float(version)

    assert served.told("rollback")["state"]["canary"] is None
    served.model("shadow", "2")
    promoted = served.model("promote", "2", "--format", "json")
    assert json.loads(promoted.stdout)["state"]["shadow"] is None
    assert "the shadow of version 2 has ended" in promoted.stderr
    back = served.told("rollback", "--why", "worse")
    assert (back["state"]["stable"], back["state"]["previous"]) == ("1", "2")
    served.model("retire")
    assert "no version to go back to" in served.model("rollback", code=3).stderr

    first, *_ = history = [record for record in served.told("history") if record["refused"] is None]
    assert (first["version"], first["why"]) == ("3", "first start")
    assert [record["kind"] for record in history] == [
        "promote", "promote", "canary", "rollback", "shadow", "promote", "rollback", "retire",
    ]  # fmt: skip
    assert (history[1]["by"], history[1]["why"]) == ("ann", "the tried one")
    assert served.told("history", "--limit", "1") == history[-1:]


def test_a_key_keeps_its_version_after_a_restart_and_on_another_worker(pipeline, tmp_path):
    """400 keys on a canary of 10 %, each three times: by one worker, by two after a restart, on other partitions."""
    pipeline.model("promote", "1")
    pipeline.model("canary", "2", "--weight", "0.1")
    keys = [f"key-{n}" for n in range(400)]
    for slot, workers, shift in (("first", 1, 0), ("second", 2, 0), ("third", 2, 1)):
        records = [
            {"key": key, "value": b'{"id":"%s","x":1}' % key.encode(), "partition": (n + shift) % 2}
            for n, key in enumerate(keys)
        ]
        command = ["streamserve", "run", "--slot", slot, "--workers", str(workers)]
        log = tmp_path / f"{slot}.log"
        with running(command, tmp_path, pipeline.env, log) as process:
            wait_ready(int(pipeline.env["STREAMSERVE_HTTP__PORT"]), process, log)
            produce(pipeline.bootstrap, f"{pipeline.name}.events", records)
            pipeline.events += len(records)
            pipeline.predictions()
            drained(process, log)
    by_key, partitions = defaultdict(list), defaultdict(set)
    for prediction in pipeline.predictions():
        by_key[prediction["id"]].append(prediction["version"])
        partitions[prediction["id"]].add(prediction["source"]["partition"])
    assert all(len(versions) == 3 and len(set(versions)) == 1 for versions in by_key.values())
    assert all(len(seen) == 2 for seen in partitions.values())
    on_canary = sum(versions[0] == "2" for versions in by_key.values())
    assert abs(on_canary - 40) <= 5 * math.sqrt(400 * 0.1 * 0.9)


def test_a_worker_that_cannot_load_a_version_keeps_the_old_one_and_says_why(served):
    version(served.folder, 4, float("nan"))
    said = served.model("promote", "4", code=1)
    assert "could not follow and goes on with what it served" in said.stderr
    assert "finite" in said.stderr
    served.send(20)
    assert {p["version"] for p in served.predictions()} == {"3"}
    assert "they go on with version 3. So it was taken back" in said.stderr
    assert "version 3 is stable" in said.stdout
    status = served.told("status")
    assert (status["state"]["stable"], status["state"]["previous"]) == ("3", None)
    assert {worker["standing"] for worker in status["workers"]} == {"follows"}
    assert served.told("history")[-1]["why"] == "no worker could load version 4"

    assert (
        "Take the command back: streamserve model rollback\n"
        in served.model("canary", "4", "--weight", "0.5", code=1).stderr
    )
    served.model("rollback")
    kept = served.model("promote", "4", "--keep", code=1)
    assert "Take the command back: streamserve model rollback --drop" in kept.stderr
    assert {worker["standing"] for worker in served.told("status")["workers"]} == {"failed"}
    back = served.told("rollback", "--drop")["state"]
    assert (back["stable"], back["previous"]) == ("3", None)


def test_a_slot_that_was_killed_is_not_waited_for_once_the_group_has_forgotten_it(served):
    with RolloutWriter(served.settings) as writer:
        writer.publish(Acknowledgement(slot="long-gone", revision=0, serving=0))
    told = served.told("promote", "1")
    assert {worker["slot"]: worker["standing"] for worker in told["workers"]} == {
        "host-0": "follows",
        "host-1": "follows",
        "long-gone": "gone",
    }
    with RolloutWriter(served.settings) as writer:
        writer.tombstone("long-gone")


def test_a_worker_that_does_not_answer_is_named(pipeline):
    """A member of the group that reads no rollout topic, as one of an older release would not."""
    properties = {"bootstrap.servers": pipeline.bootstrap, "group.id": pipeline.name}
    silent = Consumer({**properties, "client.id": f"{pipeline.name}/old-0"})
    try:
        silent.subscribe([f"{pipeline.name}.events"])
        while not silent.assignment():
            silent.poll(0.1)
        said = pipeline.model("promote", "1", "--timeout", "1", code=1).stderr
        assert "no answer yet from old-0; the command stands" in said
        (worker,) = pipeline.told("status")["workers"]
        assert worker == {"slot": "old-0", "standing": "waits", "acknowledgement": None}
    finally:
        silent.close()


def test_without_a_worker_it_says_so(pipeline):
    assert "no worker is running" in pipeline.model("promote", "1").stderr
    assert pipeline.told("promote", "2", "--no-wait")["workers"] is None
    assert pipeline.told("status")["workers"] == []


def test_what_the_state_refuses_is_not_written(pipeline):
    pipeline.model("promote", "1")
    for words, why in [
        (("promote", "1"), "stable already"),
        (("canary", "stable", "--weight", "0.1"), "is the stable one already"),
        (("stop", "experiment"), "there is no experiment to stop"),
        (("experiment", "x", "--arm", "a=1:0.5", "--arm", "b=2:0.6"), "sum to 1.1"),
    ]:
        assert why in pipeline.model(*words, code=3).stderr
    assert len(pipeline.told("history")) == 1


def test_what_cannot_be_meant_is_refused(pipeline):
    for words, code, why in [
        (("promote", "9"), 78, "9"),
        (("promote", "unheard-of"), 78, "unheard-of"),
        (("canary", "2", "--weight", "1.5"), 2, "above 0 and at most 1"),
        (("canary", "2", "--weight", "0"), 2, "above 0 and at most 1"),
        (("experiment", "x", "--arm", "a=1"), 2, "is not NAME=VERSION:WEIGHT"),
        (("experiment", "x", "--arm", "a=1:1"), 2, "at least two arms"),
        (("experiment", "A b", "--arm", "a=1:0.5", "--arm", "b=2:0.5"), 2, "lower-case letters"),
        (("stop", "everything"), 2, "everything"),
    ]:
        assert why in pipeline.model(*words, code=code).stderr
    assert pipeline.log().history == []


def test_a_version_that_does_not_fit_the_features_is_refused_before_any_worker_sees_it(pipeline):
    version(pipeline.folder, 4, 1, width=2)
    assert "2" in pipeline.model("promote", "4", code=78).stderr
    assert pipeline.told("history") == []


def test_a_version_whose_files_were_touched_is_refused(pipeline):
    folder = pipeline.folder / "models" / "scale" / "2"
    (folder / "model.yaml").write_text("runtime: onnx\nfiles: {model.onnx: " + "a" * 64 + "}\n")
    assert "model.onnx" in pipeline.model("promote", "2", code=78).stderr


def test_an_unreachable_broker_is_told_from_a_missing_block(pipeline):
    config = pipeline.folder / "streamserve.yaml"
    config.write_text(config.read_text().replace(pipeline.bootstrap, "127.0.0.1:1"))
    assert "no Kafka broker answers" in pipeline.model("status", code=69).stderr
    config.write_text(config.read_text().replace("rollout: {ack_timeout_s: 30}", ""))
    assert "no rollouts (add `rollout: {}`)" in pipeline.model("status", code=78).stderr


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_members_of_the_group_are_known_by_their_slots(tmp_path, kafka, protocol):
    pipeline = Pipeline(tmp_path, kafka.bootstrap, kafka=f", consumer.group.protocol: {protocol}")
    group, log = Group(pipeline.settings), tmp_path / "workers.log"
    assert len(group.members()) == 0
    port = int(pipeline.env["STREAMSERVE_HTTP__PORT"])
    with running(["streamserve", "run", "--slot", "höst"], tmp_path, pipeline.env, log) as workers:
        for offset in (0, 1):
            wait_ready(port + offset, workers, log)
        assert group.members().slots == {"h-st-0", "h-st-1"}
        drained(workers, log)
    deadline = time.monotonic() + 50  # a request to leave that got lost: until the session times out
    while len(group.members()) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert len(group.members()) == 0


def test_a_client_id_of_the_users_own_is_kept_and_its_members_are_counted(tmp_path, kafka):
    pipeline = Pipeline(tmp_path, kafka.bootstrap, kafka=", client.id: team-a")
    log = tmp_path / "workers.log"
    port = int(pipeline.env["STREAMSERVE_HTTP__PORT"])
    with running(["streamserve", "run", "--slot", "host"], tmp_path, pipeline.env, log) as workers:
        for offset in (0, 1):
            wait_ready(port + offset, workers, log)
        members = Group(pipeline.settings).members()
        assert (members.slots, members.unnamed) == (frozenset(), 2)
        assert {w["standing"] for w in pipeline.told("promote", "1")["workers"]} == {"follows"}
        drained(workers, log)
