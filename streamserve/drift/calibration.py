"""Scores to probabilities: isotonic maps, fitted once on the labels of the reference and stored in it.

What a model calls a probability seldom is one. A map per class, non-decreasing, turns scores into the share of rows of
that class which the reference had at such scores; only then can performance be expected before labels come (see
`expected`). This module fits, applies and stores the maps; it decides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np

from streamserve.batch import F64


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class IsotonicMap:
    """A non-decreasing function, linear between its knots and constant beyond them.

    Attributes:
        x: float64[k], ascending scores, k >= 1.
        y: float64[k], the value at each, non-decreasing, in [0, 1].
    """

    x: F64
    y: F64

    def __post_init__(self) -> None:
        finite = np.isfinite(self.x).all() and np.isfinite(self.y).all()
        if not len(self.x) or len(self.x) != len(self.y) or not finite:
            raise ValueError(f"an isotonic map of {len(self.x)} scores and {len(self.y)} values, or not finite")
        if (np.diff(self.x) <= 0).any() or (np.diff(self.y) < 0).any() or self.y[0] < 0 or self.y[-1] > 1:
            raise ValueError("scores of an isotonic map ascend, its values do not descend and lie in [0, 1]")

    @staticmethod
    def fit(scores: F64, labels: F64, weights: F64 | None = None) -> IsotonicMap:
        """The non-decreasing function with the least squared error, by pooling adjacent violators.

        Equal scores become one point with their mean; then, from left to right, a block whose mean lies below that of
        its left neighbour is pooled with it. Runs of one value keep their two ends, so that between two blocks the
        map is a straight line.

        Source: R. E. Barlow et al., "Statistical Inference under Order Restrictions", Wiley 1972, chapter 1; as a
        calibration B. Zadrozny, C. Elkan, KDD 2002.

        Args:
            scores: float64[n]; rows that are not finite are left out.
            labels: float64[n] in [0, 1].
            weights: float64[n], > 0; default 1 each.

        Raises:
            ValueError: no row is left.
        """
        usable = np.isfinite(scores) & np.isfinite(labels)
        if not usable.any():
            raise ValueError("no finite score with a label to calibrate by")
        weights = np.ones(len(scores)) if weights is None else weights
        x, at = np.unique(scores[usable], return_inverse=True)
        weight: F64 = np.bincount(at, weights=weights[usable]).astype(np.float64)
        mean: F64 = np.bincount(at, weights=weights[usable] * labels[usable]) / weight
        y = np.clip(_pooled(mean, weight), 0.0, 1.0)
        ends = np.ones(len(x), dtype=np.bool_)
        ends[1:-1] = (y[1:-1] != y[:-2]) | (y[1:-1] != y[2:])
        return IsotonicMap(x=x[ends], y=y[ends])

    def apply(self, scores: F64) -> F64:
        """The values at scores float64[...]; NaN stays NaN."""
        return np.interp(scores, self.x, self.y)


def _pooled(mean: F64, weight: F64) -> F64:
    """The non-decreasing sequence nearest to `mean`, float64[k]."""
    values: list[float] = []
    weights: list[float] = []
    counts: list[int] = []
    for value, own in zip(mean.tolist(), weight.tolist(), strict=True):
        values.append(value)
        weights.append(own)
        counts.append(1)
        while len(values) > 1 and values[-2] >= values[-1]:
            right, part, count = values.pop(), weights.pop(), counts.pop()
            weights[-1] += part
            values[-1] += (right - values[-1]) * (part / weights[-1])
            counts[-1] += count
    return np.repeat(np.maximum.accumulate(values), counts)


class _MapDocument(msgspec.Struct, frozen=True):
    x: list[float]
    y: list[float]


class _Document(msgspec.Struct, frozen=True, kw_only=True):
    kind: Literal["isotonic"]
    maps: list[_MapDocument]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Calibration:
    """The maps of a classifier.

    Attributes:
        maps: one, of the probability of 1, for a binary model; one per class, in order, for more classes.
    """

    maps: tuple[IsotonicMap, ...]

    @staticmethod
    def fit(scores: F64, labels: F64, weights: F64 | None = None) -> Calibration:
        """Fit on rows whose labels are known.

        Args:
            scores: float64[n], probabilities of 1; or float64[n, K], one per class.
            labels: float64[n]: 0 or 1; or the number of the class.
            weights: float64[n], rows that each stands for; default 1.

        Raises:
            ValueError: no row is usable.
        """
        if scores.ndim == 1:
            return Calibration(maps=(IsotonicMap.fit(scores, labels, weights),))
        return Calibration(
            maps=tuple(
                IsotonicMap.fit(column, (labels == number).astype(np.float64), weights)
                for number, column in enumerate(scores.T)
            )
        )

    def apply(self, scores: F64) -> F64:
        """Calibrated probabilities, of the shape of `scores`: float64[n], or float64[n, K] whose rows sum to 1.

        Classes are calibrated each against the rest and scaled to a sum of 1 (Zadrozny and Elkan, 2002); a row where
        all are 0 is spread evenly.

        Raises:
            ValueError: there is not one map per class.
        """
        if scores.ndim == 1 and len(self.maps) == 1:
            return self.maps[0].apply(scores)
        if scores.ndim != 2 or scores.shape[1] != len(self.maps):
            raise ValueError(f"a calibration of {len(self.maps)} classes for scores of shape {scores.shape}")
        parts = np.column_stack([each.apply(column) for each, column in zip(self.maps, scores.T, strict=True)])
        total = parts.sum(axis=1, keepdims=True)
        even = np.full_like(parts, 1 / len(self.maps))
        return np.where(total == 0, even, parts / np.where(total == 0, 1.0, total))

    def to_document(self) -> dict[str, object]:
        """JSON: `{"kind": "isotonic", "maps": [{"x": [...], "y": [...]}]}`."""
        return {"kind": "isotonic", "maps": [{"x": one.x.tolist(), "y": one.y.tolist()} for one in self.maps]}

    @staticmethod
    def from_document(document: dict[str, object]) -> Calibration:
        """The calibration of a document. Raises: ValueError when it is none."""
        read = msgspec.convert(document, _Document)
        if not read.maps:
            raise ValueError("a calibration without maps")
        maps = tuple(IsotonicMap(x=np.array(one.x, dtype=float), y=np.array(one.y, dtype=float)) for one in read.maps)
        return Calibration(maps=maps)
