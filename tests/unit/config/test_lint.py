"""What lint finds in a configuration that loads."""

from __future__ import annotations

import pytest

from streamserve.config.lint import check, lint
from streamserve.config.loading import load
from streamserve.errors import ConfigError

BASE = {
    "pipeline": "pipeline: flights",
    "kafka": "kafka: {bootstrap.servers: 'b:1'}",
    "input": "input: {topics: [flights.departures]}",
    "features": "features: [{name: x}]",
    "model": "model: {name: m}",
    "output": "output: {topic: flights.predictions}",
    "dead_letter": "dead_letter: {topic: flights.departures.dlq}",
}


@pytest.fixture
def found(tmp_path):
    (tmp_path / "models" / "m").mkdir(parents=True)

    def found(**sections: str) -> list[str]:
        path = tmp_path / "streamserve.yaml"
        path.write_text("\n".join({**BASE, **sections}.values()) + "\n")
        return [str(issue).replace(f"{path}:", "").replace(str(tmp_path), "") for issue in lint(load(path, {}, {}))]

    return found


def test_a_plain_configuration_has_no_issue(found):
    assert found() == []


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        (
            {"features": "features: [{name: x}, {name: x}]"},
            "error: 4:24: features[1].name: x is given 2 times",
        ),
        (
            {"features": "features: [{name: x, min: 2, max: 1}]"},
            "error: 4:22: features[0].min: is more than max (1)",
        ),
        (
            {"features": "features: {field: x, size: 2, min: 2, max: 1}"},
            "error: 4:31: features.min: is more than max (1)",
        ),
        (
            {"features": "features: [{name: x, default: a}]"},
            "error: 4:22: features[0].default: must be a number, not text",
        ),
        (
            {"features": "features: [{name: x, dtype: int32, default: 1.5}]"},
            "error: 4:36: features[0].default: is no int32",
        ),
        (
            {"features": "features: [{name: x, max: 3, default: 4}]"},
            "error: 4:30: features[0].default: is more than max (3)",
        ),
        (
            {"features": "features: [{name: x, dtype: bool, default: 1}]"},
            "error: 4:35: features[0].default: must be true or false, not a whole number",
        ),
        (
            {"features": "features: [{name: x, dtype: string, categories: [a], default: b}]"},
            "error: 4:54: features[0].default: is none of the categories",
        ),
        (
            {"features": "features: [{name: x, categories: [a]}]"},
            "error: 4:22: features[0].categories: only a string has categories, not float32",
        ),
        (
            {"features": "features: [{name: x, dtype: string, unknown: other}]"},
            "error: 4:37: features[0].unknown: needs categories (list them, or leave it out)",
        ),
        (
            {
                "input": "input: {topics: [flights.departures], format: raw}",
                "features": "features: [{name: x, dtype: string}]",
            },
            "error: 4:22: features[0].dtype: a raw record cannot hold a string (input.format: json or msgpack)",
        ),
        (
            {"output": "output: {topic: flights.departures}"},
            "error: 6:10: output.topic: is also an input topic: predictions would be read as events (name another)",
        ),
        (
            {"dead_letter": "dead_letter: {topic: flights.predictions}"},
            "error: 7:15: dead_letter.topic: is also the topic of the predictions (name another)",
        ),
        (
            {"input": "input: {topics: [a], start: soon}"},
            (
                "error: 3:22: input.start: must be beginning, end, or a time (such as 2026-01-31T00:00:00Z or epoch "
                "milliseconds)"
            ),
        ),
        (
            {"output": "output: {topic: p, outputs: {p: y}, threshold: {q: 1}}"},
            "error: 6:49: output.threshold.q: is no name in output.outputs (known: p)",
        ),
        (
            {"more": "delivery: {commit_interval_ms: 5, commit_min_interval_ms: 6}"},
            "error: 8:35: delivery.commit_min_interval_ms: must be at most commit_interval_ms (5)",
        ),
        (
            {"input": "input: {topics: [a], key: k}", "more": "cache: {ttl_s: 5}"},
            (
                "error: 8:1: cache.order: offset cannot order the predictions of a key: input.key is set, so a key may "
                "be in many partitions (order: event_time)"
            ),
        ),
        (
            {"more": "cache: {url: 'http://x'}"},
            "error: 8:9: cache.url: must begin with redis://, rediss://, redis+cluster://, rediss+cluster://, unix://",
        ),
        (
            {"more": "http: {port: 65535}\nworkers: 2"},
            "error: 8:8: http.port: 2 workers would listen up to port 65536",
        ),
        (
            {"kafka": "kafka: {bootstrap.servers: 'b:1', message.timeout.ms: 60000}"},
            "error: 2:35: kafka.message.timeout.ms: must be at most transaction.timeout.ms (30000)",
        ),
        (
            {"more": "delivery: {commit_interval_ms: 15001}"},
            (
                "error: 8:12: delivery.commit_interval_ms: must be at most half of transaction.timeout.ms (30000): "
                "15001 ms leave a transaction too little time to commit before the brokers abort it (at most 15000, or "
                "a longer kafka.transaction.timeout.ms)"
            ),
        ),
        (
            {"more": "delivery: {drain_timeout_s: 300}"},
            (
                "warning: 8:12: delivery.drain_timeout_s: a drain of 300 s outlasts max.poll.interval.ms (300000): the "
                "group moves on first"
            ),
        ),
        (
            {"model": "model: {name: other}"},
            (
                "warning: 5:9: model.name: there is no model at /models/other (mend model.name or model.repository, or "
                "put the model there: docs/models.md)"
            ),
        ),
        (
            {"more": "cache: {url: 'redis://:x@h'}"},
            "warning: 8:9: cache.url: holds a password (cache.password_file keeps it out of sight)",
        ),
    ],
)
def test_an_issue_has_its_line_and_words(found, sections, expected):
    assert found(**sections) == [expected]


def test_check_raises_for_errors_alone(tmp_path):
    path = tmp_path / "streamserve.yaml"
    path.write_text("\n".join(BASE.values()))
    assert [issue.severity for issue in check(load(path, {}, {}))] == ["warning"]
    path.write_text("\n".join({**BASE, "features": "features: [{name: x, min: 2, max: 1}]"}.values()))
    with pytest.raises(ConfigError, match="is more than max"):
        check(load(path, {}, {}))


TOPIC = """\
apiVersion: kafka.strimzi.io/v1
kind: KafkaTopic
metadata: {{name: {name}}}
spec: {{partitions: {partitions}}}
---
"""


def test_unequal_partition_counts_and_undescribed_topics_are_warnings(found, tmp_path):
    (tmp_path / "topics").mkdir()
    texts = [
        TOPIC.format(name="flights.departures", partitions=4),
        TOPIC.format(name="flights.predictions", partitions=3),
    ]
    (tmp_path / "topics" / "all.yaml").write_text("".join(texts))
    assert found() == [
        (
            "warning: 6:10: output.topic: flights.predictions has 3 partitions, its input flights.departures 4 "
            "partitions: a prediction goes to the partition number of its input, modulo their count (give both the "
            "same count in topics/)"
        ),
        "warning: 7:15: dead_letter.topic: no document in topics/ describes flights.departures.dlq",
    ]


def test_a_mistake_in_a_topic_is_an_error_with_its_line(found, tmp_path):
    (tmp_path / "topics").mkdir()
    (tmp_path / "topics" / "a.yaml").write_text(TOPIC.format(name="a_b", partitions=0))
    assert found() == [
        "error: /topics/a.yaml:3:12: metadata.name: a topic name uses `.`, never `_` (call it a.b)",
        "error: /topics/a.yaml:4:8: spec.partitions: must be a whole number from 1 to 100000",
    ]


@pytest.mark.parametrize(
    "sections",
    [
        {"more": "delivery: {commit_interval_ms: 15000}"},
        {"more": "delivery: {commit_interval_ms: 15001, guarantee: at_least_once}"},
        {
            "kafka": "kafka: {bootstrap.servers: 'b:1', transaction.timeout.ms: 40000}",
            "more": "delivery: {commit_interval_ms: 15001}",
        },
    ],
)
def test_a_commit_interval_that_leaves_time_to_commit_is_no_issue(found, sections):
    assert found(**sections) == []
