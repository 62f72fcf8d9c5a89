"""`streamserve config show`: the configuration as it is written, or as it is in force; secrets masked."""

from __future__ import annotations

from typing import Annotated

import typer

from streamserve.cli.console import emit_json, show, show_table
from streamserve.cli.options import (
    DEFAULT_CONFIG,
    ConfigOption,
    Format,
    FormatOption,
    SetOption,
    parse_set,
)
from streamserve.config.loading import LoadedConfig, load
from streamserve.config.masking import mask

app = typer.Typer()


@app.callback()
def _noun() -> None:
    """Show the configuration."""


@app.command("show")
def show_config(
    config: ConfigOption = DEFAULT_CONFIG,
    set_: SetOption = None,
    format: FormatOption = Format.TEXT,
    *,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Every key with its value in force and where it comes from.")
    ] = False,
) -> None:
    """Show the configuration with secrets masked; by default only what differs from the defaults."""
    loaded = load(config, parse_set(set_))
    values = _flat(mask(loaded.settings.model_dump(mode="json", by_alias=True)), "")
    rows = [
        (key, value, loaded.provenance.get(key, "default"))
        for key, value in values.items()
        if resolved or loaded.provenance.get(key, "default") != "default"
    ]
    if format is Format.JSON:
        emit_json(_document(loaded, resolved=resolved))
    elif resolved:
        show_table(("KEY", "VALUE", "FROM"), [(key, _text(value), source) for key, value, source in rows])
    else:
        for key, value, _ in rows:
            show(f"{key}: {_text(value)}")


def _document(loaded: LoadedConfig, *, resolved: bool) -> object:
    settings = loaded.settings
    values = settings.model_dump(mode="json", by_alias=True, exclude_unset=not resolved)
    return {
        "path": str(loaded.path),
        "settings": mask(values),
        "provenance": {key: source for key, source in loaded.provenance.items() if resolved or source != "default"},
    }


def _flat(value: object, key: str) -> dict[str, object]:
    """Leaves by dotted key, spelt as in `LoadedConfig.provenance`."""
    if isinstance(value, dict) and value:
        return {
            path: leaf
            for name, inner in value.items()
            for path, leaf in _flat(inner, f"{key}.{name}" if key else str(name)).items()
        }
    if isinstance(value, list) and value:
        return {
            path: leaf for index, inner in enumerate(value) for path, leaf in _flat(inner, f"{key}[{index}]").items()
        }
    return {key: value}


def _text(value: object) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
