"""`streamserve tail`: the predictions of a pipeline as they appear, or the records of another topic.

Reads committed records without joining any group, so no worker notices. By default it shows the newest ten
and follows; with `-n` it shows the newest that many and ends when it has them.
"""

from __future__ import annotations

import os
import re
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from streamserve.cli.interrupts import Interrupts
from streamserve.cli.options import DEFAULT_CONFIG, ConfigOption, Format, FormatOption, SetOption, parse_set
from streamserve.config.loading import load
from streamserve.config.start_position import parse_start

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from streamserve.config.settings import PipelineSettings
    from streamserve.kafka.reading import Start, StoredRecord

NEWEST = 10
_AGO = re.compile(r"-(?P<number>\d+)(?P<unit>[smhd])")
_COUNT = re.compile(r"-(?P<number>\d+)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def command(
    config: ConfigOption = DEFAULT_CONFIG,
    set_: SetOption = None,
    topic: Annotated[str | None, typer.Option(help="Topic. Default: the pipeline's predictions.")] = None,
    count: Annotated[int | None, typer.Option("-n", "--count", min=1, help="End after so many records.")] = None,
    from_: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="WHERE",
            help="beginning, end, -N (the newest N), -5m (five minutes ago; s m h d), or a time."
            " Default: -10, or the newest -n.",
        ),
    ] = None,
    key: Annotated[str | None, typer.Option(help="Only records with this key.")] = None,
    format: FormatOption = Format.TEXT,
    *,
    dead_letters: Annotated[bool, typer.Option("--dead-letters", help="The pipeline's dead letters.")] = False,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Wait for more at the end.")] = True,
) -> None:
    """Print predictions as they appear, one a line; Ctrl-C ends."""
    if topic is not None and dead_letters:
        raise typer.BadParameter("choose one of the two", param_hint="--topic, --dead-letters")
    where = from_ or f"-{count or NEWEST}"
    settings = load(config, parse_set(set_)).settings
    from streamserve.kafka.clients import reader_properties
    from streamserve.kafka.reading import read_topic

    name = topic or (settings.dead_letter.topic if dead_letters else settings.output.topic)
    wanted = None if key is None else key.encode("utf-8", "surrogateescape")
    with Interrupts() as stop:
        records = read_topic(
            reader_properties(settings, group=f"{settings.pipeline}.tail"),
            name,
            start_of(where),
            follow=follow,
            keep=lambda record: wanted is None or record.key == wanted,
            stop=stop,
        )
        print_records(records, _line_format(settings, name, format), count)


def print_records(
    records: Iterator[StoredRecord], line: Callable[[StoredRecord], str], count: int | None = None
) -> None:
    """Print at most `count` records; a reader of ours that goes away ends it without a word."""
    left = count
    try:
        for record in records:
            sys.stdout.write(line(record) + "\n")
            sys.stdout.flush()
            if left is not None:
                left -= 1
                if left == 0:
                    return
    except BrokenPipeError:
        # Else the interpreter complains about the same pipe when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def start_of(text: str) -> Start:
    """What `--from` means. Raises: typer.BadParameter."""
    from streamserve.kafka.reading import Newest

    ago = _AGO.fullmatch(text)
    if ago is not None:
        return int((time.time() - int(ago["number"]) * _SECONDS[ago["unit"]]) * 1000)
    newest = _COUNT.fullmatch(text)
    if newest is not None:
        return Newest(int(newest["number"])) if int(newest["number"]) else "end"
    try:
        return parse_start(text)
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r} is none of: beginning, end, -10, -5m, 2026-01-31T12:00, epoch milliseconds",
            param_hint="--from",
        ) from error


def _line_format(settings: PipelineSettings, topic: str, format: Format) -> Callable[[StoredRecord], str]:
    from streamserve.cli import record_text

    if format is Format.JSON:
        return lambda record: record_text.json_line(record_text.record_document(record))
    if topic == settings.dead_letter.topic:
        from streamserve.cli.dead_letter_text import letter_line

        return letter_line
    return record_text.prediction_line
