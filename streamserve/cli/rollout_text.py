"""Rollouts as the `model` commands print them: what serves, who follows, what was commanded."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from streamserve.cli.console import emit_json, show
from streamserve.cli.options import Format
from streamserve.cli.record_text import aligned, printable, stamp
from streamserve.cli.rollout_session import Followed
from streamserve.rollout.following import Follower
from streamserve.rollout.log import Given
from streamserve.rollout.records import NONE
from streamserve.rollout.state import RolloutState
from streamserve.rollout.words import command_words, state_words

_STANDINGS = {"follows": "follows", "failed": "could not follow", "waits": "no answer yet", "gone": "not running"}


def show_outcome(
    given: Given, state: RolloutState, followed: Followed | None, format: Format, back: Given | None = None
) -> None:
    """What a command has come to; `back` took it back."""
    if format is Format.JSON:
        document = {"revision": given.offset, "command": command_document(given), "state": state_document(state)}
        document["taken_back"] = back.offset if back is not None else None
        emit_json(document | {"workers": followers_document(followed)})
        return
    for each in (given, back):
        if each is not None:
            show(f"revision {each.offset}: {printable(command_words(each.command))}")
    _show_state(state)


def show_status(state: RolloutState, followed: Followed, format: Format) -> None:
    """What serves, and where every slot stands."""
    if format is Format.JSON:
        emit_json({"state": state_document(state), "workers": followers_document(followed)})
        return
    show(f"revision {state.revision}" if state.revision > NONE else "no command yet")
    _show_state(state)
    if not followed.live:
        show("no worker is running")
    if followed.slots:
        show("")
        columns = ("SLOT", "STANDING", "SERVES", "SINCE", "LOADED")
        _show_rows(columns, [(_follower_row(slot), _follower_remarks(slot)) for slot in followed.slots])


def show_history(history: Sequence[Given], format: Format) -> None:
    """Commands, oldest first, with what came of them."""
    if format is Format.JSON:
        emit_json([command_document(given) for given in history])
    elif history:
        columns = ("REVISION", "WHEN", "WHO", "EFFECT", "WHAT")
        _show_rows(columns, [(_history_row(given), _history_remarks(given)) for given in history])


def state_document(state: RolloutState) -> dict[str, object]:
    """A state as JSON."""
    return {
        "revision": state.revision,
        "stable": state.stable,
        "previous": state.previous,
        "canary": state.canary,
        "weight": state.weight,
        "shadow": state.shadow,
        "experiment": state.experiment,
        "arms": [msgspec.to_builtins(arm) for arm in state.arms],
    }


def command_document(given: Given) -> dict[str, object]:
    """A command as JSON: the record, with its offset and what came of it."""
    return {"offset": given.offset, "refused": given.refused or None, **msgspec.to_builtins(given.command)}


def followers_document(followed: Followed | None) -> list[dict[str, object]] | None:
    """Slots as JSON; None when nobody was asked."""
    if followed is None:
        return None
    return [
        {
            "slot": follower.slot or None,
            "standing": follower.standing,
            "acknowledgement": msgspec.to_builtins(follower.acknowledgement),
        }
        for follower in followed.slots
    ]


def _show_state(state: RolloutState) -> None:
    for line in state_words(state):
        show(f"  {printable(line)}")


def _show_rows(columns: Sequence[str], rows: Sequence[tuple[Sequence[str], Sequence[str]]]) -> None:
    """A table with remarks to its rows, each on a line of its own: however long one is, it widens no column."""
    header, *lines = aligned([columns, *(row for row, _ in rows)])
    show(header, style="bold")
    for line, (_, remarks) in zip(lines, rows, strict=True):
        show(line)
        for remark in remarks:
            show(f"    {remark}")


def _follower_row(follower: Follower) -> tuple[str, ...]:
    name, standing = printable(follower.slot) or "?", _STANDINGS[follower.standing]
    acknowledgement = follower.acknowledgement
    if acknowledgement is None:
        return name, standing, "", "", ""
    return (
        name,
        standing,
        str(acknowledgement.serving),
        stamp(acknowledgement.at_ms),
        printable(", ".join(acknowledgement.versions)),
    )


def _follower_remarks(follower: Follower) -> list[str]:
    error = follower.acknowledgement.error if follower.acknowledgement is not None else ""
    return [f"error: {printable(error)}"] if error else []


def _history_row(given: Given) -> tuple[str, ...]:
    command = given.command
    return (
        str(given.offset),
        stamp(command.at_ms),
        printable(command.by) or "-",
        "none" if given.refused else "applied",
        printable(command_words(command)),
    )


def _history_remarks(given: Given) -> list[str]:
    remarks = {"why": given.command.why, "refused": given.refused}
    return [f"{name}: {printable(remark)}" for name, remark in remarks.items() if remark]
