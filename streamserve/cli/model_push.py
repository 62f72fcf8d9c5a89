"""`streamserve model push` and `alias`: what changes a repository."""

from __future__ import annotations

from typing import Annotated

import typer

from streamserve.cli.console import emit_json, say, show
from streamserve.cli.model_options import ConfigurationOption, RepositoryOption, find_place
from streamserve.cli.options import Format, FormatOption

NameArgument = Annotated[str, typer.Argument(help="The model's name.")]


def push(
    name: NameArgument,
    source: Annotated[
        str, typer.Argument(help="A model file, a version's folder, an MLflow directory, or the URL of one of these.")
    ],
    repository: RepositoryOption = None,
    config: ConfigurationOption = None,
    alias: Annotated[str | None, typer.Option(help="Let this alias mean the new version, such as canary.")] = None,
    version: Annotated[int | None, typer.Option(min=1, help="Its number.  [default: the next free one]")] = None,
    metric: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A metric to keep with it. Repeatable.")
    ] = None,
    max_mb: Annotated[int, typer.Option("--max-mb", min=1, help="Most MiB that is fetched from a URL.")] = 4096,
    format: FormatOption = Format.TEXT,
    *,
    trust: Annotated[
        bool, typer.Option("--trust", help="A torch archive is code: let it be loaded, pinned by its digest.")
    ] = False,
) -> None:
    """Add a version to a repository: copied and checked, whole or not at all."""
    pushed = find_place(repository, config).repository.push(
        name,
        source,
        trust=trust,
        alias=alias,
        version=version,
        metrics=_metrics(metric),
        max_bytes=max_mb << 20,
    )
    if format is Format.JSON:
        emit_json(
            {
                "name": pushed.name,
                "version": pushed.version,
                "path": pushed.path,
                "sha256": pushed.sha256,
                "alias": alias,
            }
        )
        return
    show(f"{pushed.name} {pushed.version}" + (f" ({alias})" if alias else ""))
    say(f"{pushed.path}\nsha256 {pushed.sha256}")


def set_alias(
    name: NameArgument,
    alias: Annotated[str, typer.Argument(help="The alias, such as stable.")],
    version: Annotated[int, typer.Argument(min=1, help="The version it shall mean.")],
    repository: RepositoryOption = None,
    config: ConfigurationOption = None,
) -> None:
    """Let an alias mean a version."""
    find_place(repository, config).repository.set_alias(name, alias, version)
    show(f"{name} {alias} is {version}")


def _metrics(pairs: list[str] | None) -> dict[str, float]:
    metrics = {}
    for pair in pairs or []:
        name, _, value = pair.partition("=")
        try:
            metrics[name.strip()] = float(value)
        except ValueError:
            raise typer.BadParameter(f"{pair!r} is not NAME=VALUE with a number", param_hint="--metric") from None
    return metrics
