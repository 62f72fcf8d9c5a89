"""`streamserve topics plan|apply`: the documents in `topics/` against the cluster of a pipeline."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamserve.cli.console import emit_json, say, show_table
from streamserve.cli.options import (
    DEFAULT_CONFIG,
    ConfigOption,
    Format,
    FormatOption,
    SetOption,
    parse_set,
)
from streamserve.config.loading import load
from streamserve.config.topic_documents import TopicDocument, read_topics

if TYPE_CHECKING:
    from confluent_kafka.admin import AdminClient

    from streamserve.kafka.topics import Change

app = typer.Typer()
FolderOption = Annotated[
    Path | None,
    typer.Option("--topics", help="Folder of the documents.  [default: topics beside the configuration]"),
]
PENDING = 3


@app.command("plan")
def plan_command(
    config: ConfigOption = DEFAULT_CONFIG,
    topics: FolderOption = None,
    set_: SetOption = None,
    format: FormatOption = Format.TEXT,
) -> None:
    """Print what differs between the documents and the cluster; end with 3 when something does."""
    from streamserve.kafka.topics import plan

    admin, wanted = _open(config, topics, set_)
    changes = plan(admin, wanted).changes
    _show(changes, format)
    say(f"{len(wanted)} topics described, {_count(changes)}")
    if changes:
        raise typer.Exit(PENDING)


@app.command("apply")
def apply_command(
    config: ConfigOption = DEFAULT_CONFIG,
    topics: FolderOption = None,
    set_: SetOption = None,
    format: FormatOption = Format.TEXT,
    *,
    delete: Annotated[
        bool, typer.Option("--delete", help="Also delete topics marked streamserve.io/state: absent.")
    ] = False,
) -> None:
    """Create topics, grow partitions, alter configuration; end with 3 when something is left to do."""
    from streamserve.kafka.topics import apply, plan

    admin, wanted = _open(config, topics, set_)
    pending = plan(admin, wanted)
    done = apply(admin, pending, delete=delete)
    _show(done, format)
    left = [change for change in pending.changes if change not in done]
    for change in left:
        hint = " (--delete does it)" if change.action == "delete" else ""
        say(f"not done: {change.action} {change.topic}: {change.detail}{hint}", "yellow")
    say(f"{len(wanted)} topics described, {len(done)} changes made")
    if left:
        raise typer.Exit(PENDING)


def _open(config: Path, topics: Path | None, pairs: list[str] | None) -> tuple[AdminClient, list[TopicDocument]]:
    loaded = load(config, parse_set(pairs))
    wanted = read_topics(topics or loaded.path.parent / "topics")
    from confluent_kafka.admin import AdminClient

    from streamserve.kafka.clients import admin_properties

    # With a logger, the client's lines on failed connections wait in it unread: the error says it once.
    logger = logging.getLogger("streamserve.kafka.admin")
    properties: dict[str, Any] = {**admin_properties(loaded.settings), "logger": logger}
    return AdminClient(properties), wanted


def _show(changes: tuple[Change, ...], format: Format) -> None:
    if format is Format.JSON:
        emit_json([{"action": c.action, "topic": c.topic, "detail": c.detail} for c in changes])
    elif changes:
        show_table(("ACTION", "TOPIC", "DETAIL"), [(c.action, c.topic, c.detail) for c in changes])


def _count(changes: tuple[Change, ...]) -> str:
    return f"{len(changes)} differences" if changes else "no difference"
