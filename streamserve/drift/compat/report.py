"""What a peer says of two tables: one `Score` a column and measure, and the `PeerReport` they make.

Owns the values only; the numbers come from the module of each peer.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, Protocol

from streamserve.drift.schema import Kind
from streamserve.drift.tables import CategoricalColumn, NumericColumn

Measure = Literal[
    "psi",
    "jensen_shannon",
    "hellinger",
    "wasserstein",
    "kolmogorov_smirnov",
    "chi_square",
    "l_infinity",
    "z",
]


class Peer(StrEnum):
    """A tool whose definitions can be recomputed."""

    EVIDENTLY = "evidently"
    NANNYML = "nannyml"
    FROUROS = "frouros"
    HOPSWORKS = "hopsworks"


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One measure of one column.

    Attributes:
        value: what the peer prints, in the unit of `meaning`; None where the peer gives none, `note` says why.
        statistic, p_value: of a test; the one that is not `value` is for information.
        threshold: the peer's default, or the one that it derives from the reference; None where it has none.
        drifted: the peer's decision; None where it makes none.
        default: the peer picks this measure for this column when it is told nothing.
    """

    column: str
    kind: Kind
    measure: Measure
    meaning: str
    value: float | None
    statistic: float | None = None
    p_value: float | None = None
    threshold: float | None = None
    drifted: bool | None = None
    default: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerReport:
    """All scores of two tables under one peer.

    Attributes:
        version: release of the peer whose definitions these are.
        verdict: what the peer says of the data as a whole; empty where it says nothing.
        left_out: columns that only one table has, or that are neither numbers nor categories.
    """

    peer: Peer
    version: str
    reference: str
    current: str
    reference_rows: int
    current_rows: int
    scores: tuple[Score, ...]
    verdict: str = ""
    left_out: tuple[str, ...] = ()


class Definitions(Protocol):
    """One peer's definitions: the port that each module of this package fills."""

    @property
    def version(self) -> str:
        """Release of the peer."""

    def numeric(self, reference: NumericColumn, current: NumericColumn) -> list[Score]:
        """Every measure of a column of numbers."""

    def categorical(self, reference: CategoricalColumn, current: CategoricalColumn) -> list[Score]:
        """Every measure of a column of categories."""

    def verdict(self, scores: list[Score]) -> str:
        """What the peer says of all columns together."""
