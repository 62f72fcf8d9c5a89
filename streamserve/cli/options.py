"""Options that mean the same in every command, so that they are spelt the same in every command."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Format(StrEnum):
    """How data is written to stdout."""

    TEXT = "text"
    JSON = "json"


ConfigOption = Annotated[Path, typer.Option("-c", "--config", help="The pipeline's configuration.", show_default=True)]
FormatOption = Annotated[Format, typer.Option("--format", help="Text for people, JSON for programs.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set a key, such as engine.device=cpu. Repeatable."),
]

DEFAULT_CONFIG = Path("streamserve.yaml")


def parse_set(pairs: list[str] | None) -> dict[str, str]:
    """`--set` options as overrides for `load`."""
    overrides = {}
    for pair in pairs or []:
        key, separator, value = pair.partition("=")
        if not separator or not key.strip():
            raise typer.BadParameter(f"{pair!r} is not KEY=VALUE", param_hint="--set")
        overrides[key.strip()] = value
    return overrides
