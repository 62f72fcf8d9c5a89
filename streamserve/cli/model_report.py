"""`streamserve model report`: the arms of an experiment, or a canary and the stable version, by their labels."""

from __future__ import annotations

from math import isfinite
from typing import Annotated

import typer

from streamserve.cli.console import emit_json, say, show, show_table
from streamserve.cli.drift_range import SinceOption, parse_range
from streamserve.cli.experiment_outcomes import LESS_IS_BETTER, METRICS, STABLE, Joiner, Metric, Outcomes
from streamserve.cli.interrupts import Interrupts
from streamserve.cli.model_check import rollout_log
from streamserve.cli.options import DEFAULT_CONFIG, ConfigOption, Format, FormatOption, SetOption, parse_set
from streamserve.config.loading import load
from streamserve.config.settings import PipelineSettings
from streamserve.rollout.experiment import Difference, compare
from streamserve.rollout.log import RolloutLog
from streamserve.rollout.records import Canary, Experiment

CLOCKS_MS = 60_000
"""Clocks of whoever gives commands and of producers differ by less."""
WORDS = {
    "better": "better",
    "worse": "worse",
    "no difference": "no difference that matters",
    "go on": "not decided: the interval holds zero",
    "too few": "too few labels yet",
}


def report(
    experiment: Annotated[
        str, typer.Argument(help="Name of the experiment. Default: the canary against the stable version.")
    ] = "",
    config: ConfigOption = DEFAULT_CONFIG,
    set_: SetOption = None,
    since: SinceOption = None,
    metric: Annotated[
        str | None, typer.Option(help=f"{', '.join(METRICS)}. Default accuracy; for a regression absolute_error.")
    ] = None,
    control: Annotated[
        str | None, typer.Option(help="The arm the others are held against. Default: stable, or the first arm.")
    ] = None,
    alpha: Annotated[float, typer.Option(min=1e-6, max=0.5, help="Chance that any look misses.")] = 0.05,
    expect: Annotated[int, typer.Option(min=200, help="Labels at which the interval is to be narrowest.")] = 5000,
    indifference: Annotated[float, typer.Option(min=0, help="A difference within this is none.")] = 0.0,
    format: FormatOption = Format.TEXT,
) -> None:
    """Compare arms by labels, with an interval that holds however often you look."""
    if metric is not None and metric not in METRICS:
        raise typer.BadParameter(f"{metric!r} is none of {', '.join(METRICS)}", param_hint="--metric")
    settings = load(config, parse_set(set_)).settings
    begun_ms, versions = _begun(settings, experiment)
    joiner = Joiner(settings, experiment, metric, versions)  # type: ignore[arg-type]  # held against METRICS above
    start_ms = parse_range(since, None).since_ms if since is not None else begun_ms
    with Interrupts() as stop:
        outcomes = joiner.run("beginning" if start_ms is None else start_ms, stop)
    what = f"experiment {experiment}" if experiment else "canary"
    if len(outcomes.arms) < 2:
        found = f"only of {', '.join(outcomes.arms)}" if outcomes.arms else "none"
        say(f"nothing to compare: predictions of the {what} were looked for, and {found} found", "red")
        raise typer.Exit(3)
    first = control or next((name for name in [*versions, STABLE] if name in outcomes.arms), min(outcomes.arms))
    if first not in outcomes.arms:
        raise typer.BadParameter(f"{first!r} is none of {', '.join(outcomes.arms)}", param_hint="--control")
    differences = {
        name: compare(
            outcomes.arms[first],
            arm,
            alpha=alpha,
            expected_rows=expect,
            indifference=indifference,
            more_is_better=joiner.metric not in LESS_IS_BETTER,
        )
        for name, arm in sorted(outcomes.arms.items())
        if name != first
    }
    if format is Format.JSON:
        emit_json(_document(what, joiner.metric, first, outcomes, differences))
        return
    _print(what, joiner.metric, first, outcomes, differences, alpha)


def _begun(settings: PipelineSettings, experiment: str) -> tuple[int | None, dict[str, str]]:
    """When the newest canary or experiment of that name began, with which versions; nothing where nobody knows."""
    if settings.rollout is None:
        return None, {}
    return begun(rollout_log(settings), experiment)


def begun(log: RolloutLog, experiment: str) -> tuple[int | None, dict[str, str]]:
    """The same, of a log."""
    for given in reversed([given for given in log.history if not given.refused]):
        command = given.command
        if experiment and isinstance(command, Experiment) and command.name == experiment:
            return command.at_ms - CLOCKS_MS, {arm.name: arm.version for arm in command.arms}
        if not experiment and isinstance(command, Canary):
            return _canary_since(log, command.version)
    return None, {}


def _canary_since(log: RolloutLog, version: str) -> tuple[int, dict[str, str]]:
    """The first of the newest row of canary commands for the version: a weight that is raised goes on with the same."""
    begun_ms, stable = 0, ""
    for given in reversed([given for given in log.history if not given.refused]):
        if not isinstance(given.command, Canary):
            if begun_ms:
                break
            continue
        if given.command.version != version:
            break
        begun_ms, stable = given.command.at_ms, log.state_at(given.offset).stable or ""
    return begun_ms - CLOCKS_MS, {"stable": stable, "canary": version}


def _document(
    what: str, metric: Metric, control: str, outcomes: Outcomes, differences: dict[str, Difference]
) -> dict[str, object]:
    def bound(value: float) -> float | None:
        return value if isfinite(value) else None

    return {
        "what": what,
        "metric": metric,
        "control": control,
        "arms": {
            name: {
                "version": outcomes.versions[name],
                "predictions": outcomes.predictions[name],
                "labels": arm.rows,
                "mean": bound(arm.mean),
            }
            for name, arm in sorted(outcomes.arms.items())
        },
        "differences": {
            name: {
                "estimate": bound(found.estimate),
                "low": bound(found.low),
                "high": bound(found.high),
                "verdict": found.verdict,
            }
            for name, found in differences.items()
        },
        "labels_without_prediction": outcomes.without_prediction,
        "labels_malformed": outcomes.malformed,
    }


def _print(
    what: str,
    metric: Metric,
    control: str,
    outcomes: Outcomes,
    differences: dict[str, Difference],
    alpha: float,
) -> None:
    rows = []
    for name in [control, *differences]:
        arm = outcomes.arms[name]
        found = differences.get(name)
        difference = "" if found is None or not isfinite(found.estimate) else f"{found.estimate:+.4g}"
        interval = "" if found is None else f"{found.low:+.4g} to {found.high:+.4g}"
        rows.append(
            (
                name + (" (control)" if name == control else ""),
                outcomes.versions[name],
                f"{outcomes.predictions[name]:,}",
                f"{arm.rows:,}",
                f"{arm.mean:.4g}" if arm.rows else "",
                difference,
                interval if found is None or isfinite(found.low) else "",
                "" if found is None else WORDS[found.verdict],
            )
        )
    show(f"{what}: {metric}")
    show_table(
        ("arm", "version", "predictions", "labels", "mean", "difference", f"{1 - alpha:.0%} at every look", "verdict"),
        rows,
    )
    if outcomes.malformed or outcomes.without_prediction:
        say(
            f"{outcomes.without_prediction:,} labels of ids that no arm predicted, {outcomes.malformed:,} labels that"
            " are none"
        )
