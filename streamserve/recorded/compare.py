"""Two models' outputs for the same rows, held side by side: how far apart the numbers are, how often decisions agree.

Pure. A row in which a side has no value (None, or a number that is not finite) is left out of that output's figures and
counted; one that only the second model has no value for counts as the largest difference there is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from streamserve.batch import F64, Bools, Tensor
from streamserve.errors import ContractError

Kind = Literal["max", "mean", "p99"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputComparison:
    """One output of both models.

    Attributes:
        name: the output.
        rows: rows compared.
        missing: rows left out because the first model has no value there.
        lost: rows left out because only the second model has none.
        max, mean, p50, p99: of the absolute difference over all elements; 0 for an output that holds no numbers.
        relative: the mean absolute difference over the mean absolute value of the first model's; 0 when both are 0.
        agreement: share of rows that decide alike: equal booleans or texts, the same largest element of a vector, the
            same side of the threshold. None for a number without a threshold.
    """

    name: str
    rows: int
    missing: int
    lost: int = 0
    max: float = 0.0
    mean: float = 0.0
    p50: float = 0.0
    p99: float = 0.0
    relative: float = 0.0
    agreement: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All outputs that both models have."""

    outputs: tuple[OutputComparison, ...]

    @property
    def agreement(self) -> float | None:
        """The smallest share of rows that decide alike; None when no output decides."""
        return min((output.agreement for output in self.outputs if output.agreement is not None), default=None)

    def difference(self, kind: Kind) -> float:
        """The largest of the outputs' differences of that kind; infinite when values were lost, or none compared."""
        if self.lost or not any(output.rows for output in self.outputs):
            return float("inf")
        return max(float(getattr(output, kind)) for output in self.outputs)

    @property
    def rows(self) -> int:
        """Fewest rows compared of an output."""
        return min(output.rows for output in self.outputs)

    @property
    def lost(self) -> int:
        """Most rows of an output that only the second model has no value for."""
        return max(output.lost for output in self.outputs)

    def document(self) -> list[dict[str, object]]:
        """The figures as plain values."""
        return [asdict(output) for output in self.outputs]

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows for people."""
        header = ["output", "rows", "missing", "lost", "max", "mean", "p50", "p99", "relative", "decide alike"]
        return header, [_cells(output) for output in self.outputs]


def compare(
    a: Mapping[str, Tensor], b: Mapping[str, Tensor], thresholds: Mapping[str, float] | None = None
) -> Comparison:
    """Hold the outputs of `b` against those of `a`.

    Args:
        a: the first model's outputs, name -> array[n, ...].
        b: the second model's, of the same n rows in the same order. Only names that both have are compared; there must
            be one.
        thresholds: output -> value from which on it means yes.

    Raises:
        ContractError: no output in common, or one has another shape.
    """
    names = [name for name in a if name in b]
    if not names:
        raise ContractError(f"no output in common: {', '.join(a) or 'none'} and {', '.join(b) or 'none'}")
    return Comparison(outputs=tuple(_compared(name, a[name], b[name], (thresholds or {}).get(name)) for name in names))


def _compared(name: str, a: Tensor, b: Tensor, threshold: float | None) -> OutputComparison:
    if a.size != b.size or len(a) != len(b):
        raise ContractError(f"output {name} has the shape {list(a.shape)} on one side, {list(b.shape)} on the other")
    n = len(a)
    a, b = a.reshape(n, a.size // max(1, n)), b.reshape(n, a.size // max(1, n))
    texts = a.dtype.kind in "OUS" or b.dtype.kind in "OUS"
    there, kept = (_present(a), _present(b)) if texts else (_finite(a), _finite(b))
    held = there & kept
    rows, missing, lost = int(held.sum()), int(n - there.sum()), int((there & ~kept).sum())
    if texts:
        same = (a[held].astype(str) == b[held].astype(str)).all(axis=1)
        return OutputComparison(name=name, rows=rows, missing=missing, lost=lost, agreement=_share(same))
    x, y = a[held].astype(np.float64), b[held].astype(np.float64)
    agreement = _agreement(x, y, threshold, decides=a.dtype == np.bool_)
    if not x.size:
        return OutputComparison(name=name, rows=rows, missing=missing, lost=lost, agreement=agreement)
    distance = np.abs(x - y)
    mean, scale = float(distance.mean()), float(np.abs(x).mean())
    return OutputComparison(
        name=name,
        rows=rows,
        missing=missing,
        lost=lost,
        max=float(distance.max()),
        mean=mean,
        p50=float(np.quantile(distance, 0.5)),
        p99=float(np.quantile(distance, 0.99)),
        relative=mean / scale if scale else float(mean > 0),
        agreement=agreement,
    )


def _agreement(x: F64, y: F64, threshold: float | None, *, decides: bool) -> float | None:
    """x, y: float64[m, k]."""
    if decides:
        return _share((x == y).all(axis=1))
    if threshold is not None:
        return _share(((x >= threshold) == (y >= threshold)).all(axis=1))
    if x.shape[1] > 1:
        return _share(x.argmax(axis=1) == y.argmax(axis=1))
    return None


def _finite(values: Tensor) -> Bools:
    finite: Bools = np.isfinite(values.astype(np.float64))
    return np.asarray(finite.all(axis=1))


def _present(values: Tensor) -> Bools:
    found: Bools = np.array([all(value is not None for value in row) for row in values.tolist()], dtype=np.bool_)
    return found


def _share(same: Bools) -> float:
    return float(same.mean()) if len(same) else 0.0


def _cells(output: OutputComparison) -> list[str]:
    figures = (output.max, output.mean, output.p50, output.p99, output.relative)
    alike = "" if output.agreement is None else f"{output.agreement:.2%}"
    return [
        output.name,
        f"{output.rows:,}",
        f"{output.missing:,}",
        f"{output.lost:,}",
        *(f"{figure:.3g}" for figure in figures),
        alike,
    ]
