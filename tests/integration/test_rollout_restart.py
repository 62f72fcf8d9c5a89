"""A worker that starts after a life that ended inside the transaction of a switch point, on a real broker."""

import json

from confluent_kafka import Producer

from streamserve.kafka.rollout_topic import RolloutWriter
from streamserve.rollout.records import NONE, Promote, new_id
from tests.integration.test_model_rollout import Pipeline
from tests.pipelines import drained, running, wait_ready


def test_a_slot_that_comes_back_sees_what_its_former_life_held_up(tmp_path, kafka):
    pipeline = Pipeline(tmp_path, kafka.bootstrap)
    pipeline.env["STREAMSERVE_WORKERS"] = "1"
    died = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": f"{pipeline.name}.host-0.0"})
    died.init_transactions(30)
    with RolloutWriter(pipeline.settings) as writer:
        writer.publish(Promote(id=new_id(), version="1", by="test", expects=NONE))
        died.begin_transaction()
        died.produce(f"{pipeline.name}.rollout", key=b"a switch point", value=b"{}")
        died.flush(30)
        revision = writer.publish(Promote(id=new_id(), version="2", by="test"))
    log = tmp_path / "workers.log"
    with running(["streamserve", "run", "--slot", "host"], tmp_path, pipeline.env, log) as worker:
        wait_ready(int(pipeline.env["STREAMSERVE_HTTP__PORT"]), worker, log)
        pipeline.send(10)
        assert {prediction["version"] for prediction in pipeline.predictions()} == {"2"}
        drained(worker, log)
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    assert [line["revision"] for line in lines if line["event"] == "rollout_switched"] == [revision]
