"""Rows to a reference: bins and categories, counts, dispersion between panes, calibration where labels are there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import msgspec
import numpy as np

from streamserve.batch import F64, I64
from streamserve.config.drift_settings import LabelSettings, SegmentSettings
from streamserve.drift.bins import count_cells
from streamserve.drift.calibration import Calibration
from streamserve.drift.cells import Cells, category_text, numbers, watched
from streamserve.drift.chunk import U8, SampledColumn, TextColumn
from streamserve.drift.dispersion import Dispersion
from streamserve.drift.reference import FORMAT, Document, Reference, layout
from streamserve.drift.schema import CELLS, MonitoredColumn
from streamserve.drift.segments import ALL, Segments

MOST_PANES, MOST_COUNTS = 20_000, 40_000_000
"""Panes that the dispersion is fitted on, and counts of their cells in all; of more panes the last ones in time."""
ROWS_AT_ONCE = 20_000
MIN_PANES = 30
DERIVED_BY = {"task", "output", "threshold", "classes"}


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineOptions:
    """Whose reference, and how it is made.

    Attributes:
        model, version: whose.
        pane_s: the pane of the monitor, seconds.
        created_ms: now.
        source: where the rows are from, for people.
        provisional: learned from live traffic.
        categorical: number columns that are names of categories.
        importance: column -> share of the model's attention.
        calibration: scores to probabilities.
        performance: metric -> value on these rows.
        segments: rows that are counted on their own as well.
        error_inflation: see `error_inflation`.
        derived_by: the labels by which class and confidence were derived; a pipeline without labels needs them.
    """

    model: str
    version: str
    pane_s: float
    created_ms: int
    source: str
    provisional: bool = False
    categorical: frozenset[str] = frozenset()
    importance: Mapping[str, float] = field(default_factory=dict)
    calibration: Calibration | None = None
    performance: Mapping[str, float] = field(default_factory=dict)
    segments: Sequence[SegmentSettings] = ()
    error_inflation: float = 1.0
    derived_by: LabelSettings | None = None


def build(columns: Mapping[str, SampledColumn], event_time_ms: I64, options: BaselineOptions) -> Reference:
    """Make a reference.

    Args:
        columns: n rows of features and `output.<name>` columns (derived ones too, see `cells.derived`).
        event_time_ms: int64[n], in any order; panes are cut along it.
        options: whose, and how.

    Raises:
        ValueError: there are no rows or no columns.
    """
    n = len(event_time_ms)
    schema = watched(columns)
    if not n or not schema:
        raise ValueError("a reference needs rows and columns, and there are none")
    columns = {name: _as_text(column) if name in options.categorical else column for name, column in columns.items()}
    schema = watched(columns)
    order = np.argsort(event_time_ms, kind="stable")
    pane = event_time_ms[order] // round(options.pane_s * 1000)
    frozen = layout(
        schema,
        {each.name: numbers(columns, each.name) for each in schema if each.kind == "numeric"},
        {each.name: _category_counts(columns, each) for each in schema if each.kind == "categorical"},
        options.importance,
    )
    unordered = _codes(Cells(tuple(frozen)), columns, n)
    counts = _counts(unordered)
    counted = [msgspec.structs.replace(column, counts=row) for column, row in zip(frozen, counts.tolist(), strict=True)]
    segments = Segments(options.segments, counted).of(columns, n)
    codes = unordered[order]
    ordered = np.array([each.kind == "numeric" for each in schema])
    first_ms, last_ms = int(event_time_ms.min()), int(event_time_ms.max())
    seconds = (last_ms - first_ms) / 1000
    return Reference.of(
        Document(
            format=FORMAT,
            model=options.model,
            version=options.version,
            rows=n,
            created_ms=options.created_ms,
            first_ms=first_ms,
            last_ms=last_ms,
            source=options.source,
            provisional=options.provisional,
            columns=counted,
            rows_per_s=n / seconds if seconds > 0 else None,
            dispersion=Dispersion.fit(_pane_counts(codes, pane), ordered).to_document(),
            calibration=options.calibration.to_document() if options.calibration else None,
            performance=dict(options.performance),
            error_inflation=options.error_inflation,
            derived_by={} if options.derived_by is None else options.derived_by.model_dump(include=DERIVED_BY),
            segments={name: _counts(unordered[rows]).tolist() for name, rows in segments if name != ALL},
        )
    )


def error_inflation(errors: F64, event_time_ms: I64, *, pane_s: float, window_s: float) -> float:
    """How much more the errors of a window vary than independent ones would, at least 1: bad days come in runs.

    Detectors on errors assume independence; they are fed means of so many errors instead of single ones.

    Args:
        errors: float64[n], 1 for a wrong prediction.
        event_time_ms: int64[n].
        pane_s: the pane of the monitor, seconds.
        window_s: its longest window, seconds.
    """
    if not len(errors):
        return 1.0
    order = np.argsort(event_time_ms, kind="stable")
    codes = errors[order].astype(np.uint8).reshape(-1, 1)
    panes = _pane_counts(codes, event_time_ms[order] // round(pane_s * 1000))
    fitted = Dispersion.fit(panes, np.zeros(1, dtype=np.bool_)).inflation(window_s / pane_s)
    return max(1.0, float(fitted.factor[0, 1]))


def _as_text(column: SampledColumn) -> SampledColumn:
    if isinstance(column, TextColumn):
        return column
    values: Sequence[object] = column.ravel().tolist()
    return TextColumn.of([None if value != value else category_text(value) for value in values])  # noqa: PLR0124  NaN


def _category_counts(columns: Mapping[str, SampledColumn], column: MonitoredColumn) -> Counter[str]:
    texts = columns[column.name]
    if not isinstance(texts, TextColumn):
        raise TypeError(column.name)
    totals = np.bincount(texts.codes, minlength=len(texts.values)).tolist()
    return Counter({value: total for value, total in zip(texts.values, totals, strict=True) if value is not None})


def _codes(cells: Cells, columns: Mapping[str, SampledColumn], n: int) -> U8:
    """Cells of all rows, uint8[n, F], some rows at a time: the numbers themselves are not kept."""
    parts = []
    for start in range(0, n, ROWS_AT_ONCE):
        part = slice(start, min(start + ROWS_AT_ONCE, n))
        some = {
            name: column.take(part) if isinstance(column, TextColumn) else column[part]
            for name, column in columns.items()
        }
        parts.append(cells.of(some, part.stop - part.start)[0].astype(np.uint8))
    return np.concatenate(parts)


def _counts(codes: U8) -> I64:
    """How often each cell occurs, int64[F, CELLS], some rows at a time."""
    total = np.zeros((codes.shape[1], CELLS), dtype=np.int64)
    for start in range(0, len(codes), ROWS_AT_ONCE):
        total += count_cells(codes[start : start + ROWS_AT_ONCE].astype(np.int64), codes.shape[1], CELLS)
    return total


def _pane_counts(codes: U8, pane: I64) -> I64:
    """Counts per pane in time, int64[G, F, CELLS], empty panes too; of rows that share few panes, blocks of rows."""
    most = min(MOST_PANES, max(MIN_PANES, MOST_COUNTS // (codes.shape[1] * CELLS)))
    first = max(int(pane[0]), int(pane[-1]) - most + 1)
    starts = np.searchsorted(pane, np.arange(first, int(pane[-1]) + 2))
    if np.count_nonzero(np.diff(starts)) < MIN_PANES:
        starts = np.linspace(0, len(codes), MIN_PANES + 1).astype(np.int64)
    return np.array([_counts(codes[a:b]) for a, b in pairwise(starts.tolist())])
