"""`streamserve dlq ls|show|replay`: what became a dead letter and why, and the way back.

A replay sends dead letters to the topic that they came from: key, value, timestamp and headers of the
original, to the same partition while it exists, plus the count of attempts. Each is sent once, however
often and with whatever filters `replay` is called (`streamserve.kafka.dead_letters` says how that is
remembered, and for how long). Not sent are those whose value or key was too large to be carried, those that
failed `--max-attempts` times, and those of a topic that the pipeline does not read. An event that fails
again becomes a new dead letter. The timestamp is kept, because it may be the event's time; so an event that
is older than the retention of its topic can vanish before it is read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from streamserve.cli.console import emit_json, say, show
from streamserve.cli.interrupts import Interrupts
from streamserve.cli.options import DEFAULT_CONFIG, ConfigOption, Format, FormatOption, SetOption, parse_set
from streamserve.codecs.dead_letter_headers import DeadLetterInfo, read_dead_letter, replay_headers
from streamserve.config.loading import load
from streamserve.config.settings import PipelineSettings
from streamserve.errors import SourceError

if TYPE_CHECKING:
    from streamserve.kafka.dead_letters import DeadLetterTopic, Replayer, Resend
    from streamserve.kafka.reading import StoredRecord

app = typer.Typer()
MAX_ATTEMPTS = 3
ReasonOption = Annotated[
    list[str] | None, typer.Option("--reason", help="Only this reason, such as out_of_range. Repeatable.")
]
FeatureOption = Annotated[list[str] | None, typer.Option("--feature", help="Only this feature at fault. Repeatable.")]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which dead letters are meant: any of the reasons, and any of the features; none given means all."""

    reasons: tuple[str, ...] = ()
    features: tuple[str, ...] = ()

    def __contains__(self, info: DeadLetterInfo) -> bool:
        return (not self.reasons or info.reason in self.reasons) and (
            not self.features or info.feature in self.features
        )


Kind = tuple[str, str, str]
"""Reason, stage, feature."""


@dataclass(slots=True)
class Group:
    """Dead letters of one kind."""

    count: int = 0
    replayed: int = 0
    newest_ms: int = -1
    example: str = ""
    message: str = ""

    def add(self, record: StoredRecord, info: DeadLetterInfo, *, replayed: bool) -> None:
        self.count += 1
        self.replayed += replayed
        if record.timestamp_ms >= self.newest_ms:
            self.newest_ms = record.timestamp_ms
            self.example = record.position
            self.message = info.message

    def document(self, reason: str, stage: str, feature: str) -> dict[str, object]:
        return {
            "reason": reason,
            "stage": stage,
            "feature": feature,
            "count": self.count,
            "replayed": self.replayed,
            "newest_ms": self.newest_ms,
            "example": self.example,
            "message": self.message,
        }


@app.command("ls")
def ls_command(
    config: ConfigOption = DEFAULT_CONFIG,
    set_: SetOption = None,
    reason: ReasonOption = None,
    feature: FeatureOption = None,
    format: FormatOption = Format.TEXT,
) -> None:
    """Count dead letters by reason, stage and feature, with the newest of each kind."""
    settings = load(config, parse_set(set_)).settings
    groups: dict[Kind, Group] = {}
    selection = Selection(tuple(reason or ()), tuple(feature or ()))
    with Interrupts() as stop, _topic(settings) as topic:
        for record, info in _selected(topic, selection, stop):
            group = groups.setdefault((info.reason, info.stage, info.feature), Group())
            group.add(record, info, replayed=topic.replayed(record))
    ordered = sorted(groups.items(), key=lambda item: -item[1].count)
    if format is Format.JSON:
        emit_json([group.document(*kind) for kind, group in ordered])
    elif ordered:
        _show_groups(ordered)
    else:
        kind = " of this kind" if reason or feature else ""
        say(f"no dead letters{kind} in {settings.dead_letter.topic}")


def _show_groups(ordered: list[tuple[Kind, Group]]) -> None:
    from streamserve.cli.record_text import aligned, printable, stamp

    head = ("REASON", "STAGE", "FEATURE", "COUNT", "REPLAYED", "NEWEST", "EXAMPLE", "MESSAGE")
    rows = [
        (
            *(printable(part) or "-" for part in key),
            f"{group.count:,}",
            f"{group.replayed:,}",
            stamp(group.newest_ms),
            group.example,
            printable(group.message)[:100],
        )
        for key, group in ordered
    ]
    for line in aligned([head, *rows]):
        show(line)


@app.command("show")
def show_command(
    position: Annotated[
        str | None, typer.Argument(metavar="[PARTITION:OFFSET]", help="Which one, as `dlq ls` names it.")
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    set_: SetOption = None,
    reason: ReasonOption = None,
    feature: FeatureOption = None,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="How many, oldest first.")] = 1,
    format: FormatOption = Format.TEXT,
) -> None:
    """Print dead letters in full: what was wrong, the headers, the payload."""
    from streamserve.cli.dead_letter_text import letter_document, letter_in_full

    if (position is None) == (not reason and not feature):
        raise typer.BadParameter("give a position, or --reason or --feature", param_hint="PARTITION:OFFSET")
    place = None if position is None else parse_position(position)
    settings = load(config, parse_set(set_)).settings
    selection = Selection(tuple(reason or ()), tuple(feature or ()))
    with Interrupts() as stop, _topic(settings) as topic:
        if place is None:
            found = list(islice(_selected(topic, selection, stop), count))
        else:
            record = topic.at(*place)
            found = [(record, read_dead_letter(record.headers))]
        documents = [(record, info, topic.replayed(record)) for record, info in found]
    if not documents and not stop():
        raise SourceError(f"{settings.dead_letter.topic} has no dead letter of this kind; `dlq ls` shows the kinds")
    if format is Format.JSON:
        emit_json([letter_document(record, info, replayed=done) for record, info, done in documents])
        return
    for number, (record, info, done) in enumerate(documents):
        if number:
            show("")
        for line in letter_in_full(record, info, replayed=done):
            show(line)


@app.command("replay")
def replay_command(
    config: ConfigOption = DEFAULT_CONFIG,
    set_: SetOption = None,
    reason: ReasonOption = None,
    feature: FeatureOption = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many, oldest first.")] = None,
    max_attempts: Annotated[int, typer.Option(min=1, help="Leave those that have failed so often.")] = MAX_ATTEMPTS,
    format: FormatOption = Format.TEXT,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Whatever the reason.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be sent.")] = False,
) -> None:
    """Send dead letters back to the topic they came from, each of them once."""
    if not (reason or feature or everything):
        raise typer.BadParameter("say which: --reason, --feature or --all", param_hint="--reason")
    settings = load(config, parse_set(set_)).settings
    selection = Selection(tuple(reason or ()), tuple(feature or ()))
    tally = Tally()
    with ExitStack() as stack:
        stop = stack.enter_context(Interrupts())
        topic = stack.enter_context(_topic(settings))
        replayer = None if dry_run else stack.enter_context(_replayer(settings, topic))
        for record, info in _selected(topic, selection, stop):
            if limit is not None and tally.chosen == limit:
                break
            obstacle = _obstacle(settings, topic, record, info, max_attempts)
            tally.note(record, info, obstacle)
            if not obstacle and replayer is not None:
                replayer.add(_resend(record, info))
    _report(tally, settings, format, dry_run=dry_run)


@dataclass(slots=True)
class Tally:
    """What a replay did, or would do."""

    chosen: int = 0
    to: Counter[tuple[str, str]] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def note(self, record: StoredRecord, info: DeadLetterInfo, obstacle: str) -> None:
        if obstacle:
            self.left[obstacle] += 1
            self.examples.setdefault(obstacle, record.position)
        else:
            self.chosen += 1
            self.to[info.topic, info.reason] += 1


def _report(tally: Tally, settings: PipelineSettings, format: Format, *, dry_run: bool) -> None:
    from streamserve.cli.record_text import printable

    if format is Format.JSON:
        emit_json(
            {
                "dry_run": dry_run,
                "replayed": tally.chosen,
                "to": [{"topic": t, "reason": r, "count": count} for (t, r), count in tally.to.most_common()],
                "left": [
                    {"why": why, "count": count, "example": tally.examples[why]}
                    for why, count in tally.left.most_common()
                ],
            }
        )
        return
    done = "would be sent" if dry_run else "sent"
    for (topic, reason), count in tally.to.most_common():
        show(f"{count:,} {done} to {topic} ({printable(reason)})")
    for why, count in tally.left.most_common():
        show(f"{count:,} left: {why} (such as {tally.examples[why]})")
    if not tally.to and not tally.left:
        show(f"no dead letters of this kind in {settings.dead_letter.topic}")
    elif not tally.to:
        show("nothing to send")


def _obstacle(
    settings: PipelineSettings,
    topic: DeadLetterTopic,
    record: StoredRecord,
    info: DeadLetterInfo,
    max_attempts: int,
) -> str:
    """Why a dead letter cannot be sent back, or nothing."""
    if topic.replayed(record):
        return "replayed before"
    if info.left_out:
        return "its value or key was too large to be carried; send it again from where it came from"
    if not info.topic:
        return "it names no topic that it came from"
    if info.topic not in settings.input.topics:
        return "it came from a topic that this pipeline does not read"
    if info.attempt >= max_attempts:
        return f"failed {max_attempts} times or more (--max-attempts)"
    return ""


def _resend(record: StoredRecord, info: DeadLetterInfo) -> Resend:
    from streamserve.kafka.dead_letters import Resend

    return Resend(
        letter=record,
        topic=info.topic,
        partition=info.partition,
        headers=replay_headers(record.headers, info.attempt),
    )


def _selected(
    topic: DeadLetterTopic, selection: Selection, stop: Callable[[], bool]
) -> Iterator[tuple[StoredRecord, DeadLetterInfo]]:
    for record in topic.letters(stop):
        info = read_dead_letter(record.headers)
        if info in selection:
            yield record, info


def _topic(settings: PipelineSettings) -> DeadLetterTopic:
    from streamserve.kafka.clients import reader_properties
    from streamserve.kafka.dead_letters import DeadLetterTopic, replay_group

    group = replay_group(settings.pipeline)
    return DeadLetterTopic(reader_properties(settings, group=group), settings.dead_letter.topic)


def _replayer(settings: PipelineSettings, topic: DeadLetterTopic) -> Replayer:
    from streamserve.kafka.clients import producer_properties
    from streamserve.kafka.dead_letters import Replayer, replay_group

    name = replay_group(settings.pipeline)
    return Replayer(producer_properties(settings, transactional_id=name), topic)


def parse_position(text: str) -> tuple[int, int]:
    """`PARTITION:OFFSET` as two numbers. Raises: typer.BadParameter."""
    partition, colon, offset = text.partition(":")
    if not (colon and partition.isdecimal() and offset.isdecimal()):
        raise typer.BadParameter(f"{text!r} is not PARTITION:OFFSET, such as 2:4711", param_hint="PARTITION:OFFSET")
    return int(partition), int(offset)
