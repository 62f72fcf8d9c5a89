"""What `drift baseline` says of the reference it made: as lines, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from streamserve.cli.console import show
from streamserve.cli.record_text import printable, stamp

if TYPE_CHECKING:
    from streamserve.cli.drift_baseline import Gathering
    from streamserve.cli.drift_labels import Judged
    from streamserve.drift.reference import Reference


def summary(reference: Reference, gathering: Gathering, judged: Judged | None, path: Path | None) -> None:
    """A few lines on stdout."""
    for label, text in _lines(reference, gathering, judged, path):
        show(f"{label:<12} {printable(text)}".rstrip())


def _lines(
    reference: Reference, gathering: Gathering, judged: Judged | None, path: Path | None
) -> Iterator[tuple[str, str]]:
    outputs = sum(column.origin == "output" for column in reference.columns)
    yield "reference", f"{reference.model} version {reference.version}, hash {reference.hash}"
    yield "rows", f"{reference.rows:,} from {gathering.source}"
    if gathering.timed:
        yield "event time", f"{stamp(reference.document.first_ms)} to {stamp(reference.document.last_ms)}"
    yield "columns", f"{len(reference.columns)}: {len(reference.columns) - outputs} features, {outputs} outputs"
    if gathering.rejects:
        total = sum(gathering.rejects.values())
        parts = sorted(gathering.rejects.items(), key=lambda item: -item[1])[:5]
        kinds = ", ".join(f"{reason} {feature}".strip() + f" {count:,}" for (_, reason, feature), count in parts)
        yield "left out", f"{total:,} rows that a worker rejects: {kinds}"
    yield "dispersion", dispersion_text(reference)
    if judged is not None:
        metrics = ", ".join(f"{name} {value:.4g}" for name, value in judged.performance.items())
        yield "labels", f"{judged.rows:,}: {metrics}" if metrics else "none"
    if judged is not None and judged.calibration is not None:
        yield "calibration", f"isotonic, {sum(len(one.x) for one in judged.calibration.maps)} knots"
    yield ("written", f"{path} ({path.stat().st_size:,} bytes)") if path is not None else ("written", "nothing")


def dispersion_text(reference: Reference) -> str:
    """How much more the panes vary than independent rows would."""
    spread = reference.dispersion
    if spread.panes <= 0:
        return "unknown"
    peak = spread.inflation(1).peak
    most = int(np.argmax(peak))
    return (
        f"over {spread.panes:,} panes of {spread.rows_per_pane:,.0f} rows: a row is worth 1/{np.median(peak):.3g} of an"
        f" independent one (median), 1/{peak[most]:.3g} in {reference.names[most]}"
    )


def document(
    reference: Reference, gathering: Gathering, judged: Judged | None, warnings: list[str], path: Path | None
) -> dict[str, object]:
    """The same as JSON."""
    spread = reference.dispersion
    peak = spread.inflation(1).peak if spread.panes > 0 else None
    return {
        "model": reference.model,
        "version": reference.version,
        "hash": reference.hash,
        "rows": reference.rows,
        "rows_in_range": gathering.seen,
        "source": gathering.source,
        "first_ms": reference.document.first_ms if gathering.timed else None,
        "last_ms": reference.document.last_ms if gathering.timed else None,
        "columns": [
            {
                "name": column.name,
                "kind": column.kind,
                "origin": column.origin,
                "importance": column.importance,
                "inflation": None if peak is None else float(f"{peak[i]:.4g}"),
            }
            for i, column in enumerate(reference.columns)
        ],
        "rejects": [
            {"stage": stage, "reason": reason, "feature": feature, "count": count}
            for (stage, reason, feature), count in sorted(gathering.rejects.items())
        ],
        "dispersion": {"panes": spread.panes, "rows_per_pane": spread.rows_per_pane},
        "labels": None if judged is None else judged.rows,
        "performance": {} if judged is None else judged.performance,
        "calibrated": judged is not None and judged.calibration is not None,
        "warnings": warnings,
        "path": None if path is None else str(path),
    }
