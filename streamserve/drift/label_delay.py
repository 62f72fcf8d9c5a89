"""How late labels come, and how many predictions get one.

Predictions are counted in cohorts of those that arrived at about the same time, each with histograms of its labels'
delays; a cohort is forgotten when none of its predictions waits any more. Coverage is that of the cohorts old enough
to have got what they will get, so that a rising load or a slow labeller does not look like missing labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np

from streamserve.batch import F64, I64
from streamserve.drift.packed import Packed, integers, pack

EDGES: F64 = 2.0 ** (np.arange(64) / 2)
"""Milliseconds, from 1 to 35 days, two per doubling."""
COHORTS = 128
_TYPICAL = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelFigures:
    """Labels of one pipeline now.

    Attributes:
        delay_p50_ms: median of label time minus event time, to a quarter; None before the first.
        delay_p90_ms: nine of ten come sooner.
        coverage: share of the predictions old enough that have a label; None while none is old enough.
        old_enough: how many predictions that is.
        waiting: predictions that wait for their label.
        held: labels that are held for their prediction, or to know a second one.
    """

    delay_p50_ms: float | None
    delay_p90_ms: float | None
    coverage: float | None
    old_enough: int
    waiting: int
    held: int


class _Document(msgspec.Struct, frozen=True):
    cohorts: list[int]
    table: Packed


class LabelDelay:
    """Cohorts of predictions.

    Args:
        wait_ms: how long a prediction waits.
    """

    def __init__(self, wait_ms: int) -> None:
        self._length = max(1000, wait_ms // COHORTS)
        self._wait_ms = wait_ms
        self._cohorts: dict[int, I64] = {}  # predictions, labelled; then the histograms: delay, time waited

    def predicted(self, arrived_ms: int, count: int) -> None:
        """So many predictions arrived."""
        self._cohort(arrived_ms // self._length)[0] += count

    def joined(self, arrived_ms: I64, delay_ms: I64, waited_ms: I64) -> None:
        """Labels were found: when their predictions arrived, label minus event time, time between both arrivals."""
        numbers = arrived_ms // self._length
        for number in np.unique(numbers).tolist():
            mine, cohort = numbers == number, self._cohort(number)
            cohort[1] += np.count_nonzero(mine)
            cohort[2 : 2 + len(EDGES)] += _histogram(delay_ms[mine])
            cohort[2 + len(EDGES) :] += _histogram(waited_ms[mine])

    def expire(self, now_ms: int) -> None:
        """Forget cohorts of which nothing waits."""
        last = (now_ms - self._wait_ms) // self._length - 1
        for number in [number for number in self._cohorts if number < last]:
            del self._cohorts[number]

    def figures(self, now_ms: int, *, waiting: int, held: int) -> LabelFigures:
        """The figures now."""
        whole = sum(self._cohorts.values(), self._empty())
        delays, waits = whole[2 : 2 + len(EDGES)], whole[2 + len(EDGES) :]
        typical = _quantile(waits, _TYPICAL)
        aged = (now_ms - (typical or 0.0)) // self._length - 1
        old = [cohort for number, cohort in self._cohorts.items() if typical is not None and number <= aged]
        predictions = int(sum(int(cohort[0]) for cohort in old))
        labelled = int(sum(int(cohort[1]) for cohort in old))
        return LabelFigures(
            delay_p50_ms=_quantile(delays, 0.5),
            delay_p90_ms=_quantile(delays, _TYPICAL),
            coverage=labelled / predictions if predictions else None,
            old_enough=predictions,
            waiting=waiting,
            held=held,
        )

    def _cohort(self, number: int) -> I64:
        return self._cohorts.setdefault(number, self._empty())

    @staticmethod
    def _empty() -> I64:
        return np.zeros(2 + 2 * len(EDGES), dtype=np.int64)

    def to_document(self) -> dict[str, object]:
        """JSON."""
        table = np.array(list(self._cohorts.values()), dtype=np.int64).reshape(-1, len(self._empty()))
        document: dict[str, object] = msgspec.to_builtins(_Document(list(self._cohorts), pack(table)))
        return document

    @staticmethod
    def from_document(document: object, wait_ms: int) -> LabelDelay:
        """The cohorts of a document. Raises: ValueError."""
        read = msgspec.convert(document, _Document)
        table = integers(read.table)
        if table.shape != (len(read.cohorts), 2 + 2 * len(EDGES)):
            raise ValueError("cohorts and their counts do not fit")
        delay = LabelDelay(wait_ms)
        delay._cohorts = {number: row.copy() for number, row in zip(read.cohorts, table, strict=True)}
        return delay


def _histogram(times_ms: I64) -> I64:
    """int64[64]: how many up to each edge and above the one before; negative ones in the first, the longest last."""
    cells = np.minimum(np.searchsorted(EDGES, times_ms), len(EDGES) - 1)
    return np.bincount(cells, minlength=len(EDGES)).astype(np.int64)


def _quantile(histogram: I64, share: float) -> float | None:
    """The middle of the cell that a quantile lies in, milliseconds."""
    total = int(histogram.sum())
    if not total:
        return None
    cell = int(np.searchsorted(np.cumsum(histogram), share * total))
    return float(EDGES[cell] * 2**-0.25) if cell else 1.0
