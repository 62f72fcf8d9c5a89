"""`streamserve run`: the workers of a pipeline, supervised.

Checks the configuration once, then starts one process a slot (`streamserve.slot`) and keeps them running.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Annotated

import typer

from streamserve.cli import verbosity
from streamserve.cli.console import say
from streamserve.cli.options import DEFAULT_CONFIG, ConfigOption, SetOption, parse_set
from streamserve.clock import SystemClock
from streamserve.config.lint import check
from streamserve.config.loading import load
from streamserve.telemetry.logs import Log
from streamserve.worker.supervisor import SlotName, Supervisor, SupervisorSettings, slot_names


def command(
    config: ConfigOption = DEFAULT_CONFIG,
    set_: SetOption = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Worker processes; default the `workers` key.")
    ] = None,
    slot: Annotated[
        str | None,
        typer.Option("--slot", help="Base of the slots' names, unique among live workers; default the host's name."),
    ] = None,
    drain_timeout: Annotated[
        float | None,
        typer.Option("--drain-timeout", min=0.1, help="Seconds a stop may take to finish what is in flight."),
    ] = None,
) -> None:
    """Run the workers of a pipeline until they are stopped (SIGTERM or Ctrl-C drains)."""
    overrides = parse_set(set_)
    if drain_timeout is not None:
        overrides["delivery.drain_timeout_s"] = str(drain_timeout)
    loaded = load(config, overrides)
    for issue in check(loaded):
        say(str(issue))
    settings = loaded.settings
    supervisor = Supervisor(
        lambda name: slot_command(config, overrides, name),
        slot_names(slot, workers or settings.workers),
        settings=SupervisorSettings(drain_timeout_s=settings.delivery.drain_timeout_s),
        log=Log.open(verbosity=verbosity()),
        clock=SystemClock(),
        rng=random.Random(),  # noqa: S311  jitter
    )
    raise typer.Exit(supervisor.run())


def slot_command(config: Path, overrides: dict[str, str], name: SlotName) -> list[str]:
    """The command line of a slot's process."""
    command = [sys.executable, "-m", "streamserve.slot", "--config", str(config)]
    for key, value in overrides.items():
        command += ["--set", f"{key}={value}"]
    return [*command, "--slot-index", str(name.index), "--slot-name", name.name, "--verbosity", str(verbosity())]
