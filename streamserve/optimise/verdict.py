"""Is the new version near enough to the old one, and is it worth having?"""

from __future__ import annotations

from dataclasses import dataclass

from streamserve.optimise.measure import Measured
from streamserve.recorded.compare import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """What a new version may differ by.

    Attributes:
        difference: largest absolute difference of an output.
        kind: of all elements, on average, or of all but the worst hundredth.
        agreement: smallest share of rows that must decide alike, where an output decides.
        faster, smaller: whether it must be.
    """

    difference: float
    kind: Kind = "max"
    agreement: float = 0.0
    faster: bool = False
    smaller: bool = False


def problems(measured: Measured, tolerance: Tolerance) -> list[str]:
    """Why the version is refused, in sentences; none when it is not."""
    found = []
    comparison = measured.comparison
    if comparison.lost:
        found.append(f"{comparison.lost} of {comparison.lost + comparison.rows} rows have outputs that are no numbers")
    difference = comparison.difference(tolerance.kind)
    if not difference <= tolerance.difference:
        found.append(
            f"its outputs differ by {difference:.4g} ({tolerance.kind} over {comparison.rows:,} rows), over the"
            f" tolerance of {tolerance.difference:g}"
        )
    alike = comparison.agreement
    if alike is not None and alike < tolerance.agreement:
        found.append(f"{alike:.2%} of the rows decide alike, less than {tolerance.agreement:.2%}")
    if tolerance.smaller and not measured.smaller:
        found.append(larger(measured))
    if tolerance.faster and not measured.faster:
        found.append(slower(measured))
    return found


def warnings(measured: Measured, tolerance: Tolerance) -> list[str]:
    """What speaks against a version that is not refused."""
    found = []
    if not measured.smaller and not tolerance.smaller:
        found.append(larger(measured))
    if not measured.faster and not tolerance.faster:
        found.append(slower(measured))
    return found


def larger(measured: Measured) -> str:
    """How much it grew."""
    return f"it is no smaller: {measured.after.bytes:,} bytes, {measured.before.bytes:,} before"


def slower(measured: Measured) -> str:
    """How much slower it became."""
    size = max(measured.latency_after_s)
    ratio = measured.latency_after_s[size] / measured.latency_before_s[size]
    return f"it is no faster: a batch of {size} takes {ratio:.2f} times as long as before"
