"""Topics as code on a real broker."""

from __future__ import annotations

import time

import pytest
from confluent_kafka.admin import AdminClient

from streamserve import cli
from streamserve.config.topic_documents import TopicDocument
from streamserve.errors import BrokerUnavailable, StreamServeError
from streamserve.kafka.topics import apply, plan
from tests.services import unique


@pytest.fixture
def admin(kafka) -> AdminClient:
    return AdminClient({"bootstrap.servers": kafka.bootstrap})


def actions(admin, *wanted, deadline_s=10.0, until=None) -> list[tuple[str, str]]:
    """What the plan says; with `until`, once it says that (metadata spreads after the call returns)."""
    end = time.monotonic() + deadline_s
    while True:
        found = [(change.action, change.detail) for change in plan(admin, wanted).changes]
        if until is None or found == until or time.monotonic() > end:
            return found
        time.sleep(0.1)


def test_a_topic_is_created_grown_altered_and_never_shrunk(admin):
    name = unique("topics")
    first = TopicDocument(name=name, partitions=2, replicas=1, config={"retention.ms": "60000"})
    assert actions(admin, first) == [("create", "2 partitions, 1 replicas, retention.ms=60000")]
    apply(admin, plan(admin, [first]))
    assert actions(admin, first, until=[]) == []

    wanted = TopicDocument(
        name=name, partitions=4, config={"retention.ms": "70000", "cleanup.policy": "delete,compact"}
    )
    difference = [
        ("grow", "partitions 2 -> 4"),
        ("alter", "retention.ms 60000 -> 70000, cleanup.policy delete -> delete,compact"),
    ]
    assert actions(admin, wanted) == difference
    apply(admin, plan(admin, [wanted]))
    assert actions(admin, wanted, until=[]) == []

    less = TopicDocument(name=name, partitions=1, replicas=3, config={"retention.mss": "1"})
    found = actions(admin, less)
    assert found == [
        ("impossible", "partitions 4 -> 1: partitions never shrink"),
        ("impossible", "replicas 1 -> 3: needs a reassignment by an operator"),
        ("impossible", "no configuration key retention.mss (did you mean retention.ms?)"),
    ]
    assert apply(admin, plan(admin, [less]), delete=True) == ()
    assert actions(admin, less) == found


def test_a_configuration_key_that_no_document_names_is_left_alone(admin):
    name = unique("topics")
    apply(admin, plan(admin, [TopicDocument(name=name, partitions=1, config={"retention.ms": "60000"})]))
    other = TopicDocument(name=name, partitions=1, config={"segment.bytes": "1048576"})
    assert actions(admin, other, until=[("alter", "segment.bytes 1073741824 -> 1048576")])
    apply(admin, plan(admin, [other]))
    assert actions(admin, TopicDocument(name=name, config={"retention.ms": "60000"}), until=[]) == []


def test_a_topic_is_deleted_only_when_marked_and_with_delete(admin):
    name = unique("topics")
    apply(admin, plan(admin, [TopicDocument(name=name, partitions=1)]))
    absent = TopicDocument(name=name, annotations={"state": "absent"})
    assert actions(admin, absent, until=[("delete", "marked as absent")]) == [("delete", "marked as absent")]
    assert apply(admin, plan(admin, [absent])) == ()
    assert [change.action for change in apply(admin, plan(admin, [absent]), delete=True)] == ["delete"]
    assert actions(admin, absent, until=[]) == []


def test_a_refusal_names_topic_and_remedy(admin):
    name = unique("topics")
    with pytest.raises(StreamServeError, match=rf"topic {name}: creating it failed: .*number of brokers"):
        apply(admin, plan(admin, [TopicDocument(name=name, partitions=1, replicas=7)]))


def test_no_broker_is_broker_unavailable(monkeypatch):
    monkeypatch.setattr("streamserve.kafka.topics.TIMEOUT_S", 1.0)
    nowhere = AdminClient({"bootstrap.servers": "127.0.0.1:1", "log_level": 0})
    with pytest.raises(BrokerUnavailable, match="no broker answers"):
        plan(nowhere, [TopicDocument(name="x")])


def test_the_command_ends_with_3_until_applied(kafka, tmp_path, capsys):
    name = unique("topics")
    config = tmp_path / "streamserve.yaml"
    config.write_text(
        f"pipeline: p\nkafka: {{bootstrap.servers: '{kafka.bootstrap}'}}\ninput: {{topics: [{name}]}}\n"
        "features: [{name: x}]\nmodel: {name: m}\noutput: {topic: o}\ndead_letter: {topic: d}\n"
    )
    (tmp_path / "topics").mkdir()
    (tmp_path / "topics" / "t.yaml").write_text(
        "apiVersion: kafka.strimzi.io/v1\nkind: KafkaTopic\n"
        f"metadata: {{name: {name}}}\nspec: {{partitions: 2, replicas: 1}}\n"
    )

    def run(verb: str) -> int:
        with pytest.raises(SystemExit) as ended:
            cli.main(["topics", verb, "-c", str(config)])
        return int(ended.value.code or 0)

    assert run("plan") == 3
    assert f"create  {name}" in capsys.readouterr().out
    assert run("apply") == 0
    end = time.monotonic() + 10
    while run("plan") != 0:
        assert time.monotonic() < end
        time.sleep(0.1)
