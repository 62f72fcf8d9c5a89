"""Whether what workers sample are inputs of a model again."""

from __future__ import annotations

from streamserve.config.settings import PipelineSettings, VectorSettings


def why_not_recorded(settings: PipelineSettings) -> str:
    """Which features the samples do not hold as they came, and why; empty when they hold all."""
    features = settings.features
    listed = [] if isinstance(features, VectorSettings) else features
    sequences = [feature.name for feature in listed if feature.sequence is not None]
    if sequences:
        return (
            f"of sequences ({', '.join(sequences)}) the samples hold the lengths alone, which are no inputs of a model"
        )
    names = [features.field] if isinstance(features, VectorSettings) else [feature.name for feature in listed]
    personal = settings.drift.pii if settings.drift is not None else {}
    lost = [name for name in names if name in personal]
    if lost:
        return (
            f"drift.pii hashes or drops {', '.join(lost)} in the samples, so that they are no inputs of a model any"
            " more"
        )
    return ""
