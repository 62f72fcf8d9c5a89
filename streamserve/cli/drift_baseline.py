"""`streamserve drift baseline`: what a model's features and outputs look like when all is well, as `reference.json`.

Rows come from a file, from an event topic, or from the pipeline's samples. The first two hold events alone, so the
model is run over them here, by the worker's own stages.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import orjson
import typer

from streamserve.cli.console import emit_json, say
from streamserve.cli.drift_range import Range, SinceOption, UntilOption, parse_range
from streamserve.cli.interrupts import Interrupts
from streamserve.cli.options import DEFAULT_CONFIG, ConfigOption, Format, FormatOption, SetOption, parse_set
from streamserve.config.loading import load
from streamserve.errors import ContractError, SourceError

if TYPE_CHECKING:
    from streamserve.batch import I64
    from streamserve.cli.drift_labels import Judged
    from streamserve.cli.drift_rows import RowStore
    from streamserve.cli.drift_scoring import ScoredRows
    from streamserve.config.drift_settings import DriftSettings
    from streamserve.config.settings import PipelineSettings
    from streamserve.drift.reference import Reference
    from streamserve.ports import ModelFiles

SAMPLES = "samples"
ROWS_A_PANE = 100
"""Rows that count as one pane where nothing tells their time."""
PROGRESS_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the options ask for."""

    source: str
    label: str | None
    rows: int
    importance: Mapping[str, float]
    categorical: frozenset[str]
    wanted: Range


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathering:
    """Rows, and what was left out of them.

    Attributes:
        rows: by event time ascending.
        source: where they are from, for people.
        timed: whether they have times of their own.
        seen: how many there were in the range before the limit.
        rejects: stage, reason, feature -> rows left out.
        notes: what else is worth knowing.
    """

    rows: ScoredRows
    source: str
    timed: bool
    seen: int
    rejects: Mapping[tuple[str, str, str], int]
    notes: list[str] = field(default_factory=list)


def baseline(
    from_: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="FILE|samples|TOPIC",
            help="Rows: a file (CSV, JSON lines, NPZ, parquet), the pipeline's samples, or a topic with its events.",
        ),
    ],
    config: ConfigOption = DEFAULT_CONFIG,
    set_: SetOption = None,
    model_version: Annotated[
        str | None, typer.Option(help="latest, a number, or an alias. Default: the configuration's.")
    ] = None,
    label: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column of a file with what came true: calibrates the scores.")
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="At most so many, the newest by event time.")] = 1_000_000,
    since: SinceOption = None,
    until: UntilOption = None,
    importance: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json", help="Column -> how much it matters to the model.", exists=True, dir_okay=False
        ),
    ] = None,
    categorical: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="Take this column of numbers as categories. Repeatable."),
    ] = None,
    format: FormatOption = Format.TEXT,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would be; write nothing.")] = False,
) -> None:
    """Make the reference that drift is measured against, beside the model version."""
    overrides = parse_set(set_)
    if model_version is not None:
        overrides["model.version"] = model_version
    settings = load(config, overrides).settings
    from streamserve.cli.drift_baseline_text import document, summary
    from streamserve.composition.models import resolve_model
    from streamserve.registry.references import FolderReferences

    wish = Wish(
        source=from_,
        label=label,
        rows=rows,
        importance=read_importance(importance),
        categorical=frozenset(categorical or ()),
        wanted=parse_range(since, until),
    )
    files = resolve_model(settings)
    with Interrupts() as stop:
        gathering = gather(settings, files, wish, stop)
        if stop():
            raise SourceError("interrupted: no reference was made")
    reference, judged, warnings = make(settings, files, wish, gathering)
    path = None if dry_run else FolderReferences(settings.model.repository).write(reference)
    if format is Format.JSON:
        emit_json(document(reference, gathering, judged, warnings, path))
        return
    summary(reference, gathering, judged, path)
    for warning in warnings:
        say(f"warning: {warning}", "yellow")


def gather(settings: PipelineSettings, files: ModelFiles, wish: Wish, stop: Callable[[], bool]) -> Gathering:
    """Read the rows. Raises: StreamServeError."""
    from streamserve.cli.drift_files import SUFFIXES
    from streamserve.cli.drift_rows import RowStore
    from streamserve.config.drift_topics import drift_topics

    store = RowStore(wish.rows)
    path = Path(wish.source)
    is_file = path.is_file() or path.suffix.lower() in SUFFIXES
    if wish.label is not None and not is_file:
        raise typer.BadParameter("needs a file: topics hold no labels beside their events", param_hint="--label")
    if is_file:
        return _events(settings, files, wish, store, path, stop)
    if wish.source in {SAMPLES, drift_topics(settings).samples}:
        return _samples(settings, files, wish, store, stop)
    return _events(settings, files, wish, store, None, stop)


def _events(
    settings: PipelineSettings,
    files: ModelFiles,
    wish: Wish,
    store: RowStore,
    path: Path | None,
    stop: Callable[[], bool],
) -> Gathering:
    """From a file, or from an event topic: scored here."""
    from streamserve.cli.drift_events import topic_parts
    from streamserve.cli.drift_files import file_parts
    from streamserve.cli.drift_scoring import UNTIMED, Scorer, personal_of

    timed, at, progress = True, 0, _Progress()
    pane_ms = _drift(settings).pane_s * 1000
    with Scorer(settings, files, personal_of(settings)) as scorer:
        parts = (
            topic_parts(settings, wish.source, wish.wanted, stop)
            if path is None
            else file_parts(path, settings, wish.label)
        )
        for part in parts:
            if stop():
                break
            for rows in scorer.score(part):
                timed = timed and not (rows.event_time_ms == UNTIMED).all()
                if timed:
                    store.add(rows.take(wish.wanted.holds(rows.event_time_ms)))
                else:
                    store.add(rows.at(((at + np.arange(len(rows))) * pane_ms / ROWS_A_PANE).astype(np.int64)))
                at += len(rows)
            progress.note(store.seen)
    if not timed and (wish.wanted.since_ms is not None or wish.wanted.until_ms is not None):
        raise ContractError(f"{wish.source} has no event times (input.event_time), which --since and --until choose by")
    source = f"the topic {wish.source}" if path is None else path.name
    return Gathering(rows=store.all(), source=source, timed=timed, seen=store.seen, rejects=scorer.rejects)


def _samples(
    settings: PipelineSettings, files: ModelFiles, wish: Wish, store: RowStore, stop: Callable[[], bool]
) -> Gathering:
    """From the samples topic: features and outputs as the workers saw them."""
    from streamserve.cli.drift_samples import Samples, row_draws
    from streamserve.cli.drift_scoring import ScoredRows

    samples, progress = Samples(settings, files.name, files.version, wish.wanted), _Progress()
    for rows in samples.parts(stop):
        store.add(
            ScoredRows(
                columns=rows.columns,
                event_time_ms=rows.event_time_ms,
                level=int(rows.level.max()),
                draws=row_draws(rows),
            )
        )
        progress.note(store.seen)
    tally = samples.tally
    notes = [f"{rows:,} rows are of version {version}" for version, rows in sorted(tally.others.items()) if rows]
    if tally.broken:
        notes.append(f"{tally.broken:,} records of {samples.topic} are no sample chunks")
    source = f"the topic {samples.topic}"
    return Gathering(rows=store.all(), source=source, timed=True, seen=store.seen, rejects=tally.rejects, notes=notes)


def make(
    settings: PipelineSettings, files: ModelFiles, wish: Wish, gathering: Gathering
) -> tuple[Reference, Judged | None, list[str]]:
    """The reference of the rows, what labels told, and what a person should know. Raises: ContractError."""
    from streamserve.cli.drift_labels import judge
    from streamserve.drift.baseline import BaselineOptions, build, error_inflation
    from streamserve.drift.cells import derived

    rows, drift = gathering.rows, _drift(settings)
    if not len(rows):
        left = f"; {sum(gathering.rejects.values()):,} were rejected" if gathering.rejects else ""
        raise ContractError(f"{gathering.source} holds no rows of {files.name} {files.version} in this range{left}")
    columns = derived(rows.columns, drift.labels)
    judged = judge(columns, rows.labels, drift.labels) if wish.label is not None else None
    _check_names(columns, wish)
    inflation = 1.0
    if judged is not None:
        times = rows.event_time_ms[judged.known]
        inflation = error_inflation(judged.errors, times, pane_s=drift.pane_s, window_s=max(drift.windows_s))
    reference = build(
        columns,
        rows.event_time_ms,
        BaselineOptions(
            model=files.name,
            version=files.version,
            pane_s=drift.pane_s,
            created_ms=int(time.time() * 1000),
            source=gathering.source,
            categorical=wish.categorical,
            importance=wish.importance,
            calibration=judged.calibration if judged else None,
            performance=judged.performance if judged else {},
            segments=drift.segments,
            error_inflation=inflation,
            derived_by=drift.labels,
        ),
    )
    return reference, judged, _warnings(reference, gathering, judged, panes(rows.event_time_ms, drift.pane_s), wish)


def _check_names(columns: Mapping[str, object], wish: Wish) -> None:
    from streamserve.drift.cells import watched

    if unknown := sorted(wish.categorical - set(columns)):
        raise ContractError(f"no column {', '.join(unknown)} (--categorical); there are {', '.join(columns)}")
    names = {column.name for column in watched(columns)}  # type: ignore[arg-type]  # sampled columns
    if unknown := sorted(set(wish.importance) - names):
        raise ContractError(f"no column {', '.join(unknown)} (--importance)")


def _warnings(
    reference: Reference, gathering: Gathering, judged: Judged | None, pane_count: int, wish: Wish
) -> list[str]:
    """What makes a reference worth less."""
    from streamserve.drift.baseline import MIN_PANES

    found = list(gathering.notes)
    if reference.rows < LEAST_ROWS:
        found.append(f"{reference.rows:,} rows are few; small shifts need {LEAST_ROWS:,} and more")
    if gathering.timed and pane_count < MIN_PANES:
        found.append(
            f"the rows span {pane_count} panes; with fewer than {MIN_PANES} it is unknown how much the stream varies,"
            " and tests stay silent longer"
        )
    if not gathering.timed:
        found.append(
            f"the rows have no event time: {ROWS_A_PANE} rows in their order count as one pane, so give them in the"
            " order in which they came"
        )
    constant = [column.name for column in reference.columns if _is_constant(column.counts)]
    if constant:
        found.append(f"constant: {', '.join(constant)}")
    if judged is not None and judged.unusable:
        found.append(f"{judged.unusable:,} labels are none")
    if gathering.seen > wish.rows:
        found.append(f"{gathering.seen:,} rows lie in the range; the newest {reference.rows:,} were taken (--rows)")
    return found


LEAST_ROWS = 5000


def _is_constant(counts: list[int]) -> bool:
    return sum(count > 0 for count in counts) <= 1


def panes(event_time_ms: I64, pane_s: float) -> int:
    """How many panes hold any row."""
    return len(np.unique(event_time_ms // round(pane_s * 1000)))


def read_importance(path: Path | None) -> dict[str, float]:
    """Column -> share of the model's attention, scaled to a sum of 1. Raises: ContractError."""
    if path is None:
        return {}
    try:
        values = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise ContractError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(values, dict) or not values or not all(_is_weight(value) for value in values.values()):
        raise ContractError(f"{path} must hold an object: column -> a number from 0 on")
    total = float(sum(values.values()))
    if total <= 0:
        raise ContractError(f"{path} gives no column any importance")
    return {str(name): float(value) / total for name, value in values.items()}


def _is_weight(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")


def _drift(settings: PipelineSettings) -> DriftSettings:
    from streamserve.config.drift_settings import DriftSettings

    return settings.drift or DriftSettings()


class _Progress:
    """Says every few seconds how far it is, on stderr."""

    def __init__(self) -> None:
        self._said_s = time.monotonic()

    def note(self, rows: int) -> None:
        now_s = time.monotonic()
        if now_s - self._said_s >= PROGRESS_S:
            self._said_s = now_s
            say(f"{rows:,} rows read")
