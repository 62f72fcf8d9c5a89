"""The `rollout` and `retrain` blocks of `streamserve.yaml`: how a model changes under a running stream."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from streamserve.config.base import Settings, TopicName


class GuardSettings(Settings):
    """When a canary (or the second and further arms of an experiment) is rolled back by itself."""

    min_rows: int = Field(default=500, ge=1)
    """Rows a version must have scored before it is judged."""
    window_s: float = Field(default=30.0, gt=0, le=3600)
    """What it is judged on; where that has fewer than `min_rows`, on so many of its newest rows."""
    error_rate: float | None = Field(default=0.01, ge=0, le=1)
    """Share of its rows rejected by model or encoder may exceed the stable version's by so much; null: not judged."""
    latency_ratio: float | None = Field(default=2.0, gt=0)
    """A call of it may take so many times as long as the stable version's for the same rows; null: not judged."""
    drift: bool = True
    """An incident of the drift monitor that opens for its version rolls it back, performance included."""


class RolloutSettings(Settings):
    """Changing versions while the stream runs; see docs/rollouts.md."""

    topic: TopicName | None = None
    """Control topic, compacted, one partition; default `<pipeline>.rollout`."""
    shadow_topic: TopicName | None = None
    """Where a shadow's predictions go; default `<pipeline>.shadow`."""
    guard: GuardSettings | None = GuardSettings()
    """Null: nothing is rolled back by itself."""
    ack_timeout_s: float = Field(default=120.0, gt=0, le=86_400)
    """How long `streamserve model` waits for the workers to follow a command."""


class RetrainCheckSettings(Settings):
    """What a new model must pass on recorded samples before it sees traffic."""

    rows: int = Field(default=2000, ge=1)
    """Newest sampled rows it is tried on, beside the stable version."""
    max_difference: float | None = Field(default=None, ge=0)
    """Largest mean absolute difference of the outputs from the stable version's; null: only told."""
    metrics: dict[str, float] = Field(default_factory=dict)
    """Metric of the new version's `model.yaml` -> least value it must have."""


class RetrainLoopSettings(Settings):
    """Who trains when the drift monitor or a schedule asks for it, and what follows (`streamserve retrain`)."""

    command: list[str] = Field(min_length=1)
    """Program and arguments; no shell. Writes a model file, MLflow folder or version folder to `$RETRAIN_OUT`."""
    folder: str = "."
    """Working directory, relative to the configuration file."""
    environment: list[str] = Field(default_factory=list)
    """Further variables it may see, by name, beside `PATH`, `HOME`, `LANG`, `LC_ALL`, `TMPDIR`, `VIRTUAL_ENV`."""
    timeout_s: float = Field(default=3600.0, gt=0)
    """After so long it is ended and counts as failed."""
    every_s: float | None = Field(default=None, gt=0)
    """A schedule, beside the monitor's requests."""
    trust: bool = False
    """Accept torch archives from it, which are code."""
    check: RetrainCheckSettings = RetrainCheckSettings()
    then: Literal["nothing", "shadow", "canary", "promote"] = "canary"
    """What happens to a version that passed."""
    weight: float = Field(default=0.1, gt=0, le=1)
    """Share of the keys of a canary."""
