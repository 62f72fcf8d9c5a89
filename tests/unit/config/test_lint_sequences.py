"""What lint finds in sequences, post-processing and hooks."""

from __future__ import annotations

import hashlib

import pytest

from streamserve.config.lint import lint
from streamserve.config.loading import load

BASE = {
    "pipeline": "pipeline: p",
    "kafka": "kafka: {bootstrap.servers: 'b:1'}",
    "input": "input: {topics: [events]}",
    "features": "features: [{name: x}]",
    "model": "model: {name: m}",
    "output": "output: {topic: predictions}",
    "dead_letter": "dead_letter: {topic: dead}",
}


@pytest.fixture
def found(tmp_path):
    (tmp_path / "models" / "m").mkdir(parents=True)

    def found(**sections: str) -> list[str]:
        path = tmp_path / "streamserve.yaml"
        path.write_text("\n".join({**BASE, **sections}.values()) + "\n")
        issues = lint(load(path, {}, {}))
        return [str(issue).split(": ", 2)[2] for issue in issues if issue.severity == "error"]

    return found


def sequence(more="", **keys):
    inside = ", ".join(f"{key}: {value}" for key, value in {"max_length": 8, **keys}.items())
    return f"features: [{{name: ids, dtype: int64, sequence: {{{inside}}}{more}}}]"


@pytest.mark.parametrize(
    ("features", "issue"),
    [
        (sequence(min_length=9), "features[0].sequence.min_length: is more than max_length (8)"),
        (sequence(min_length=1, missing="empty"), "an empty sequence is shorter than min_length (1)"),
        (sequence(buckets="[4, 16]"), "features[0].sequence.buckets: 16 is more than max_length (8)"),
        (sequence(pad="x"), "features[0].sequence.pad: is text in a sequence of int64"),
        (sequence(mask="ids"), "features[0].sequence.mask: is the input of the sequence itself"),
        (sequence(more=", default: 0"), "features[0].default: a sequence has no default"),
    ],
)
def test_a_sequence_that_contradicts_itself(found, features, issue):
    (told,) = found(features=features)
    assert issue in told


def test_a_raw_record_holds_no_sequence(found):
    (told,) = found(features=sequence(), input="input: {topics: [events], format: raw}")
    assert "features[0].sequence: raw records are all of one size" in told


def test_a_sequence_that_is_right_has_no_issue(found):
    assert found(features=sequence(buckets="[2, 4]", mask="m", pad=1, missing="empty")) == []


@pytest.mark.parametrize(
    ("post", "issue"),
    [
        ("a: {kind: argmax, of: b}, b: {kind: softmax, of: y}", "output.post.a.of: b is made later"),
        ("a: {kind: softmax, of: a}", "output.post.a.of: a is made later"),
        ("a: {kind: argmax, of: y, labels: [u, u]}", "output.post.a.labels: u is given 2 times"),
        ("a: {kind: top_k, of: y, k: 3, labels: [u, v]}", "output.post.a.k: is more than there are labels (2)"),
        ("a: {kind: top_k, of: y, k: 1, values: a}", "output.post.a.values: a is the name of another output"),
    ],
)
def test_steps_that_cannot_be(found, post, issue):
    (told,) = found(output=f"output: {{topic: predictions, post: {{{post}}}}}")
    assert issue in told


def test_a_hook_is_found_beside_the_configuration_and_held_against_its_digest(found, tmp_path):
    code = "def hook(inputs): return inputs\n"
    (tmp_path / "hooks.py").write_text(code)
    good, bad = hashlib.sha256(code.encode()).hexdigest(), "0" * 64
    assert found(hooks=f"hooks: {{before: {{path: hooks.py, sha256: '{good}', function: hook}}}}") == []
    (told,) = found(hooks=f"hooks: {{after: {{path: hooks.py, sha256: '{bad}', function: hook}}}}")
    assert "hooks.after.path" in told
    assert good in told
    assert bad in told


@pytest.mark.parametrize(
    ("drift", "issue"),
    [
        ("{pii: {ids: hash}}", "drift.pii.ids: is a sequence, which cannot be hashed"),
        ("{segments: [{feature: ids}]}", "drift.segments[0].feature: ids is a sequence"),
    ],
)
def test_drift_does_not_look_into_sequences(found, monkeypatch, drift, issue):
    monkeypatch.setenv("STREAMSERVE_PII_KEY", "k" * 32)
    (told,) = found(features=sequence(), drift=f"drift: {drift}")
    assert issue in told


def test_the_sampled_length_has_a_name_of_its_own(found):
    features = "features: [{name: ids, dtype: int64, sequence: {max_length: 8}}, {name: ids.length, input: y}]"
    (told,) = found(features=features, drift="drift: {}")
    assert "is also the sampled length of ids" in told
