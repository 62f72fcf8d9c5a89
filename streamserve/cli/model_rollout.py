"""The `model` commands that change what serves: promote, canary, shadow, experiment, rollback, stop, retire.

Each is one record on the rollout topic. A version is checked before, as far as that goes without loading it; what the
state refuses is not even written. Then every worker in the group is waited for. Exit codes: 1 a worker could not follow
or did not answer in time, 3 refused by the state, 69 no broker, 78 wrong configuration or version.
"""

from __future__ import annotations

import getpass
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamserve.cli.console import say
from streamserve.cli.interrupts import Interrupts
from streamserve.cli.model_check import require
from streamserve.cli.options import DEFAULT_CONFIG, ConfigOption, Format, FormatOption, SetOption, parse_set
from streamserve.cli.record_text import printable
from streamserve.cli.rollout_progress import FollowProgress
from streamserve.cli.rollout_session import Followed, RolloutSession, rollout_session
from streamserve.cli.rollout_text import show_outcome
from streamserve.config.loading import LoadedConfig, load
from streamserve.rollout.following import Follower
from streamserve.rollout.log import Given, RolloutLog
from streamserve.rollout.records import (
    MOST_ARMS,
    Arm,
    Canary,
    Command,
    Experiment,
    Promote,
    RecordError,
    Retire,
    Rollback,
    Shadow,
    Stop,
    is_name,
    new_id,
    text,
)
from streamserve.rollout.state import Refused, RolloutState

if TYPE_CHECKING:
    from streamserve.config.settings import PipelineSettings

REFUSED = 3
NOT_FOLLOWED = 1


class Part(StrEnum):
    """What `stop` ends."""

    CANARY = "canary"
    SHADOW = "shadow"
    EXPERIMENT = "experiment"


VersionArgument = Annotated[str, typer.Argument(metavar="VERSION", help="latest, a number, or an alias.")]
WhyOption = Annotated[str, typer.Option("--why", metavar="TEXT", help="A sentence for the history.")]
ByOption = Annotated[
    str | None, typer.Option("--by", metavar="WHO", help="Who asks, for the history.  [default: user@host]")
]
TimeoutOption = Annotated[
    float | None,
    typer.Option("--timeout", min=0, metavar="S", help="How long to wait.  [default: rollout.ack_timeout_s]"),
]
NoWaitOption = Annotated[bool, typer.Option("--no-wait", help="Do not wait for the workers to follow.")]
WeightOption = Annotated[float, typer.Option("--weight", help="Share of the keys, above 0 and up to 1.")]
ArmOption = Annotated[
    list[str],
    typer.Option("--arm", metavar="NAME=VERSION:WEIGHT", help="An arm; the first is the control. Repeatable."),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """The options that all these commands share."""

    config: Path
    set_: list[str] | None
    why: str
    by: str | None
    timeout: float | None
    no_wait: bool
    format: Format


def promote(
    version: VersionArgument,
    config: ConfigOption = DEFAULT_CONFIG,
    set_: SetOption = None,
    why: WhyOption = "",
    by: ByOption = None,
    timeout: TimeoutOption = None,
    format: FormatOption = Format.TEXT,
    *,
    no_wait: NoWaitOption = False,
    check: Annotated[bool, typer.Option("--check", help="Try it on recorded samples first (model check).")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Let it stand even when no worker can load it.")] = False,
) -> None:
    """Make a version the stable one, under the running stream; ends a canary or an experiment."""
    if check:
        require(load(config, parse_set(set_)).settings, version)
    wish = Wish(config=config, set_=set_, why=why, by=by, timeout=timeout, no_wait=no_wait, format=format)
    _give(wish, lambda settings, base: Promote(version=_checked(settings, version), **base), keep=keep)


def canary(
    version: VersionArgument,
    weight: WeightOption,
    config: ConfigOption = DEFAULT_CONFIG,
    set_: SetOption = None,
    why: WhyOption = "",
    by: ByOption = None,
    timeout: TimeoutOption = None,
    format: FormatOption = Format.TEXT,
    *,
    no_wait: NoWaitOption = False,
) -> None:
    """Give a version a share of the keys; again with another weight to raise or lower it."""
    _check_weight(weight, "--weight")
    wish = Wish(config=config, set_=set_, why=why, by=by, timeout=timeout, no_wait=no_wait, format=format)
    _give(wish, lambda settings, base: Canary(version=_checked(settings, version), weight=weight, **base))


def shadow(
    version: VersionArgument,
    config: ConfigOption = DEFAULT_CONFIG,
    set_: SetOption = None,
    why: WhyOption = "",
    by: ByOption = None,
    timeout: TimeoutOption = None,
    format: FormatOption = Format.TEXT,
    *,
    no_wait: NoWaitOption = False,
) -> None:
    """Have a version score the same events beside; its predictions go to a topic of their own."""
    wish = Wish(config=config, set_=set_, why=why, by=by, timeout=timeout, no_wait=no_wait, format=format)
    _give(wish, lambda settings, base: Shadow(version=_checked(settings, version), **base))


def experiment(
    name: Annotated[str, typer.Argument(help="Of the experiment; decides which keys go to which arm.")],
    arm: ArmOption,
    config: ConfigOption = DEFAULT_CONFIG,
    set_: SetOption = None,
    why: WhyOption = "",
    by: ByOption = None,
    timeout: TimeoutOption = None,
    format: FormatOption = Format.TEXT,
    *,
    no_wait: NoWaitOption = False,
) -> None:
    """Share the keys among versions by name; `model report` compares the arms."""
    _check_name(name, "NAME")
    arms = [_arm(value) for value in arm]
    if not 2 <= len(arms) <= MOST_ARMS:
        raise typer.BadParameter(
            f"an experiment needs at least two arms and at most {MOST_ARMS}: --arm control=3:0.5 --arm new=4:0.5",
            param_hint="--arm",
        )
    wish = Wish(config=config, set_=set_, why=why, by=by, timeout=timeout, no_wait=no_wait, format=format)

    def made(settings: PipelineSettings, base: dict[str, Any]) -> Experiment:
        sides = tuple(
            Arm(name=arm, version=_checked(settings, version), weight=weight) for arm, version, weight in arms
        )
        return Experiment(name=name, arms=sides, **base)

    _give(wish, made)


def rollback(
    config: ConfigOption = DEFAULT_CONFIG,
    set_: SetOption = None,
    why: WhyOption = "",
    by: ByOption = None,
    timeout: TimeoutOption = None,
    format: FormatOption = Format.TEXT,
    *,
    no_wait: NoWaitOption = False,
    drop: Annotated[bool, typer.Option("--drop", help="Do not keep the version that is left to go back to.")] = False,
) -> None:
    """Go back: end the canary or the experiment, else the version before is stable again. Nothing is loaded."""
    wish = Wish(config=config, set_=set_, why=why, by=by, timeout=timeout, no_wait=no_wait, format=format)
    _give(wish, lambda _, base: Rollback(drop=drop, **base))


def stop(
    what: Annotated[Part, typer.Argument(help="Which part.")],
    config: ConfigOption = DEFAULT_CONFIG,
    set_: SetOption = None,
    why: WhyOption = "",
    by: ByOption = None,
    timeout: TimeoutOption = None,
    format: FormatOption = Format.TEXT,
    *,
    no_wait: NoWaitOption = False,
) -> None:
    """End the canary, the shadow or the experiment; the stable version gets all keys again."""
    wish = Wish(config=config, set_=set_, why=why, by=by, timeout=timeout, no_wait=no_wait, format=format)
    _give(wish, lambda _, base: Stop(what=what.value, **base))


def retire(
    config: ConfigOption = DEFAULT_CONFIG,
    set_: SetOption = None,
    why: WhyOption = "",
    by: ByOption = None,
    timeout: TimeoutOption = None,
    format: FormatOption = Format.TEXT,
    *,
    no_wait: NoWaitOption = False,
) -> None:
    """Let go of the version before the stable one, and of its memory; after that there is nothing to roll back to."""
    wish = Wish(config=config, set_=set_, why=why, by=by, timeout=timeout, no_wait=no_wait, format=format)
    _give(wish, lambda _, base: Retire(**base))


def add(app: typer.Typer) -> None:
    """Register the commands, in the order of `--help`."""
    for command in (promote, canary, shadow, experiment, rollback, stop, retire):
        app.command()(command)


def _give(wish: Wish, make: Callable[[PipelineSettings, dict[str, Any]], Command], *, keep: bool = False) -> None:
    """One command, from its options to the exit code; `keep`: not taken back, whoever follows."""
    loaded = load(wish.config, parse_set(wish.set_))
    with rollout_session(loaded) as session, Interrupts() as stop_asked:
        seen = session.read()
        base = {
            "id": new_id(),
            "by": text(wish.by if wish.by is not None else _who()),
            "why": text(wish.why),
            "at_ms": int(time.time() * 1000),
            "expects": seen.revision,
        }
        given = _given(session, make(loaded.settings, base))
        followed = _wait(loaded, wish, session, given, stop_asked)
        back = None
        if followed is not None and followed.by_nobody:
            back = None if keep else _taken_back(session, given, seen)
            if back is not None:
                _wait(loaded, wish, session, back, stop_asked)
            say(_nobody(session, given, followed, back), "red")
        show_outcome(given, session.log.state, followed, wish.format, back)
        if seen.shadow in session.log.state_at(given.offset).sides:
            say(f"the shadow of version {seen.shadow} has ended: a version that answers needs none")
    _end(session.log, given, followed)


def _given(session: RolloutSession, command: Command) -> Given:
    """Publish it. Raises: typer.Exit with 3 when it has no effect, typer.BadParameter."""
    try:
        given = session.give(command)
    except RecordError as error:
        raise typer.BadParameter(str(error).removeprefix("not a rollout record: ")) from error
    except Refused as error:
        given = Given(offset=-1, command=command, refused=str(error))
    if given.refused:
        say(f"refused: {given.refused}", "red")
        raise typer.Exit(REFUSED)
    return given


def _wait(
    loaded: LoadedConfig, wish: Wish, session: RolloutSession, given: Given, stop: Callable[[], bool]
) -> Followed | None:
    """Wait for the workers, if that is wanted; how far they are at the end."""
    if wish.no_wait or loaded.settings.rollout is None:
        return None
    timeout_s = loaded.settings.rollout.ack_timeout_s if wish.timeout is None else wish.timeout
    followed = None
    with FollowProgress() as progress:
        for followed in session.follow(given.offset, timeout_s, stop):
            progress.update(followed)
    return followed


def _taken_back(session: RolloutSession, given: Given, before: RolloutState) -> Given | None:
    """Roll back a promotion that no worker follows; None when there is nothing to take back, or it cannot be."""
    command = given.command
    if not isinstance(command, Promote) or before.stable in {None, command.version}:
        return None
    why = f"no worker could load version {command.version}"
    now_ms = int(time.time() * 1000)
    try:
        back = session.give(
            Rollback(id=new_id(), by=command.by, why=why, at_ms=now_ms, expects=given.offset, drop=True)
        )
    except Refused:  # another command came first, and has replaced this one
        return None
    return None if back.refused else back


def _nobody(session: RolloutSession, given: Given, followed: Followed, back: Given | None) -> str:
    """That no worker follows, what they serve instead, and how to mend the state."""
    answers = [follower.acknowledgement for follower in followed.failed]
    states = [session.log.state_at(answer.serving) for answer in answers if answer is not None]
    served = ", ".join(sorted({state.stable for state in states if state.stable is not None}, key=int))
    said = f"no worker serves it; they go on with version {served}. "
    if back is not None:
        return f"{said}So it was taken back (revision {back.offset}); with --keep it stands"
    if session.log.state.revision != given.offset:
        return f"{said}Another command came after it: see `streamserve model status`"
    match given.command:
        case Promote():
            return f"{said}Take the command back: streamserve model rollback --drop"
        case Shadow():
            return f"{said}Take the command back: streamserve model stop shadow"
        case Canary() | Experiment():
            return f"{said}Take the command back: streamserve model rollback"
        case _:
            return f"{said}See `streamserve model status`"


def _lacks(log: RolloutLog, given: Given, follower: Follower) -> str:
    """What a slot lacks of the state beside what the command named, such as a stable version that it never loaded."""
    answer, command, state = follower.acknowledgement, given.command, log.state_at(given.offset)
    if answer is None:
        return ""
    named = {arm.version for arm in command.arms} if isinstance(command, Experiment) else set()
    if isinstance(command, Promote | Canary | Shadow):
        named = {command.version}
    roles = {state.shadow: "shadow", state.canary: "canary", state.stable: "stable"}
    lacking = [version for version in state.serving if version not in {*answer.versions, *named}]
    return ", ".join(f"version {version} ({roles.get(version, 'experiment')})" for version in lacking)


def _end(log: RolloutLog, given: Given, followed: Followed | None) -> None:
    """Say what is left to say. Raises: typer.Exit when not every worker follows."""
    if followed is None:
        return
    if not followed.live:
        say("no worker is running; those that start will serve it")
    for follower in followed.failed:
        error = follower.acknowledgement.error if follower.acknowledgement else ""
        name = printable(follower.slot)
        say(f"{name} could not follow and goes on with what it served: {printable(error)}", "red")
        if lacking := _lacks(log, given, follower):
            say(f"{name} has not loaded {lacking} either, which the command builds on", "red")
    if followed.waiting:
        names = ", ".join(printable(worker.slot) or "a worker that does not say which" for worker in followed.waiting)
        say(f"no answer yet from {names}; the command stands, and `streamserve model status` shows who follows", "red")
    if followed.failed or followed.waiting:
        raise typer.Exit(NOT_FOLLOWED)


def _checked(settings: PipelineSettings, wanted: str) -> str:
    """The number of a version that fits the pipeline, as far as can be told without loading it.

    Raises:
        ModelNotFound, ModelCorrupt: it is not there, or its files are not what its manifest says.
        ContractError: the features do not fill its inputs, or `output` does not fit its outputs.
    """
    from streamserve.composition.models import check_fit, resolve_model

    files = resolve_model(settings, wanted)
    check_fit(settings, files.signature)
    return files.version


def _arm(value: str) -> tuple[str, str, float]:
    """`NAME=VERSION:WEIGHT`. Raises: typer.BadParameter."""
    name, separator, rest = value.partition("=")
    version, colon, weight = rest.rpartition(":")
    try:
        share = float(weight if separator and colon else "")
    except ValueError:
        raise typer.BadParameter(
            f"{value!r} is not NAME=VERSION:WEIGHT, such as new=4:0.5", param_hint="--arm"
        ) from None
    _check_name(name, "--arm")
    _check_weight(share, "--arm")
    return name, version, share


def _check_weight(weight: float, option: str) -> None:
    """Raises: typer.BadParameter."""
    if not 0 < weight <= 1:
        raise typer.BadParameter(f"the weight {weight:g} must be above 0 and at most 1", param_hint=option)


def _check_name(name: str, option: str) -> None:
    """Raises: typer.BadParameter."""
    if not is_name(name):
        raise typer.BadParameter(
            f"{name!r} is no name: at most 100 lower-case letters, digits, dots and hyphens, such as price-2",
            param_hint=option,
        )


def _who() -> str:
    """Who asks: user@host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user needs no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
