"""Performance of a slice of time, by labels and by expectation, and when it is worse than usual."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from streamserve.drift.expected import estimate
from streamserve.drift.incidents import Signal
from streamserve.drift.intervals import wilson
from streamserve.drift.metrics import metrics
from streamserve.drift.performance import Performance
from streamserve.drift.reference import Reference
from streamserve.drift.task import Task


@dataclass(slots=True)
class Tally:
    """Performance of one slot: what labels say, what was expected of those rows, and of all rows."""

    realised: Performance
    expected_of_labelled: Performance
    expected: Performance

    @classmethod
    def empty(cls, task: Task) -> Tally:
        """No rows."""
        return cls(Performance.empty(task), Performance.empty(task), Performance.empty(task))

    def add(self, other: Tally) -> None:
        """Take in other rows."""
        self.realised.add(other.realised)
        self.expected_of_labelled.add(other.expected_of_labelled)
        self.expected.add(other.expected)

    def copy(self) -> Tally:
        """The same, to be added to on its own."""
        return Tally(self.realised.copy(), self.expected_of_labelled.copy(), self.expected.copy())

    @property
    def estimated(self) -> Performance:
        """The best estimate for all rows."""
        return estimate(self.expected, self.expected_of_labelled, self.realised)


def lasting_signals(reference: Reference, tallies: Sequence[tuple[float, Tally | None]], floor: float) -> list[Signal]:
    """Windows whose accuracy surely lies under the reference's: they keep an incident open, and open none.

    Detectors get used to what lasts. The interval is Wilson's with 95 % confidence, of as many rows as are about
    independent; since it can only keep what the detectors opened, it takes nothing of the budget.

    Args:
        reference: gives the usual accuracy.
        tallies: window in seconds, and performance in it.
        floor: a smaller difference does not matter.
    """
    usual = reference.document.performance.get("accuracy")
    if usual is None:
        return []
    found = []
    for window_s, tally in tallies:
        accuracy = metrics(tally.realised).get("accuracy") if tally is not None else None
        if accuracy is None:
            continue
        _, high = wilson(accuracy.value, max(accuracy.n / reference.document.error_inflation, 1.0))
        if high < usual - floor:
            detail = f"accuracy {accuracy.value:.1%}, {usual:.1%} on the reference"
            found.append(
                Signal(
                    source="labels",
                    subject="errors",
                    severity=(1 - accuracy.value) / max(1 - usual, 1e-6),
                    hold_s=window_s,
                    opens=False,
                    window_s=window_s,
                    detail=detail,
                )
            )
    return found
