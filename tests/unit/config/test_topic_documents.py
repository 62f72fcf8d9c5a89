"""Topics as code: reading and its mistakes."""

from __future__ import annotations

import pytest

from streamserve.config.topic_documents import check_topics, read_topics
from streamserve.errors import ConfigError

GOOD = """\
apiVersion: kafka.strimzi.io/v1
kind: KafkaTopic
metadata:
  name: flights.departures
  labels: {strimzi.io/cluster: kafka}
  annotations:
    streamserve.io/owner: flights
    other.io/x: y
spec:
  partitions: 4
  replicas: 1
  config:
    retention.ms: 604800000
    cleanup.policy: [compact, delete]
    preallocate: false
"""


def test_a_document_is_read_with_values_as_text(tmp_path):
    (tmp_path / "a.yaml").write_text(GOOD + "---\n" + GOOD.replace("flights.departures", "b"))
    b, topic = read_topics(tmp_path)
    assert (b.name, topic.name, topic.partitions, topic.replicas) == ("b", "flights.departures", 4, 1)
    assert topic.config == {
        "retention.ms": "604800000",
        "cleanup.policy": "compact,delete",
        "preallocate": "false",
    }
    assert topic.annotations == {"owner": "flights"}
    assert (topic.line, topic.absent) == (4, False)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("kind: KafkaTopic", "kind: Topic", ["2:1: kind: must be KafkaTopic"]),
        ("  name: flights.departures", "  nam: x", ["3: metadata.name: is missing"]),
        (
            "flights.departures",
            "Flights",
            ["4:3: metadata.name: must be lower-case letters, digits, `.` and `-`, at most 249"],
        ),
        ("partitions: 4", "partition: 4", ["10:3: spec.partition: unknown key (did you mean partitions?)"]),
        (
            "partitions: 4",
            "partitions: many",
            ["10:3: spec.partitions: must be a whole number from 1 to 100000"],
        ),
        (
            "retention.ms: 604800000",
            "retention.ms: {a: b}",
            ["13:5: spec.config.retention.ms: must be text, a number or true or false, not a mapping"],
        ),
        (
            "streamserve.io/owner",
            "streamserve.io/ownr",
            ["7:5: metadata.annotations.streamserve.io/ownr: unknown annotation (did you mean owner?)"],
        ),
        (
            "streamserve.io/owner: flights",
            "streamserve.io/schema: no.json",
            ["7:5: metadata.annotations.streamserve.io/schema: there is no file no.json beside this one"],
        ),
        (
            "streamserve.io/owner: flights",
            "streamserve.io/state: gone",
            ["7:5: metadata.annotations.streamserve.io/state: must be present or absent"],
        ),
    ],
)
def test_a_mistake_has_its_line(tmp_path, before, after, expected):
    path = tmp_path / "a.yaml"
    path.write_text(GOOD.replace(before, after))
    _, problems = check_topics(tmp_path)
    assert [str(problem).replace(f"{path}:", "") for problem in problems] == expected


def test_the_same_topic_twice_names_both_places(tmp_path):
    (tmp_path / "a.yaml").write_text(GOOD)
    (tmp_path / "b.yaml").write_text(GOOD)
    with pytest.raises(ConfigError, match=r"b\.yaml:4: the topic flights.departures is also described in .*a\.yaml:4"):
        read_topics(tmp_path)
