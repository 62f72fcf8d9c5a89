"""The metric reference, written from the declarations: `docs/metrics.md` is this text and nothing else."""

from __future__ import annotations

from streamserve.telemetry.declare import BASE_LABELS, Declaration, declarations
from streamserve.telemetry.metrics import WorkerMetrics

TARGET = "docs/metrics.md"
"""Where the text belongs, relative to the repository's root."""

_INTRODUCTION = """# Metrics

<!-- Generated from streamserve/telemetry/metrics.py and streamserve/sidecar/metrics.py; changes are made there. -->

A worker slot serves these at `/metrics` in the Prometheus text format or, when asked for it, OpenMetrics.
Names and labels are a contract: new ones may come, these stay. Units are base units. Every series carries the
labels {base}; no label ever holds a key, an id or a message, so the number of series
does not grow with traffic.
A gauge whose value is not known yet is absent.

Law: `streamserve_records_consumed_total` = `streamserve_predictions_total` +
the sum of `streamserve_records_rejected_total`.
"""


_SIDECAR = """## The drift sidecar

`streamserve sidecar` serves these at `/metrics` of its own port. Every series carries the label `pipeline`. Columns
have series of their own as far as they are among the 200 of their version that rank highest.
"""


def render(sidecar: type) -> str:
    """The reference as Markdown, ending in a newline.

    Args:
        sidecar: the class that declares the sidecar's metrics.
    """
    specs = [declared.spec for declared in declarations(WorkerMetrics)]
    parts = [_INTRODUCTION.format(base=", ".join(f"`{label}`" for label in BASE_LABELS))]
    for title, kind in (("Counters", "counter"), ("Histograms", "histogram"), ("Gauges", "gauge")):
        chosen = [spec for spec in specs if spec.kind == kind]
        parts.append(f"## {title}\n\n" + _table(chosen))
    parts.append("## Buckets\n\n" + _buckets([spec for spec in specs if spec.buckets]))
    parts += [_SIDECAR, _table([declared.spec for declared in declarations(sidecar)])]
    return "\n".join(parts)


def _table(specs: list[Declaration]) -> str:
    lines = ["| name | labels of its own | meaning |", "|---|---|---|"]
    lines += [f"| `{spec.name}` | {_labels(spec)} | {spec.help} |" for spec in specs]
    return "\n".join(lines) + "\n"


def _labels(spec: Declaration) -> str:
    return "; ".join(
        f"`{label}`" + (": " + ", ".join(values) if values else "") for label, values in spec.labels.items()
    )


def _buckets(specs: list[Declaration]) -> str:
    by_bounds: dict[tuple[float, ...], list[str]] = {}
    for spec in specs:
        by_bounds.setdefault(spec.buckets, []).append(f"`{spec.name}`")
    return (
        "\n".join(
            f"- {', '.join(names)}: {' '.join(f'{bound:.10g}' for bound in bounds)}"
            for bounds, names in by_bounds.items()
        )
        + "\n"
    )
