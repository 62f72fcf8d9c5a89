"""What lint says of the latency goal."""

from __future__ import annotations

import pytest

from streamserve.config.lint_batching import batching_findings, batching_warnings
from streamserve.testing import memory_settings


def said(rule, delivery=None, **engine):
    settings = memory_settings([{"name": "x"}], engine=engine, delivery=delivery or {})
    return [(".".join(map(str, finding.path)), finding.message) for finding in rule(settings)]


def test_a_fallback_that_is_not_there():
    assert said(batching_findings, slo_ms=50, late="fallback") == [
        ("engine.late", "is fallback, but there is no engine.fallback")
    ]
    assert said(batching_findings, slo_ms=50, late="fallback", fallback={"y": 1}) == []


def test_graphs_of_a_gpu_on_a_cpu():
    assert said(batching_findings, cuda_graphs=True, device="cpu") == [
        ("engine.cuda_graphs", "needs a GPU, but engine.device is cpu")
    ]
    assert said(batching_findings, cuda_graphs=True) == []
    assert said(batching_findings, cuda_graphs=True, device="cpu", allow_cpu_fallback=True) == []


@pytest.mark.parametrize(
    "engine", [{}, {"slo_ms": 50}, {"slo_ms": 50, "late": "dead_letter", "catch_up_lag_s": 2, "max_delay_ms": 5}]
)
def test_sound_settings(engine):
    assert said(batching_findings, **engine) + said(batching_warnings, **engine) == []


def test_keys_of_a_goal_without_one():
    found = said(batching_warnings, late="dead_letter", catch_up_lag_s=3)
    assert [key for key, _ in found] == ["engine.late", "engine.catch_up_lag_s"]


def test_a_fallback_that_nobody_gets():
    assert said(batching_warnings, slo_ms=50, fallback={"y": 1}) == [
        ("engine.fallback", "has no effect: engine.late is process")
    ]


def test_a_delay_that_the_goal_cuts_short():
    assert [key for key, _ in said(batching_warnings, slo_ms=50, max_delay_ms=25)] == ["engine.max_delay_ms"]


def test_a_goal_that_commits_are_too_far_apart_for():
    found = said(batching_warnings, slo_ms=50, delivery={"commit_min_interval_ms": 25})
    assert [key for key, _ in found] == ["engine.slo_ms"]
