"""What lint finds in a `drift` block."""

from __future__ import annotations

import pytest

from streamserve.config.lint import lint
from streamserve.config.loading import load
from streamserve.config.pii_key import VARIABLE, pii_key
from streamserve.errors import ConfigError

BASE = {
    "pipeline": "pipeline: p",
    "kafka": "kafka: {bootstrap.servers: 'b:1'}",
    "input": "input: {topics: [events]}",
    "features": "features: [{name: age}, {name: city, dtype: string}]",
    "model": "model: {name: m}",
    "output": "output: {topic: predictions, outputs: {chance: y, score: z}}",
    "dead_letter": "dead_letter: {topic: dead}",
}


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.fixture
def found(tmp_path):
    (tmp_path / "models" / "m").mkdir(parents=True)

    def found(drift: str, **sections: str) -> list[str]:
        path = tmp_path / "streamserve.yaml"
        path.write_text("\n".join({**BASE, **sections, "drift": f"drift: {drift}"}.values()) + "\n")
        return [str(issue).replace(f"{path}:", "").replace(str(tmp_path), "") for issue in lint(load(path, {}, {}))]

    return found


def test_an_empty_block_has_no_issue(found):
    assert found("{}") == []


def test_a_full_block_has_no_issue(found):
    block = """
  samples_per_s: all
  pane_s: 0.1
  windows_s: [0.3, 60, 3600]
  pii: {id: hash, key: hash, city: hash, age: drop}
  pii_key_file: key
  segments: [{feature: city}]
  labels: {output: chance}
  retrain: {performance_below: 0.8}
"""
    assert found(block) == []


@pytest.mark.parametrize(
    ("drift", "sections", "expected"),
    [
        ("{windows_s: [10, 25]}", {}, "error: 8:25: drift.windows_s[1]: must be a multiple of pane_s (10)"),
        ("{windows_s: [5, 20]}", {}, "error: 8:21: drift.windows_s[0]: must be a multiple of pane_s (10)"),
        (
            "{samples_topic: predictions}",
            {},
            "error: 8:9: drift.samples_topic: predictions is also the topic of the predictions (name another)",
        ),
        (
            "{reports_topic: p.samples}",
            {},
            "error: 8:9: drift.reports_topic: p.samples is also the topic of the samples (name another)",
        ),
        (
            "{labels: {topic: events, output: chance}}",
            {},
            "error: 8:18: drift.labels.topic: events is also an input topic (name another)",
        ),
        (
            "{}",
            {"features": "features: [{name: output.chance}]"},
            (
                "error: 4:13: features[0].name: begins with output. like the sampled outputs (with a drift block it"
                " needs another name)"
            ),
        ),
        ("{pii: {citi: drop}}", {}, "error: 8:15: drift.pii.citi: is no feature (did you mean city?)"),
        (
            "{pii: {v: hash}, pii_key_file: key}",
            {"features": "features: {field: v, size: 3}"},
            "error: 8:15: drift.pii.v: is a vector, which cannot be hashed (drop)",
        ),
        (
            "{pii: {city: drop}}",
            {"input": "input: {topics: [events], key: city}"},
            "error: 8:15: drift.pii.city: is also input.key, which stays in the samples as it is (add key: drop)",
        ),
        (
            "{pii: {id: drop}, labels: {output: chance}}",
            {},
            "error: 8:15: drift.pii.id: without ids labels cannot be joined (hash)",
        ),
        (
            "{pii: {city: hash}}",
            {},
            (
                "error: 8:9: drift.pii: asks for hashes, but there is no key (set drift.pii_key_file, or the variable"
                " STREAMSERVE_PII_KEY, to a secret that stays the same: openssl rand -hex 32)"
            ),
        ),
        (
            "{segments: [{feature: cty}]}",
            {},
            "error: 8:21: drift.segments[0].feature: cty is no feature (did you mean city?)",
        ),
        (
            "{segments: [{feature: v}]}",
            {"features": "features: {field: v, size: 3}"},
            (
                "error: 8:21: drift.segments[0].feature: v is a vector (a segment needs a string feature, or a number"
                " with few values)"
            ),
        ),
        (
            "{segments: [{feature: city}, {feature: city}]}",
            {},
            "error: 8:38: drift.segments[1].feature: city is given 2 times",
        ),
        (
            "{segments: [{feature: city}], pii: {city: drop}}",
            {},
            "error: 8:21: drift.segments[0].feature: city is dropped by drift.pii",
        ),
        (
            "{segments: [{feature: city, values: [a]}], pii: {city: hash}, pii_key_file: key}",
            {},
            (
                "error: 8:36: drift.segments[0].values: city is hashed by drift.pii: no row has one of these values"
                " (leave them out)"
            ),
        ),
        (
            "{labels: {output: chanc}}",
            {},
            "error: 8:18: drift.labels.output: chanc is no name in output.outputs (did you mean chance?)",
        ),
        (
            "{labels: {}}",
            {},
            "error: 8:9: drift.labels.output: is needed: there are several outputs (chance, score)",
        ),
        (
            "{labels: {output: score, task: regression, classes: [a]}}",
            {},
            "error: 8:51: drift.labels.classes: a regression has no classes (leave it out)",
        ),
        (
            "{retrain: {performance_below: 0.8}}",
            {},
            "error: 8:19: drift.retrain.performance_below: needs labels (drift.labels says where they are)",
        ),
        (
            "{http_port: 8083}",
            {"more": "workers: 4"},
            "warning: 9:9: drift.http_port: is also the port of worker 3, if both are on one machine",
        ),
    ],
)
def test_contradictions(found, drift, sections, expected):
    assert found(drift, **sections) == [expected]


def test_a_key_in_the_environment_is_enough(found, monkeypatch):
    monkeypatch.setenv(VARIABLE, "secret")
    assert found("{pii: {city: hash}}") == []


def test_documents_of_the_topics_are_looked_for_and_must_keep_long_enough(found, tmp_path):
    (tmp_path / "topics").mkdir()

    def document(name: str, retention_ms: int) -> None:
        (tmp_path / "topics" / f"{name}.yaml").write_text(
            "apiVersion: kafka.strimzi.io/v1\nkind: KafkaTopic\n"
            f"metadata: {{name: {name}}}\nspec: {{config: {{retention.ms: {retention_ms}}}}}\n"
        )

    for name in ("events", "predictions", "dead", "p.drift.alerts"):
        document(name, 1000)
    document("p.samples", 1_800_000)
    document("p.labels", 3_600_000)
    assert found("{labels: {output: chance}}") == [
        (
            "warning: 8:1: drift.samples_topic: p.samples is kept for 1800 s, the longest window is 3600 s"
            " (a longer retention.ms in topics/)"
        ),
        "warning: 8:1: drift.reports_topic: no document in topics/ describes p.drift.reports",
        (
            "warning: 8:9: drift.labels.topic: p.labels is kept for 3600 s, a prediction waits for its label 86400 s"
            " (a longer retention.ms in topics/)"
        ),
    ]


def test_the_key_of_a_file_wins_over_the_variable(tmp_path):
    (tmp_path / "key").write_text("from the file\n")
    (tmp_path / "streamserve.yaml").write_text(
        "\n".join([*BASE.values(), "drift: {pii: {city: hash}, pii_key_file: key}"]) + "\n"
    )
    drift = load(tmp_path / "streamserve.yaml", {}, {}).settings.drift
    assert drift is not None
    assert pii_key(drift, {VARIABLE: "from the variable"}) == b"from the file"
    assert pii_key(drift.model_copy(update={"pii_key_file": None}), {VARIABLE: "it"}) == b"it"
    with pytest.raises(ConfigError, match="asks for hashes, but there is no key"):
        pii_key(drift.model_copy(update={"pii_key_file": None}), {})
    assert pii_key(drift.model_copy(update={"pii": {}, "pii_key_file": "gone"}), {}) == b""
