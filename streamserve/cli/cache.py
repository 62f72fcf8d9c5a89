"""`streamserve cache get|rebuild`: look into the prediction cache, and make it anew from its topic."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streamserve.cli.console import emit_json, say
from streamserve.cli.options import (
    DEFAULT_CONFIG,
    ConfigOption,
    Format,
    FormatOption,
    SetOption,
    parse_set,
)
from streamserve.config.loading import load
from streamserve.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamserve.cache.rebuild import RebuildReport
    from streamserve.config.settings import CacheSettings, PipelineSettings

app = typer.Typer()
MISSING = 3
"""Exit code of `get` when a key has no prediction."""
_LINE_EVERY_S = 3.0
_TIMEOUT_MS = 5000.0
"""A person at a terminal waits longer than a worker may."""


@app.command("get")
def get_command(
    keys: Annotated[list[str], typer.Argument(metavar="KEY...", help="Entity keys.")],
    config: ConfigOption = DEFAULT_CONFIG,
    set_: SetOption = None,
    format: FormatOption = Format.TEXT,
) -> None:
    """Print the newest prediction of each key, a line each; end with 3 when one has none.

    With `--format json`: one object, key -> prediction or null.
    """
    from streamserve.cache.redis_cache import RedisCache

    settings, cache_settings = _settings(config, set_)
    cache = RedisCache(cache_settings, settings.pipeline)
    try:
        found = cache.read([key.encode("utf-8", "surrogateescape") for key in keys])
    finally:
        cache.close()
    if format is Format.JSON:
        emit_json({key: None if text is None else json.loads(text) for key, text in zip(keys, found, strict=True)})
    for key, text in zip(keys, found, strict=True):
        if text is None:
            say(f"no prediction of {key!r}")
        elif format is Format.TEXT:
            sys.stdout.write(text.decode("utf-8", "replace") + "\n")
    if None in found:
        raise typer.Exit(MISSING)


@app.command("rebuild")
def rebuild_command(
    config: ConfigOption = DEFAULT_CONFIG,
    since: Annotated[
        str | None,
        typer.Option(help="Only predictions written since then: ISO 8601 or epoch milliseconds."),
    ] = None,
    set_: SetOption = None,
    format: FormatOption = Format.TEXT,
) -> None:
    """Write every committed prediction into the cache again; the newest per key stays.

    Safe beside running workers, and safe to repeat.
    """
    from streamserve.cache.prediction_log import PredictionLog
    from streamserve.cache.rebuild import rebuild
    from streamserve.cache.redis_cache import RedisCache
    from streamserve.config.kafka_properties import client_properties

    start = None if since is None else _epoch_ms(since)
    settings, cache_settings = _settings(config, set_)
    cache = RedisCache(cache_settings, settings.pipeline)
    log = PredictionLog(
        client_properties(settings)[0],
        settings.output.topic,
        group=f"{settings.pipeline}.cache-rebuild",
        order=cache_settings.order,
        inputs=settings.input.topics,
    )
    try:
        cache.ping()
        report = rebuild(log, cache, start=start, progress=_progress())
    finally:
        log.close()
        cache.close()
    if format is Format.JSON:
        emit_json(asdict(report))
    else:
        sys.stdout.write(_line(report) + "\n")


def _settings(config: Path, pairs: list[str] | None) -> tuple[PipelineSettings, CacheSettings]:
    settings = load(config, parse_set(pairs)).settings
    if settings.cache is None:
        raise ConfigError(
            [
                Problem(
                    message="this pipeline has no cache",
                    path="cache",
                    file=str(config),
                    hint="add a `cache:` block",
                )
            ]
        )
    patient = max(settings.cache.timeout_ms, _TIMEOUT_MS)
    return settings, settings.cache.model_copy(update={"timeout_ms": patient})


def _epoch_ms(text: str) -> int:
    if text.isdigit():
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no time", param_hint="--since") from error
    return int(moment.astimezone().timestamp() * 1000)


def _progress() -> Callable[[RebuildReport], None]:
    last_s = time.monotonic()

    def told(report: RebuildReport) -> None:
        nonlocal last_s
        if time.monotonic() - last_s >= _LINE_EVERY_S:
            last_s = time.monotonic()
            share = report.records / report.records_expected if report.records_expected else 1.0
            say(f"{share:.0%} of {report.topic}: {_line(report)}")

    return told


def _line(report: RebuildReport) -> str:
    skipped = ", ".join(f"{count} {reason}" for reason, count in sorted(report.skipped.items())) or "0"
    return (
        f"{report.records} records read, {report.written} written, {report.current} superseded or there "
        f"already, skipped: {skipped}; {report.seconds:.1f} s"
    )
