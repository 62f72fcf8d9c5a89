"""`streamserve produce`: events from JSON Lines into a topic, by default the input topic of the pipeline.

Every line is one event. The key comes from `--key`, else from `input.key`, else there is none; partitions
are chosen as the Java client does. A line that is no event stops the command with its number, after the
events before it were delivered; `--no-check` sends anything. For a pipeline that reads MessagePack, events
are encoded as such.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streamserve.cli import verbosity
from streamserve.cli.console import emit_json, say, show
from streamserve.cli.event_lines import EventReader, Line, LineError, numbered_lines, open_input
from streamserve.cli.interrupts import Interrupted, Interrupts
from streamserve.cli.options import DEFAULT_CONFIG, ConfigOption, Format, FormatOption, SetOption, parse_set
from streamserve.cli.sending_progress import SendingProgress
from streamserve.config.loading import load

if TYPE_CHECKING:
    from streamserve.config.settings import PipelineSettings
    from streamserve.kafka.event_sender import EventSender, Pace

_RATE = re.compile(r"(?P<number>\d+(?:\.\d+)?)(?P<kilo>k?)(?:/(?P<unit>s|m|min|h))?")
_SECONDS = {None: 1, "s": 1, "m": 60, "min": 60, "h": 3600}


def command(
    file: Annotated[str, typer.Argument(metavar="[FILE|-]", help="JSON Lines, one event a line; - is stdin.")] = "-",
    config: ConfigOption = DEFAULT_CONFIG,
    set_: SetOption = None,
    topic: Annotated[str | None, typer.Option(help="Topic. Default: the pipeline's first input topic.")] = None,
    key: Annotated[
        str | None,
        typer.Option(metavar="FIELD", help="Field with the record's key, '' for none. Default: input.key."),
    ] = None,
    rate: Annotated[str | None, typer.Option(metavar="N/s", help="Events per second: 500/s, 2k/s, 30/m.")] = None,
    count: Annotated[int | None, typer.Option(min=1, metavar="N", help="Stop after so many events.")] = None,
    format: FormatOption = Format.TEXT,
    *,
    repeat: Annotated[bool, typer.Option("--repeat", help="Start over at the end of the file.")] = False,
    check: Annotated[bool, typer.Option("--check/--no-check", help="Refuse lines that are no JSON object.")] = True,
) -> None:
    """Write events from JSON Lines to the pipeline's input topic."""
    if repeat and file == "-":
        raise typer.BadParameter("needs a file: standard input cannot be read twice", param_hint="--repeat")
    per_s = None if rate is None else parse_rate(rate)
    settings = load(config, parse_set(set_)).settings
    from streamserve.kafka.clients import producer_properties
    from streamserve.kafka.event_sender import EventSender, Pace

    reader = _reader(settings, file, topic, key, check=check)
    job = _Job(reader=reader, pace=None if per_s is None else Pace(per_s), count=count)
    sender = EventSender(producer_properties(settings), topic or settings.input.topics[0])
    with open_input(file) as stream:
        if stream.isatty() and verbosity() >= 0:
            say("one JSON object a line; Ctrl-D ends")
        size = None if file == "-" or repeat else os.fstat(stream.fileno()).st_size
        progress = SendingProgress(count or size, quiet=verbosity() < 0 or stream.isatty())
        lines = numbered_lines(stream, repeat=repeat, on_read=job.on_read)
        _report(_run(job, sender, lines, progress), sender, format)


@dataclass(slots=True)
class _Job:
    reader: EventReader
    pace: Pace | None
    count: int | None
    read_bytes: int = 0
    interrupted: bool = False
    wrong: LineError | None = None
    seconds: float = 0.0

    def on_read(self, size: int) -> None:
        self.read_bytes += size


def _run(job: _Job, sender: EventSender, lines: Iterator[Line], progress: SendingProgress) -> _Job:
    """Send everything; whatever ends it early, what was taken is delivered before this returns."""
    with Interrupts() as stop:
        with sender, progress:
            started_s = time.monotonic()
            try:
                with contextlib.suppress(Interrupted):  # what was taken is flushed below, and the summary says so
                    _send(job, sender, lines, progress, stop)
            except LineError as error:
                job.wrong = error
            sender.flush()
            job.seconds = time.monotonic() - started_s
        job.interrupted = stop()
    return job


def _send(job: _Job, sender: EventSender, lines: Iterator[Line], progress: SendingProgress, stop: Interrupts) -> None:
    # An event that found no broker within the message timeout will not be the last of its kind.
    while not (stop() or sender.unreachable) and (job.count is None or sender.taken < job.count):
        with stop.breaking():
            line = next(lines, None)
        if line is None:
            return
        event = job.reader.event(line)
        if event is None:
            continue
        if job.pace is not None:
            _wait(job.pace, sender, stop)
        sender.send(event.value, event.key)
        progress.update(sender.taken if job.count else job.read_bytes, sender.acknowledged, sender.failed)


def _wait(pace: Pace, sender: EventSender, stop: Interrupts) -> None:
    until_s = time.monotonic() + pace.wait_s()
    while not stop() and (left_s := until_s - time.monotonic()) > 0:
        sender.serve(min(left_s, 0.1))


def _reader(settings: PipelineSettings, file: str, topic: str | None, key: str | None, *, check: bool) -> EventReader:
    own_topic = topic is None or topic in settings.input.topics
    if own_topic and check and settings.input.format == "raw":
        raise typer.BadParameter(
            "the pipeline reads raw tensors, which JSON Lines cannot hold; --no-check sends lines as they are",
            param_hint="FILE",
        )
    return EventReader(
        "stdin" if file == "-" else Path(file).name,
        key_field=(settings.input.key if key is None else key) or None,
        check=check,
        msgpack=own_topic and settings.input.format == "msgpack",
    )


def _report(job: _Job, sender: EventSender, format: Format) -> None:
    sent = sender.taken - sender.failed
    per_s = sent / job.seconds if job.seconds > 0 else 0.0
    if format is Format.JSON:
        emit_json(
            {
                "topic": sender.topic,
                "sent": sent,
                "failed": sender.failed,
                "seconds": round(job.seconds, 3),
                "events_per_s": round(per_s, 1),
                "interrupted": job.interrupted,
            }
        )
    else:
        failed = f", {sender.failed:,} failed" if sender.failed else ""
        what = f"{sent:,} {'event' if sent == 1 else 'events'} sent to {sender.topic}"
        show(f"{what} in {job.seconds:.1f} s ({per_s:,.0f}/s){failed}")
    sys.stdout.flush()
    sender.raise_if_failed()
    if job.wrong is not None:
        raise job.wrong


def parse_rate(text: str) -> float:
    """Events per second of `500`, `500/s`, `2k/s`, `30/m`. Raises: typer.BadParameter."""
    found = _RATE.fullmatch(text.strip())
    if found is None or float(found["number"]) == 0:
        raise typer.BadParameter(f"{text!r} is no rate; write 500/s, 2k/s or 30/m", param_hint="--rate")
    return float(found["number"]) * (1000 if found["kilo"] else 1) / _SECONDS[found["unit"]]
