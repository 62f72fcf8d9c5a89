"""Which columns are watched, and how a distribution over them is laid out.

A watched column is a feature (or one element of a vector feature, or the length of a sequence), an output of the model
(`output.probability`, `output.probability[2]`), or derived from one (`output.class`, `output.confidence`). Every
column of a reference has one row of `CELLS` cells:

    0 ... BINS-1   bins of a number, ascending, the outer ones open; or the most frequent categories
    OTHER          a category of the reference beyond the most frequent ones
    UNSEEN         a category that the reference does not hold; a number that is not finite
    MISSING        no value
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

BINS: Final = 32
OTHER: Final = BINS
UNSEEN: Final = BINS + 1
MISSING: Final = BINS + 2
CELLS: Final = BINS + 3

OUTPUT_PREFIX: Final = "output."

Kind = Literal["numeric", "categorical"]
Origin = Literal["feature", "output"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitoredColumn:
    """One watched column."""

    name: str
    kind: Kind
    origin: Origin


def element(name: str, index: int) -> str:
    """Name of one element of a vector column."""
    return f"{name}[{index}]"


def length_of(name: str) -> str:
    """Name of the column with a sequence's length."""
    return f"{name}.length"
