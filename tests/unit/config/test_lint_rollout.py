"""What lint finds in the `rollout` and `retrain` blocks."""

from __future__ import annotations

import pytest

from streamserve.config.lint import lint
from streamserve.config.loading import load

BASE = """pipeline: p
kafka: {bootstrap.servers: 'b:1'}
input: {topics: [events]}
model: {name: m}
output: {topic: predictions}
dead_letter: {topic: dead}
"""
TOPIC = """apiVersion: kafka.strimzi.io/v1
kind: KafkaTopic
metadata: {name: NAME}
spec: {config: {cleanup.policy: POLICY}, partitions: COUNT}
"""


@pytest.fixture
def found(tmp_path):
    (tmp_path / "models" / "m").mkdir(parents=True)

    def found(
        blocks: str, documents: dict[str, tuple[int, str]] | None = None, features: str = "features: [{name: age}]"
    ) -> list[str]:
        path = tmp_path / "streamserve.yaml"
        path.write_text(f"{BASE}{features}\n{blocks}\n")
        for name, (count, policy) in (documents or {}).items():
            (tmp_path / "topics").mkdir(exist_ok=True)
            text = TOPIC.replace("NAME", name).replace("COUNT", str(count)).replace("POLICY", policy)
            (tmp_path / "topics" / f"{name}.yaml").write_text(text)
        return [str(issue).replace(f"{path}:", "").replace(str(tmp_path), "") for issue in lint(load(path, {}, {}))]

    return found


def test_empty_blocks_have_no_issue(found):
    assert found("rollout: {}") == []
    assert found("rollout: {}\ndrift: {}\nretrain: {command: [train]}") == []
    assert found("retrain: {command: [train], then: nothing, every_s: 3600}") == []


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        (
            "rollout: {topic: predictions}",
            "error: 8:11: rollout.topic: predictions is also the topic of the predictions (name another)",
        ),
        (
            "rollout: {shadow_topic: events}",
            "error: 8:11: rollout.shadow_topic: events is also an input topic (name another)",
        ),
        (
            "rollout: {shadow_topic: p.rollout}",
            "error: 8:11: rollout.shadow_topic: p.rollout is also the topic of the rollouts (name another)",
        ),
        (
            "drift: {labels: {}}\nrollout: {topic: p.labels}",
            "error: 9:11: rollout.topic: p.labels is also the topic of the labels (name another)",
        ),
        (
            "drift: {alerts_topic: p.shadow}\nrollout: {}",
            "error: 9:1: rollout.shadow_topic: p.shadow is also the topic of the alerts (name another)",
        ),
        (
            "drift: {}\nretrain: {command: [train]}",
            "error: 9:1: retrain.then: canary needs rollouts, which are off (add a rollout block, or then: nothing)",
        ),
        (
            "rollout: {}\nretrain: {command: [train]}",
            "warning: 9:1: retrain: nobody asks for it: no drift monitor, no schedule (a drift block, or retrain.every_s)",
        ),
        (
            "rollout: {}\ndrift: {pii: {age: drop}}\nretrain: {command: [train]}",
            (
                "error: 10:1: retrain: would train in vain, for new versions are tried on recorded rows: drift.pii hashes or"
                " drops age in the samples, so that they are no inputs of a model any more (leave it out, and try versions"
                " with `streamserve replay`; or leave out drift, and set retrain.every_s)"
            ),
        ),
        (
            "rollout: {guard: {drift: true}}",
            "warning: 8:19: rollout.guard.drift: has no effect: there is no drift block",
        ),
    ],
)
def test_a_contradiction_is_found(found, blocks, expected):
    assert found(blocks) == [expected]


def test_retraining_on_samples_that_hold_no_sequences_is_found(found):
    features = "features: [{name: age, sequence: {max_length: 8}}]"
    retrain = "retrain: {command: [train], every_s: 60}"
    assert found(f"rollout: {{}}\n{retrain}", features=features) == []
    (issue,) = found(f"rollout: {{}}\ndrift: {{}}\n{retrain}", features=features)
    assert "of sequences (age) the samples hold the lengths alone" in issue


GOOD = {
    "events": (4, "delete"),
    "predictions": (4, "delete"),
    "dead": (4, "delete"),
    "p.rollout": (1, "compact"),
    "p.shadow": (4, "delete"),
}


def test_fitting_documents_have_no_issue(found):
    assert found("rollout: {}", GOOD) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"p.rollout": (2, "compact")}, "must have one partition"),
        ({"p.rollout": (1, "delete")}, r"would forget its commands (cleanup.policy: compact in topics/)"),
        ({"p.shadow": (3, "delete")}, "p.shadow and predictions have different numbers of partitions"),
    ],
)
def test_a_document_that_does_not_fit_is_found(found, change, expected):
    (issue,) = found("rollout: {}", {**GOOD, **change})
    assert issue.startswith("warning: 8:1: rollout.")
    assert expected in issue


@pytest.mark.parametrize(
    ("control", "expected"),
    [
        ((3, 2), []),
        ((5, 2), []),
        ((1, 2), ["p.rollout is committed together with predictions, which has 3 replicas, not 1"]),
        ((3, 1), ["p.rollout is committed together with predictions, which has min.insync.replicas=2, not 1"]),
    ],
)
def test_a_control_topic_that_is_away_sooner_than_the_predictions_is_found(found, control, expected):
    replicas, insync = control
    documents = {
        **GOOD,
        "predictions": ("4, replicas: 3", "delete, min.insync.replicas: 2"),
        "p.rollout": (f"1, replicas: {replicas}", f"compact, min.insync.replicas: {insync}"),
    }
    issues = found("rollout: {}", documents)
    assert issues == [f"warning: 8:1: rollout.topic: {message} (give both the same in topics/)" for message in expected]


def test_missing_documents_are_told(found):
    documents = {name: shape for name, shape in GOOD.items() if not name.startswith("p.")}
    assert found("rollout: {}", documents) == [
        "warning: 8:1: rollout.topic: no document in topics/ describes p.rollout",
        "warning: 8:1: rollout.shadow_topic: no document in topics/ describes p.shadow",
    ]
