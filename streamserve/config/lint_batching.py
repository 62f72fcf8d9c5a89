"""The rules for the engine: what becomes of late records must be said, and nothing is said in vain."""

from __future__ import annotations

from collections.abc import Iterator

from streamserve.config.settings import PipelineSettings
from streamserve.config.wording import Finding

NEEDS_GOAL = ("late", "fallback", "catch_up_lag_s")


def batching_findings(settings: PipelineSettings) -> Iterator[Finding]:
    """Contradictions."""
    engine = settings.engine
    if engine.slo_ms is not None and engine.late == "fallback" and not engine.fallback:
        hint = "name each output of the model and its value, such as fallback: {probability: 0.5}"
        yield Finding(("engine", "late"), "is fallback, but there is no engine.fallback", hint)
    if engine.cuda_graphs and engine.device == "cpu" and not engine.allow_cpu_fallback:
        message = "needs a GPU, but engine.device is cpu"
        yield Finding(("engine", "cuda_graphs"), message, "leave it out, or engine.device: cuda")


def batching_warnings(settings: PipelineSettings) -> Iterator[Finding]:
    """What may be meant."""
    engine = settings.engine
    if engine.slo_ms is None:
        for key in NEEDS_GOAL:
            if key in engine.model_fields_set:
                yield Finding(("engine", key), "has no effect without engine.slo_ms")
        return
    if engine.fallback is not None and engine.late != "fallback":
        yield Finding(("engine", "fallback"), f"has no effect: engine.late is {engine.late}")
    if engine.max_delay_ms >= engine.slo_ms / 2:
        hint = "a delay well below half of the goal"
        yield Finding(("engine", "max_delay_ms"), "is cut short by engine.slo_ms before it is over", hint)
    slowest_ms = settings.delivery.min_interval_ms(goal=True)
    if engine.slo_ms <= 2 * slowest_ms:
        message = f"cannot be kept: a commit may come {slowest_ms:g} ms after the one before"
        yield Finding(("engine", "slo_ms"), message, "a smaller delivery.commit_min_interval_ms")
