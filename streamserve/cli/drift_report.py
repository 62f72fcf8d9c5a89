"""`streamserve drift report`: any range of the samples against the reference, as one look.

The table is for people, `--html` for sending round, `--format json` for programs. It ends with 3 when something
drifted, so that a pipeline can wait for it. The range is told in source offsets as well: they name the rows for good,
while a slice of time can still get late ones.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streamserve.cli.console import emit_json, say, show, show_table
from streamserve.cli.drift_range import OffsetsOption, Range, SinceOption, UntilOption, parse_range
from streamserve.cli.interrupts import Interrupts
from streamserve.cli.options import DEFAULT_CONFIG, ConfigOption, Format, FormatOption, SetOption, parse_set
from streamserve.config.loading import load
from streamserve.errors import ConfigError, ContractError, ModelNotFound, SourceError, StreamServeError

if TYPE_CHECKING:
    from streamserve.cli.drift_samples import Tally
    from streamserve.config.drift_settings import DriftSettings
    from streamserve.config.settings import PipelineSettings
    from streamserve.drift.reference import Reference
    from streamserve.drift.report.values import RangeReport
    from streamserve.drift.segments import Segments

DRIFTED = 3
"""Exit code."""
PRIVATE = ("kafka.", "cache.")


def report(
    config: ConfigOption = DEFAULT_CONFIG,
    set_: SetOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    offsets: OffsetsOption = None,
    model_version: Annotated[
        str | None, typer.Option(help="latest, a number, or an alias. Default: the configuration's.")
    ] = None,
    segment: Annotated[
        str, typer.Option(metavar="FEATURE=VALUE", help="Only rows of this segment (drift.segments).")
    ] = "",
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page that stands alone.", dir_okay=False)
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Columns in the table, the worst first.")] = 20,
    format: FormatOption = Format.TEXT,
) -> None:
    """Compare a range of samples with the reference; ends with 3 when something drifted."""
    overrides = parse_set(set_)
    if model_version is not None:
        overrides["model.version"] = model_version
    settings = load(config, overrides).settings
    wanted = parse_range(since, until, offsets)
    with Interrupts() as stop:
        found, topic = examine(settings, wanted, segment, stop)
    command = again(found, wanted, config, overrides)
    if html is not None:
        _write(html, found, command)
    if format is Format.JSON:
        emit_json({**found.to_document(), "topic": topic, "again": command})
    else:
        _print(found, command, top)
    if found.drifted:
        raise typer.Exit(DRIFTED)


def examine(
    settings: PipelineSettings, wanted: Range, segment: str, stop: Callable[[], bool]
) -> tuple[RangeReport, str]:
    """Read the range and decide. Returns: the report, and the samples topic. Raises: StreamServeError."""
    from streamserve.cli.drift_samples import Samples
    from streamserve.composition.models import resolve_model
    from streamserve.config.drift_settings import DriftSettings
    from streamserve.drift.report.collected import Collected
    from streamserve.drift.report.values import Question, decide
    from streamserve.drift.segments import Segments

    drift = settings.drift or DriftSettings()
    files = resolve_model(settings)
    reference = _reference(settings, files.name, files.version)
    segments = Segments(drift.segments, reference.columns)
    _check_segment(segment, segments, reference)
    samples = Samples(settings, files.name, files.version, wanted)
    collected = Collected(reference, segments, segment)
    for rows in samples.parts(stop):
        collected.add(rows)
    if stop():
        raise SourceError("interrupted: the range was not read to its end")
    if not collected.pane.profile.rows:
        raise SourceError(_nothing(samples.tally, samples.topic, files.version))
    question = Question(
        pipeline=settings.pipeline,
        segment=segment,
        window_s=_length(wanted, drift),
        rejects=tuple((*what, count) for what, count in samples.tally.rejects.most_common()),
        notes=tuple(_notes(samples.tally, reference)),
    )
    return decide(reference, collected, drift, question), samples.topic


def _reference(settings: PipelineSettings, model: str, version: str) -> Reference:
    from streamserve.registry.references import FolderReferences

    reference = FolderReferences(settings.model.repository).find(model, version)
    if reference is None:
        raise ModelNotFound(
            f"{model} version {version} has no reference to compare with; make one with streamserve drift baseline",
            model=model,
            version=version,
        )
    return reference


def _check_segment(segment: str, segments: Segments, reference: Reference) -> None:
    if not segment:
        return
    names = [name for name in segments.names if name]
    if segment not in names:
        there = f"there are {', '.join(names)}" if names else "drift.segments names none"
        raise ConfigError(f"no segment {segment!r}: {there}")
    if reference.segment(segment) is None:
        raise ContractError(f"the reference was made without the segment {segment}; make it anew: drift baseline")


def _length(wanted: Range, drift: DriftSettings) -> float | None:
    """Seconds asked for; None where an end is open or only offsets are given."""
    if wanted.since_ms is None or wanted.until_ms is None:
        return None
    return max((wanted.until_ms - wanted.since_ms) / 1000, drift.pane_s)


def _nothing(tally: Tally, topic: str, version: str) -> str:
    others = ", ".join(f"{name} ({rows:,} rows)" for name, rows in sorted(tally.others.items()))
    return f"{topic} holds no samples of version {version} in this range" + (f"; of others: {others}" if others else "")


def _notes(tally: Tally, reference: Reference) -> Iterator[str]:
    if tally.twice:
        yield f"{tally.twice:,} rows stood there twice and count once"
    if tally.broken:
        yield f"{tally.broken:,} records are no sample chunks"
    others = {name: rows for name, rows in tally.references.items() if name and name != reference.hash and rows}
    if others:
        yield f"{sum(others.values()):,} rows were sampled while another reference stood beside the model"


def again(found: RangeReport, wanted: Range, config: Path, overrides: dict[str, str]) -> str:
    """The command that makes the same report again, whatever comes later: the range in source offsets.

    How to reach the services is left out: a report is sent round, and secrets may be among it.
    """
    words = ["streamserve", "drift", "report", "-c", str(config), "--model-version", found.version]
    for key, value in overrides.items():
        if key != "model.version" and not key.startswith(PRIVATE):
            words += ["--set", f"{key}={value}"]
    for option, moment in (("--since", wanted.since_ms), ("--until", wanted.until_ms)):
        words += [option, str(moment)] if moment is not None else []
    for topic, partitions in found.span.items():
        for partition, (first, end) in partitions.items():
            words += ["--offsets", f"{topic}:{partition}:{first}-{end}"]
    return shlex.join([*words, "--segment", found.segment] if found.segment else words)


def _write(path: Path, found: RangeReport, command: str) -> None:
    from streamserve.drift.report.page import page

    try:
        path.write_text(page(found, command, int(time.time() * 1000)), encoding="utf-8")
    except OSError as error:
        raise StreamServeError(f"{path} cannot be written: {error.strerror or error}") from error
    say(f"{path} written")


def _print(found: RangeReport, command: str, top: int) -> None:
    from streamserve.cli.record_text import printable, stamp
    from streamserve.drift.report.page import number, probability, sentence

    rows = f"{found.rows:,} rows" + (f" standing for {found.weight:,}" if found.weight != found.rows else "")
    show(f"{found.model} version {found.version}, {printable(found.segment) or 'all rows'}: {rows}")
    show(f"event time  {stamp(found.first_ms)} to {stamp(found.last_ms)}")
    provisional = " (provisional)" if found.provisional else ""
    source = printable(found.reference_source)
    show(f"reference   {found.reference}{provisional}: {found.reference_rows:,} rows from {source}")
    show(f"verdict     {printable(sentence(found))}", style="bold red" if found.drifted else "bold")
    show("")
    head = ("COLUMN", "DRIFTED", "EFFECT", "FLOOR", "OF", "P", "PSI", "JS", "KS", "MISSING", "BEFORE", "ROWS")
    lines = [
        (
            printable(column.name),
            column.finding,
            number(column.effect),
            number(column.floor),
            column.effect_kind,
            probability(column.p),
            number(column.psi),
            number(column.js),
            number(column.ks) if column.kind == "numeric" else "",
            f"{column.missing:.2%}",
            f"{column.missing_reference:.2%}",
            f"{column.values:,}",
        )
        for column in found.columns[:top]
    ]
    show_table(head, lines)
    if len(found.columns) > top:
        show(f"... and {len(found.columns) - top} more (--top)")
    for stage, reason, feature, count in found.rejects[:5]:
        show(f"{count:,} records rejected: {reason} {printable(feature)} ({stage})".replace("  ", " "))
    if found.varies_unknown:
        say("the reference cannot tell how much the stream varies, so nothing is found to drift", "yellow")
    for note in found.notes:
        say(note)
    say(f"again: {command}")
