"""`streamserve model list`: the versions in a repository, as their folders say; nothing is loaded or checked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

import typer

from streamserve.cli.console import emit_json, say, show_table
from streamserve.cli.model_options import ConfigurationOption, RepositoryOption, find_place
from streamserve.cli.options import Format, FormatOption
from streamserve.cli.record_text import printable
from streamserve.registry.repository import Listed

FEW = 3
"""Metrics of a version that are shown without being asked for."""
MAX_SOURCE = 40
"""Characters of a source that is shown: `optimize int8 of version 3` is, a path from far away is not."""


def list_versions(
    name: Annotated[str | None, typer.Argument(help="A model.  [default: all]", show_default=False)] = None,
    repository: RepositoryOption = None,
    config: ConfigurationOption = None,
    metric: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Show this metric as a column. Repeatable.")
    ] = None,
    format: FormatOption = Format.TEXT,
) -> None:
    """List models, their versions, aliases and metrics."""
    place = find_place(repository, config)
    names = place.repository.names() if name is None else [name]
    versions = [(model, version) for model in names for version in place.repository.listing(model)]
    if format is Format.JSON:
        emit_json([_document(model, version) for model, version in versions])
        return
    if not versions:
        say(f"no models in {place.folder}")
        return
    columns = ["model", "version", "alias", "runtime", "folder size", "created", "source", *(metric or ["metrics"])]
    show_table(columns, [list(_row(model, version, metric)) for model, version in versions])


def _document(name: str, version: Listed) -> dict[str, object]:
    return {
        "name": name,
        "version": version.version,
        "aliases": version.aliases,
        "runtime": version.runtime,
        "size_bytes": version.size_bytes,
        "created": version.created,
        "source": version.source,
        "metrics": version.metrics,
        "problem": version.problem,
    }


def _row(name: str, version: Listed, metrics: Sequence[str] | None) -> Iterator[str]:
    yield name
    yield str(version.version)
    yield ", ".join(version.aliases)
    yield version.runtime or "none"
    yield size(version.size_bytes)
    yield printable(version.created)
    source = version.source.partition(" (")[0]
    yield printable(source) if len(source) <= MAX_SOURCE else ""
    if version.problem:
        yield printable(version.problem)
    elif metrics is None:
        yield printable(_few(version))
    else:
        yield from (f"{version.metrics[name]:g}" if name in version.metrics else "" for name in metrics)


def _few(version: Listed) -> str:
    if len(version.metrics) > FEW:
        return f"{len(version.metrics)} (--metric {next(iter(version.metrics))} shows one)"
    return ", ".join(f"{name} {value:g}" for name, value in version.metrics.items())


def size(size_bytes: int) -> str:
    """Bytes for people: `92.7 kB`."""
    value, units = float(size_bytes), iter(("B", "kB", "MB", "GB"))
    unit = next(units)
    while value >= 1000 and unit != "GB":
        value, unit = value / 1000, next(units)
    return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
