"""The reference: what the columns looked like when all was well, frozen.

It is built once from rows (a file, a topic, or the first minutes of traffic: *provisional*), stored as
`reference.json` beside the model version, and read by the sidecar. Counts, bin edges and categories never change
after that; the hash says which reference a report was made with.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Final

import msgspec
import numpy as np
import orjson

from streamserve.batch import F64, I64, Bools
from streamserve.drift.bins import all_known, categories_of, centers_of, edges_of
from streamserve.drift.calibration import Calibration
from streamserve.drift.dispersion import Dispersion
from streamserve.drift.schema import BINS, CELLS, MonitoredColumn
from streamserve.errors import ModelCorrupt

FILE: Final = "reference.json"
FORMAT: Final = 1
MOST_ROWS: Final = 2**53
"""Counts are added up in float64, which is exact up to here."""


class ColumnReference(msgspec.Struct, frozen=True, kw_only=True):
    """One column of a reference.

    Attributes:
        name, kind, origin: which column.
        edges: inner bin edges of a number.
        centers: mean of the reference's values per bin, [BINS].
        categories: the most frequent categories, one cell each.
        known: further categories of the reference; they count as OTHER.
        known_all: whether these two are all categories there were.
        counts: rows per cell, [CELLS].
        mean, std, low, high: of the finite values of a number.
        importance: share of the model's attention, where it is known.
    """

    name: str
    kind: str
    origin: str
    counts: list[int]
    edges: list[float] = []
    centers: list[float] = []
    categories: list[str] = []
    known: list[str] = []
    known_all: bool = True
    mean: float = 0.0
    std: float = 0.0
    low: float = 0.0
    high: float = 0.0
    importance: float | None = None


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `reference.json`."""

    format: int
    model: str
    version: str
    rows: int
    created_ms: int
    first_ms: int
    last_ms: int
    source: str
    provisional: bool
    columns: list[ColumnReference]
    rows_per_s: float | None = None
    dispersion: dict[str, object] | None = None
    calibration: dict[str, object] | None = None
    performance: dict[str, float] = {}
    segments: dict[str, list[list[int]]] = {}
    error_inflation: float = 1.0
    derived_by: dict[str, str | float | list[str] | None] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentSample:
    """The rows of a reference that belong to one segment; a `scores.ReferenceSample`."""

    counts: I64
    centers: F64
    std: F64
    ordered: Bools
    dispersion: Dispersion


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A frozen baseline of F columns, as arrays.

    Attributes:
        document: what the file says.
        dispersion: how much more the panes differ than independent rows would.
        calibration: scores to probabilities, when labels were there.
    """

    document: Document
    dispersion: Dispersion
    calibration: Calibration | None

    @property
    def model(self) -> str:
        """The model's name."""
        return self.document.model

    @property
    def version(self) -> str:
        """The model's version."""
        return self.document.version

    @property
    def rows(self) -> int:
        """How many rows it was made of."""
        return self.document.rows

    @property
    def provisional(self) -> bool:
        """Whether it was learned from live traffic."""
        return self.document.provisional

    @cached_property
    def hash(self) -> str:
        """Short digest of the whole document."""
        return hashlib.sha256(self.to_json()).hexdigest()[:16]

    @cached_property
    def columns(self) -> tuple[ColumnReference, ...]:
        """All columns, in the order of every array here."""
        return tuple(self.document.columns)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(column.name for column in self.columns)

    @cached_property
    def counts(self) -> I64:
        """int64[F, CELLS]."""
        return np.array([column.counts for column in self.columns], dtype=np.int64).reshape(-1, CELLS)

    @cached_property
    def centers(self) -> F64:
        """float64[F, BINS]: mean of the reference's values in each bin; zeros for categories."""
        return np.array([column.centers or [0.0] * BINS for column in self.columns]).reshape(-1, BINS)

    @cached_property
    def std(self) -> F64:
        """float64[F]: standard deviation of a number; 1 where it is zero, and for categories."""
        return np.array([column.std if column.std > 0 else 1.0 for column in self.columns])

    @cached_property
    def ordered(self) -> Bools:
        """bool[F]: whether the bins have an order (numbers)."""
        return np.array([column.kind == "numeric" for column in self.columns], dtype=np.bool_)

    @cached_property
    def importance(self) -> F64 | None:
        """float64[F], or None when no column has one."""
        if all(column.importance is None for column in self.columns):
            return None
        return np.array([column.importance or 0.0 for column in self.columns])

    def segment(self, name: str) -> SegmentSample | None:
        """Its rows of one segment; None when it was made without that segment."""
        counts = self.document.segments.get(name)
        if counts is None:
            return None
        return SegmentSample(
            counts=np.array(counts, dtype=np.int64),
            centers=self.centers,
            std=self.std,
            ordered=self.ordered,
            dispersion=self.dispersion,
        )

    def to_json(self) -> bytes:
        """The file's content."""
        return orjson.dumps(msgspec.to_builtins(self.document), option=orjson.OPT_APPEND_NEWLINE)

    @staticmethod
    def from_json(data: bytes, where: str) -> Reference:
        """Read the file's content. Raises: ModelCorrupt, saying what and where."""
        try:
            return Reference.of(msgspec.json.decode(data, type=Document))
        except (msgspec.DecodeError, ValueError, KeyError, TypeError) as error:
            raise ModelCorrupt(f"{where} is no drift reference: {error}; make it anew with drift baseline") from error

    @staticmethod
    def of(document: Document) -> Reference:
        """Check a document and make its arrays. Raises: ValueError."""
        if document.format != FORMAT:
            raise ValueError(f"format {document.format}; this release reads {FORMAT}")
        if not document.columns or document.rows < 1:
            raise ValueError("it has no columns or no rows")
        for column in document.columns:
            _check(column)
        twice = [name for name, times in Counter(column.name for column in document.columns).items() if times > 1]
        if twice:
            raise ValueError(f"column {twice[0]} stands there twice")
        columns = len(document.columns)
        spread = document.dispersion
        dispersion = Dispersion.from_document(spread) if spread else Dispersion.unknown(columns, CELLS)
        _check_dispersion(dispersion, columns)
        for name, counts in document.segments.items():
            if len(counts) != columns or any(len(row) != CELLS for row in counts):
                raise ValueError(f"segment {name} is of other columns")
        calibration = Calibration.from_document(document.calibration) if document.calibration else None
        return Reference(document=document, dispersion=dispersion, calibration=calibration)


def _check(column: ColumnReference) -> None:
    fits = len(column.counts) == CELLS and min(column.counts) >= 0 and max(column.counts) <= MOST_ROWS
    fits = fits and column.std >= 0 and (column.importance is None or column.importance >= 0)
    if column.kind == "numeric":
        edges = column.edges
        fits = fits and len(edges) < BINS and len(column.centers) == BINS
        fits = fits and all(a < b for a, b in pairwise(edges)) and all(map(math.isfinite, edges))
    elif column.kind == "categorical":
        names = [*column.categories, *column.known]
        fits = fits and len(column.categories) <= BINS and len(set(names)) == len(names)
    else:
        fits = False
    if not fits:
        raise ValueError(f"column {column.name} does not fit itself")


def _check_dispersion(dispersion: Dispersion, columns: int) -> None:
    scales = len(dispersion.peak)
    fits = dispersion.spread.shape == (columns, CELLS) and dispersion.curve.shape == (scales + 1, columns, CELLS)
    fits = fits and scales > 0 and dispersion.peak.shape == dispersion.peak_next.shape == (scales, columns)
    if not fits:
        raise ValueError("the dispersion is of other columns")


def number_column(
    column: MonitoredColumn, values: F64, counts: Sequence[int], edges: F64, importance: float | None
) -> ColumnReference:
    """The frozen form of a number column from its values (NaN and infinite ones left out of the moments)."""
    finite = np.sort(values[np.isfinite(values)])  # sums in one order, whatever the order of the rows
    some = len(finite) > 0
    return ColumnReference(
        name=column.name,
        kind="numeric",
        origin=column.origin,
        counts=list(counts),
        edges=edges.tolist(),
        centers=centers_of(finite, edges).tolist(),
        mean=float(finite.mean()) if some else 0.0,
        std=float(finite.std()) if some else 0.0,
        low=float(finite.min()) if some else 0.0,
        high=float(finite.max()) if some else 0.0,
        importance=importance,
    )


def layout(
    columns: Sequence[MonitoredColumn],
    numbers: Mapping[str, F64],
    texts: Mapping[str, Counter[str]],
    importance: Mapping[str, float],
) -> list[ColumnReference]:
    """Bins and categories of every column; counts stay zero until the rows are put into the cells."""
    found = []
    for column in columns:
        weight = importance.get(column.name)
        if column.kind == "numeric":
            values = numbers[column.name]
            edges = edges_of(values[np.isfinite(values)])
            found.append(number_column(column, values, [0] * CELLS, edges, weight))
        else:
            categories, known = categories_of(texts[column.name])
            found.append(
                ColumnReference(
                    name=column.name,
                    kind="categorical",
                    origin=column.origin,
                    counts=[0] * CELLS,
                    categories=list(categories),
                    known=list(known),
                    known_all=all_known(texts[column.name]),
                    importance=weight,
                )
            )
    return found
