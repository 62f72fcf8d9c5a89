"""`streamserve model status` and `model history`: what serves, who follows, and every command that was ever given."""

from __future__ import annotations

from typing import Annotated

import typer

from streamserve.cli.console import say
from streamserve.cli.options import DEFAULT_CONFIG, ConfigOption, Format, FormatOption, SetOption, parse_set
from streamserve.cli.rollout_session import rollout_session
from streamserve.cli.rollout_text import show_history, show_status
from streamserve.config.loading import load


def status(
    config: ConfigOption = DEFAULT_CONFIG,
    set_: SetOption = None,
    format: FormatOption = Format.TEXT,
) -> None:
    """Show which versions serve, and where every worker stands."""
    with rollout_session(load(config, parse_set(set_))) as session:
        state = session.read()
        show_status(state, session.followed(state.revision), format)


def history(
    config: ConfigOption = DEFAULT_CONFIG,
    set_: SetOption = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Only the newest commands.")] = 20,
    format: FormatOption = Format.TEXT,
) -> None:
    """Show the commands that were given, by whom, when, why, and what came of them."""
    with rollout_session(load(config, parse_set(set_))) as session:
        session.read()
    commands = session.log.history
    show_history(commands[-limit:], format)
    say(f"{len(commands)} commands" + (f", the newest {limit} shown" if len(commands) > limit else ""))


def add(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(status)
    app.command()(history)
