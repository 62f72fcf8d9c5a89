"""`streamserve model check`: a version on recorded samples beside the one that serves, before it sees traffic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from streamserve.cli.console import emit_json, say, show, show_table
from streamserve.cli.interrupts import Interrupts
from streamserve.cli.options import DEFAULT_CONFIG, ConfigOption, Format, FormatOption, SetOption, parse_set
from streamserve.config.loading import load

if TYPE_CHECKING:
    from streamserve.composition.trial import Tried
    from streamserve.config.settings import PipelineSettings
    from streamserve.rollout.log import RolloutLog

NOT_MET = 3
ROWS = 2000
END_TIMEOUT_S = 30.0

RowsOption = Annotated[int, typer.Option("--rows", min=1, help="Newest sampled rows it is tried on.")]
DifferenceOption = Annotated[
    float | None, typer.Option(min=0, help="Largest mean absolute difference of an output. Default: any, only told.")
]


def check(
    version: Annotated[str, typer.Argument(help="latest, a number, or an alias.")],
    config: ConfigOption = DEFAULT_CONFIG,
    set_: SetOption = None,
    against: Annotated[
        str | None, typer.Option(metavar="VERSION", help="Beside which version. Default: the one that is stable.")
    ] = None,
    rows: RowsOption = ROWS,
    max_difference: DifferenceOption = None,
    format: FormatOption = Format.TEXT,
) -> None:
    """Try a version on recorded samples beside another; ends with 3 when something speaks against it."""
    settings = load(config, parse_set(set_)).settings
    if settings.drift is None:
        _check_fit(settings, version, format)
        return
    with Interrupts() as stop:
        tried = try_version(settings, version, against, rows=rows, stop=stop)
    problems = tried.problems(max_difference)
    if format is Format.JSON:
        emit_json(_document(tried, problems))
    else:
        print_tried(tried)
    for problem in problems:
        say(problem, "red")
    if problems:
        raise typer.Exit(NOT_MET)


def _check_fit(settings: PipelineSettings, version: str, format: Format) -> None:
    """Without recorded rows: load it as a worker would. Raises: whatever keeps it from serving."""
    number, told = _fit(settings, version)
    if format is Format.JSON:
        emit_json({"version": number, "against": None, "rows": 0, "outputs": [], "problems": []})
    else:
        show(told)


def _fit(settings: PipelineSettings, version: str) -> tuple[str, str]:
    """The number of a version that can be loaded, and the sentence that says so."""
    from streamserve.composition.trial import Bench

    number = Bench(settings).load(version).version
    return number, f"version {number} is fit to serve; without a `drift` block there are no recorded rows to try it on"


def require(settings: PipelineSettings, version: str) -> None:
    """Try a version beside the stable one before a command is given.

    Raises:
        typer.Exit: something speaks against it.
    """
    if settings.drift is None:
        say(_fit(settings, version)[1])
        return
    with Interrupts() as stop:
        tried = try_version(settings, version, None, rows=ROWS, stop=stop)
    difference = "" if tried.comparison is None else f", mean difference {tried.comparison.difference('mean'):.3g}"
    say(f"tried on {tried.rows:,} recorded rows beside version {tried.against}{difference}")
    problems = tried.problems(None)
    for problem in problems:
        say(problem, "red")
    if problems:
        raise typer.Exit(NOT_MET)


def try_version(settings: PipelineSettings, version: str, against: str | None, *, rows: int, stop: Interrupts) -> Tried:
    """A version beside another, or beside the stable one, on recorded samples."""
    from streamserve.composition.trial import Bench

    return Bench(settings).beside(version, against or stable_version(settings), rows=rows, stop=stop)


def stable_version(settings: PipelineSettings) -> str:
    """The version that is stable: what the rollout topic says, else what the configuration means."""
    stable = rollout_log(settings).state.stable if settings.rollout is not None else None
    return stable or str(settings.model.version)


def rollout_log(settings: PipelineSettings) -> RolloutLog:
    """What the rollout topic says. Raises: BrokerUnavailable, ContractError."""
    from streamserve.kafka.rollout_topic import RolloutReader
    from streamserve.rollout.log import RolloutLog

    log = RolloutLog()
    with RolloutReader(settings) as reader:
        for entry in reader.read_to_end(END_TIMEOUT_S):
            log.add(*entry)
    return log


def print_tried(tried: Tried) -> None:
    """For people."""
    show(f"version {tried.version} beside version {tried.against}, {tried.rows:,} recorded rows")
    if tried.comparison is not None:
        header, lines = tried.comparison.table()
        show_table(header, lines)


def _document(tried: Tried, problems: list[str]) -> dict[str, object]:
    return {
        "version": tried.version,
        "against": tried.against,
        "rows": tried.rows,
        "rejected_by_it_alone": len(tried.lost),
        "outputs": tried.comparison.document() if tried.comparison is not None else [],
        "problems": problems,
    }
