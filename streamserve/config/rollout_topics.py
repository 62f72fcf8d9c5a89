"""The topics of the `rollout` block by name, defaults filled in: the one place that knows `<pipeline>.rollout`."""

from __future__ import annotations

from dataclasses import dataclass

from streamserve.config.rollout_settings import RolloutSettings
from streamserve.config.settings import PipelineSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutTopics:
    """Names of the topics around rollouts.

    Attributes:
        control: commands, acknowledgements and switch points.
        shadow: a shadow's predictions.
    """

    control: str
    shadow: str


def rollout_topics(settings: PipelineSettings) -> RolloutTopics:
    """The topics of a pipeline; of one without a `rollout` block, what they would be called."""
    rollout, name = settings.rollout or RolloutSettings(), settings.pipeline
    return RolloutTopics(control=rollout.topic or f"{name}.rollout", shadow=rollout.shadow_topic or f"{name}.shadow")
