"""`streamserve demo`: a whole pipeline on this machine, watched live, ended with the figures."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from streamserve.cli.console import emit_json, say, stderr, stdout
from streamserve.cli.interrupts import Interrupted, Interrupts
from streamserve.cli.options import Format, FormatOption
from streamserve.demo.backing import BrokerChoice
from streamserve.demo.injection import Fault, Injection
from streamserve.worker.switching import CALM_S

if TYPE_CHECKING:
    from rich.console import Console

    from streamserve.demo.play import Demo, DemoOptions
    from streamserve.demo.summary import Summary

INTERRUPTED_IN_SET_UP = 130

_INJECT_HELP = f"Let the data go wrong from then on (default: 15 s or half way): {', '.join(Fault)}. May be repeated."


def command(
    seconds: Annotated[
        float | None, typer.Option(min=0.1, help="Replay for so long. Default: to the end of the data, or Ctrl-C.")
    ] = None,
    events: Annotated[int | None, typer.Option(min=1, help="Replay so many events, bad ones included.")] = None,
    rate: Annotated[float, typer.Option(min=0.1, help="Events a second.")] = 2000.0,
    broker: Annotated[
        BrokerChoice,
        typer.Option(help="auto: real Kafka if Java and its jars can be had, else the embedded one."),
    ] = BrokerChoice.AUTO,
    workers: Annotated[int, typer.Option(min=1, max=16, help="Worker processes.")] = 1,
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65_000, help="HTTP port of the first worker; default 8080 or a free one."),
    ] = None,
    inject: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[@SECONDS]", help=_INJECT_HELP),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Afterwards keep broker, cache and dashboard until Ctrl-C, to look around.")
    ] = False,
    format: FormatOption = Format.TEXT,
) -> None:
    """Run a whole pipeline on this machine: broker, cache, workers, drift sidecar and a year of flights.

    Real Kafka and Redis on loopback where they can be had. Will a flight that leaves New York now arrive late? The
    departures are replayed in order, with a few bad events among them, and the arrivals as labels when they land;
    without --seconds or --events until the data is at its end or Ctrl-C. Ends with 0 if nothing was lost or duplicated,
    else 1.
    """
    from streamserve.demo.play import DemoOptions
    from streamserve.demo.replay import Pace

    sys.setswitchinterval(CALM_S)  # a reader that waits 5 ms for the thread that draws would measure that as latency
    pace = Pace(rate=rate, events=events, seconds=seconds)
    options = DemoOptions(pace=pace, broker=broker, workers=workers, port=port, injections=_injections(inject or []))
    raise typer.Exit(_run(options, format, keep=keep))


def _injections(texts: list[str]) -> tuple[Injection, ...]:
    try:
        return tuple(Injection.parse(text) for text in texts)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--inject") from error


def _run(options: DemoOptions, format: Format, *, keep: bool) -> int:
    """Set up, play, show. Returns: the exit code."""
    from streamserve.demo.play import Demo, Stage
    from streamserve.demo.screen import screen

    console = stderr()
    with Interrupts() as interrupts:
        stage = Stage(
            step=lambda title: _step(console, title),
            note=lambda text: say(text, "yellow"),
            screen=lambda header: screen(console, header),
            stopped=interrupts,
            breaking=interrupts.breaking,
        )
        with Demo(options, stage) as demo:
            try:
                demo.set_up()
            except Interrupted:
                say("stopped before anything was sent")
                return INTERRUPTED_IN_SET_UP
            summary = demo.play()
            _show(summary, format)
            _look_next(demo, keep=keep)
            if keep:
                _wait(interrupts)
    return 0 if summary.kept else 1


@contextlib.contextmanager
def _step(console: Console, title: str) -> Iterator[None]:
    """`title … 2.9 s` in one line; on a terminal the title is there while it goes on."""
    began_s = time.monotonic()
    if console.is_terminal:
        console.print(f"{title} … ", end="", markup=False)
    try:
        yield
    except BaseException:
        if console.is_terminal:
            console.print()
        raise
    took = f"{time.monotonic() - began_s:.1f} s"
    console.print(took if console.is_terminal else f"{title} … {took}", markup=False)


def _show(summary: Summary, format: Format) -> None:
    if format is Format.JSON:
        emit_json(summary.document())
        return
    from rich.table import Table

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column(justify="right")
    table.add_column(style="dim")
    for name, figure, remark in summary.rows():
        wrong = (name == "lost" and summary.lost) or (
            name == "duplicated" and summary.duplicated and summary.exactly_once
        )
        table.add_row(name, f"[bold red]{figure}[/]" if wrong else figure, remark)
    console = stdout()
    console.print()
    console.print(table)


def _look_next(demo: Demo, *, keep: bool) -> None:
    from streamserve.demo.flights import ROOT

    say("")
    say(f"the workers' log  {demo.workers.log}")
    if demo.sidecar is not None:
        say(f"the sidecar's log {demo.sidecar.log}")
    if not keep:
        say("look around       again with --keep: streamserve tail, streamserve dlq ls")
        say("your own model    streamserve init --help")
        return
    if demo.sidecar is not None:
        say(f"dashboard         {demo.sidecar.dashboard}")
    say("broker and cache go on until Ctrl-C; in another terminal:")
    say(f"  export KAFKA_BOOTSTRAP={demo.backing.bootstrap} REDIS_URL={demo.backing.redis_url}")
    say(f"  cd {ROOT}")
    flight = demo.newest_flight
    say("  streamserve tail              the newest predictions")
    say("  streamserve dlq ls            the dead letters by reason")
    say(f"  streamserve cache get {flight:<8}what the cache knows of a flight")


def _wait(interrupts: Interrupts) -> None:
    while not interrupts():
        time.sleep(0.2)
