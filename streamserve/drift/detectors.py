"""Detectors of concept drift: they read one error after the other, in event order, and say when errors grew.

Two, both without a model of the errors and both bounded in memory: `Adwin` compares the old and the new part of a
window that it sizes itself (any number, both directions, memory logarithmic in the window), `HddmA` compares the mean
of everything with that of the best beginning (numbers in [0, 1], by default only growth, a few numbers of memory).
How sure they must be is not chosen by feeling: `confidence_for` turns a budget of false alarms into it.

They refuse values that are not finite, know no time, and go on exactly where `to_document` left off.
"""

from __future__ import annotations

from typing import Final, Literal, Protocol

from streamserve.batch import F64
from streamserve.drift.adwin import ADWIN_CLOCK, ADWIN_CONFIDENCE, Adwin
from streamserve.drift.hddm import HDDM_CONFIDENCE, HddmA

LEAST_CONFIDENCE: Final = 1e-12
"""Below it nothing is gained: the delay grows with ln(1 / confidence), a 1e-12 alarm is one in an age."""


class Detector(Protocol):
    """What reads errors and tells drift."""

    def update(self, value: float) -> bool:
        """Read one value. Returns: whether drift is detected at it. Raises: ValueError when it is not finite."""
        ...

    def extend(self, values: F64) -> list[int]:
        """Read values in order; the same as `update` on each.

        Args:
            values: float64[n].

        Returns:
            Indices into `values` at which drift was detected, ascending.

        Raises:
            ValueError: a value is not finite; none was read.
        """
        ...

    def reset(self) -> None:
        """Forget all values, as at the start."""
        ...

    def to_document(self) -> dict[str, object]:
        """JSON from which `detector_from_document` makes a detector that goes on bit by bit the same."""
        ...


def detector_from_document(document: dict[str, object]) -> Detector:
    """The detector that wrote a document. Raises: ValueError when no detector of this release wrote it."""
    match document.get("kind"):
        case "adwin":
            return Adwin.from_document(document)
        case "hddm_a":
            return HddmA.from_document(document)
        case kind:
            raise ValueError(f"no detector is named {kind!r}; there are adwin and hddm_a")


def confidence_for(
    budget_per_week: float, labels_per_week: float, *, detector: Literal["adwin", "hddm_a"], clock: int = ADWIN_CLOCK
) -> float:
    """The confidence at which a detector on a stationary stream stays within a budget of false alarms.

    Both procedures are built so that the chance of an alarm at one look is at most their confidence; ADWIN looks once
    in `clock` labels, HDDM-A at each. The union bound over the looks of a week makes it `budget / looks`. It assumes
    nothing about how looks depend on each other, and the inequalities underneath (Bernstein's, Hoeffding's) hold for
    every distribution of independent errors, so that the true rate lies well below. Measured on independent errors of
    rate 0.01, 0.1 and 0.5, 4 million (ADWIN) and 40 million (HDDM-A) of each: at most 1/160 of the bound for ADWIN
    (confidence 0.002 to 0.3, a look each 8) and 1/55 for HDDM-A (0.0001 to 0.1). That margin is left for what the
    inequalities do not cover, errors that come in bursts. It is cheap, because the delay grows with ln(1 / confidence)
    only: from a rate of 0.1 to one of 0.3, ADWIN takes 105, 177, 282 and 458 labels at 0.002, 1e-5, 1e-8 and 1e-12,
    means over 300 streams, and HDDM-A 118, 174, 271 and 429, at 0.001 and the same.

    Several detectors share one budget by giving each its part of it.

    Args:
        budget_per_week: expected false alarms a week, > 0.
        labels_per_week: labels joined a week, >= 0.
        detector: which one it is for.
        clock: labels per look of ADWIN.

    Returns:
        The confidence, from 1e-12 to the one of the literature (0.002 for ADWIN, 0.001 for HDDM-A), since a larger
        one detects hardly sooner.

    Raises:
        ValueError: an argument is out of its range.
    """
    if not budget_per_week > 0 or not labels_per_week >= 0 or clock < 1:
        raise ValueError(f"a budget of {budget_per_week} alarms in {labels_per_week} labels, a look each {clock}")
    highest = ADWIN_CONFIDENCE if detector == "adwin" else HDDM_CONFIDENCE
    looks = labels_per_week / clock if detector == "adwin" else labels_per_week
    return min(highest, max(LEAST_CONFIDENCE, budget_per_week / max(looks, 1.0)))
