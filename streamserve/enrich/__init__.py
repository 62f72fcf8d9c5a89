"""Events to the model's input tensors, by the feature spec."""

from __future__ import annotations

from streamserve.enrich.features import FeatureEnricher
from streamserve.enrich.fit import check_features

__all__ = ["FeatureEnricher", "check_features"]
