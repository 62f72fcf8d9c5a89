"""`streamserve retrain`: trains when the drift monitor or a schedule asks for it, checks, and rolls out.

Runs until SIGTERM or Ctrl-C, and deals with one request at a time; several runners share the requests. With `--once` it
deals with one request of its own making and ends, with 3 when the new version was refused and 1 when there is none.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streamserve.cli import verbosity
from streamserve.cli.console import show
from streamserve.cli.drift_range import parse_range
from streamserve.cli.interrupts import Interrupts
from streamserve.cli.model_check import stable_version
from streamserve.cli.options import DEFAULT_CONFIG, ConfigOption, SetOption, parse_set
from streamserve.cli.rollout_session import rollout_session
from streamserve.clock import SystemClock
from streamserve.composition.models import open_repository, resolve_model
from streamserve.config.loading import LoadedConfig, load
from streamserve.errors import ConfigError
from streamserve.telemetry.logs import Log

if TYPE_CHECKING:
    from streamserve.config.rollout_settings import RetrainLoopSettings
    from streamserve.config.settings import PipelineSettings
    from streamserve.retrain.loop import Retrained, Retrainer
    from streamserve.retrain.requests import Request, Requests

EXIT_CODES = {"failed": 1, "refused": 3}
LONGEST_WAIT_S = 1.0


def command(
    config: ConfigOption = DEFAULT_CONFIG,
    set_: SetOption = None,
    *,
    once: Annotated[bool, typer.Option("--once", help="Train now, once, whatever anybody asked for.")] = False,
    reason: Annotated[str, typer.Option(help="With --once: what the history says.")] = "asked for by hand",
    at: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="With --once: as if asked at this event time (ISO, epoch ms, -5m). Default now."
        ),
    ] = None,
) -> None:
    """Train when it is asked for, check the new version, and put it on canary."""
    loaded = load(config, parse_set(set_))
    settings = loaded.settings
    if settings.retrain is None:
        raise ConfigError([loaded.problem(("retrain",), "missing, so nobody knows how to train", "add `retrain:`")])
    if not once and settings.drift is None and settings.retrain.every_s is None:
        problem = loaded.problem(
            ("drift",), "missing, so nobody asks for a model", "add `drift: {}`, or retrain.every_s"
        )
        raise ConfigError([problem])
    with Interrupts() as stop:
        log = Log.open(verbosity=verbosity())
        retrainer = _retrainer(loaded, set_ or [], settings.retrain, stop, log)
        if once:
            _end(retrainer.handle(_own_request(settings, reason, parse_range(at, None).since_ms)))
        else:
            _serve(settings, settings.retrain, retrainer, stop, log)


def _retrainer(
    loaded: LoadedConfig, changes: list[str], retrain: RetrainLoopSettings, stop: Interrupts, log: Log
) -> Retrainer:
    from streamserve.retrain.check import check_apart
    from streamserve.retrain.loop import Retrainer

    settings = loaded.settings
    options = ["-c", str(loaded.path), *(word for change in changes for word in ("--set", change))]
    return Retrainer(
        retrain,
        model=settings.model.name,
        config_file=Path(loaded.path),
        repository=open_repository(settings),
        lock=Path(settings.model.repository) / f".retrain-{settings.model.name}.lock",
        stable=lambda: _resolved_stable(settings),
        check=lambda pushed, stable: check_apart(
            options,
            pushed.version,
            stable,
            rows=retrain.check.rows,
            max_difference=retrain.check.max_difference,
            stop=stop,
        ),
        rollouts=(lambda: rollout_session(loaded)) if settings.rollout is not None else None,
        stop=stop,
        clock=SystemClock(),
        log=log,
    )


def _resolved_stable(settings: PipelineSettings) -> str:
    """The number of the version that is stable now."""
    return resolve_model(settings, stable_version(settings)).version


def _serve(
    settings: PipelineSettings, retrain: RetrainLoopSettings, retrainer: Retrainer, stop: Interrupts, log: Log
) -> None:
    from streamserve.retrain.requests import Requests

    every_s = retrain.every_s
    due_s = time.monotonic() + every_s if every_s is not None else None
    with contextlib.ExitStack() as stack:
        requests: Requests | None = stack.enter_context(Requests(settings)) if settings.drift is not None else None
        log.info("waiting_for_requests", every_s=every_s)
        while not stop():
            request = _next(requests, stop)
            if request is None and due_s is not None and time.monotonic() >= due_s:
                request = _own_request(settings, "the schedule")
            if request is None:
                continue
            with requests.busy() if requests is not None else contextlib.nullcontext():
                retrainer.handle(request)
            if stop():
                return  # not settled: whoever runs next deals with it
            if requests is not None:
                requests.settled()
            due_s = time.monotonic() + every_s if every_s is not None else None


def _next(requests: Requests | None, stop: Interrupts) -> Request | None:
    if requests is not None:
        return requests.next(stop, LONGEST_WAIT_S)
    until_s = time.monotonic() + LONGEST_WAIT_S
    while not stop() and time.monotonic() < until_s:
        time.sleep(0.1)
    return None


def _own_request(settings: PipelineSettings, reason: str, at_ms: int | None = None) -> Request:
    from streamserve.retrain.requests import Request

    now_ms = int(time.time() * 1000)
    return Request(reason=reason, at_ms=now_ms if at_ms is None else at_ms, version=_resolved_stable(settings))


def _end(how: Retrained) -> None:
    show(f"{how.result}" + (f": version {how.version}" if how.version else "") + (f": {how.why}" if how.why else ""))
    code = EXIT_CODES.get(how.result, 0)
    if code:
        raise typer.Exit(code)
