"""Results are kept with what they depend on, and compared with the bounds: `results.jsonl` and `bounds.toml`."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType

FOLDER = Path(__file__).parent
Bound = dict[str, float]
"""`at_most` or `at_least`, what the median must hold; `goal`, what is wanted, where that is more."""
PACKAGES = ("confluent-kafka", "onnxruntime", "numpy", "msgspec", "orjson", "pysimdjson")


def keep(figures: dict[str, list[float]], others: Mapping[str, str] = MappingProxyType({})) -> None:
    """Append one line: when, which commit, which machine, which versions (`others` are not of this environment)."""
    entry = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "arguments": sys.argv[1:],
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES} | dict(others),
        "figures": {name: [round(value, 3) for value in values] for name, values in figures.items()},
    }
    with (FOLDER / "results.jsonl").open("a") as file:
        file.write(json.dumps(entry) + "\n")


def bounds() -> dict[str, Bound]:
    """What a median may be, by name of the figure."""
    found: dict[str, Bound] = tomllib.loads((FOLDER / "bounds.toml").read_text())
    return found


def compare(figures: dict[str, list[float]]) -> list[str]:
    """What fell: a figure whose median is beyond its bound, one line each. Figures without a bound are free."""
    fallen = []
    for name, bound in bounds().items():
        if name not in figures:
            continue
        median = statistics.median(figures[name])
        if not bound.get("at_least", float("-inf")) <= median <= bound.get("at_most", float("inf")):  # NaN falls, too
            limit = f"at most {bound['at_most']}" if "at_most" in bound else f"at least {bound['at_least']}"
            fallen.append(f"{name}: median {median:.2f}, wanted {limit}")
    return fallen


def verdict(
    figures: dict[str, list[float]], *, kept: bool = True, others: Mapping[str, str] = MappingProxyType({})
) -> int:
    """Keep the figures, unless told not to, and compare them. Returns: the exit status, 3 when a bound fell."""
    if kept:
        keep(figures, others)
    fallen = compare(figures)
    for line in fallen:
        say(f"FALLEN {line}")
    return 3 if fallen else 0


def say(line: str) -> None:
    """A line on standard output, at once."""
    print(line, flush=True)


def spread(values: list[float]) -> str:
    """Least, median and greatest."""
    return f"min {min(values):.2f} median {statistics.median(values):.2f} max {max(values):.2f}"


def table(figures: dict[str, list[float]]) -> list[str]:
    """The figures in Markdown, with what is wanted of them and what must hold."""
    known = bounds()
    lines = ["| figure | min | median | max | goal | bound |", "|---|---|---|---|---|---|"]
    for name, values in figures.items():
        bound = known.get(name, {})
        sign, limit = ("≤", bound["at_most"]) if "at_most" in bound else ("≥", bound.get("at_least"))
        cells = [number(min(values)), f"**{number(statistics.median(values))}**", number(max(values))]
        cells += [f"{sign} {wanted}" if wanted is not None else "" for wanted in (bound.get("goal"), limit)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def number(value: float) -> str:
    """A figure as people read it: two decimals when it is small, none when it is large."""
    return f"{value:.2f}" if abs(value) < 100 else f"{value:,.0f}"


def _commit() -> str:
    command = ["git", "-C", str(FOLDER), "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
