"""What was measured, for people, for programs, for `model.yaml` and as the card of the new version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from streamserve.optimise.measure import Measured

HEADER = ["", "before", "after", "after / before"]


def table(measured: Measured) -> list[list[str]]:
    """Sizes and latencies, below `HEADER`."""
    before, after = measured.before, measured.after
    rows = [
        _sizes("file", before.bytes, after.bytes),
        _sizes("compressed (gzip)", before.gzip_bytes, after.gzip_bytes),
    ]
    for size, then_s in measured.latency_before_s.items():
        now_s = measured.latency_after_s[size]
        rows.append([f"batch of {size}", _time(then_s), _time(now_s), f"{now_s / then_s:.2f}"])
    return rows


def metrics(measured: Measured) -> dict[str, float]:
    """What goes into `model.yaml`: the differences, on how many rows, and the ratios to the original."""
    comparison = measured.comparison
    found = {
        "optimize_rows": float(comparison.rows),
        "optimize_difference_max": comparison.difference("max"),
        "optimize_difference_mean": comparison.difference("mean"),
        "optimize_difference_p99": comparison.difference("p99"),
        "optimize_size_ratio": measured.after.bytes / measured.before.bytes,
    }
    if comparison.agreement is not None:
        found["optimize_agreement"] = comparison.agreement
    for size, then_s in measured.latency_before_s.items():
        found[f"optimize_latency_ratio_{size}"] = measured.latency_after_s[size] / then_s
    return {name: float(f"{value:.6g}") for name, value in found.items()}


def document(measured: Measured) -> dict[str, object]:
    """Everything, for programs."""
    return {
        "size_bytes": {"before": measured.before.bytes, "after": measured.after.bytes},
        "gzip_bytes": {"before": measured.before.gzip_bytes, "after": measured.after.gzip_bytes},
        "latency_s": {
            str(size): {"before": then_s, "after": measured.latency_after_s[size]}
            for size, then_s in measured.latency_before_s.items()
        },
        "outputs": [asdict(output) for output in measured.comparison.outputs],
    }


def card(title: str, done: Mapping[str, str], measured: Measured) -> str:
    """The README.md beside the new version."""
    header, lines = measured.comparison.table()
    steps = [f"- `{name}`: {text}" for name, text in done.items()]
    return "\n".join(
        [
            f"# {title}",
            "",
            *steps,
            "",
            "Measured beside the original, on the machine that made it, by turns; medians.",
            "",
            *_markdown(HEADER, table(measured)),
            "",
            "Outputs beside the original's, absolute differences, on rows that no method learned from.",
            "",
            *_markdown(header, lines),
            "",
        ]
    )


def _markdown(header: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)]


def _sizes(name: str, before: int, after: int) -> list[str]:
    return [name, f"{before:,} bytes", f"{after:,} bytes", f"{after / before:.2f}"]


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} µs"
