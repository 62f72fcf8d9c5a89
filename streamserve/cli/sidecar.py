"""`streamserve sidecar`: the drift monitor and its dashboard, one process.

Checks the configuration, then runs until SIGTERM or Ctrl-C; a second signal ends at once with 143 or 130. Ends with 1
when it cannot go on, so that a supervisor starts it again: nothing is lost and nothing is told twice.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import sys
from typing import TYPE_CHECKING

from streamserve.cli import verbosity
from streamserve.cli.console import say
from streamserve.cli.options import DEFAULT_CONFIG, ConfigOption, SetOption, parse_set
from streamserve.config.lint import check
from streamserve.config.loading import LoadedConfig, load
from streamserve.errors import ConfigError, StreamServeError
from streamserve.telemetry.logs import Log

if TYPE_CHECKING:
    from streamserve.sidecar.contracts import MonitorFactory

EXTRA = ("faust", "aiohttp", "aiokafka")


def command(config: ConfigOption = DEFAULT_CONFIG, set_: SetOption = None) -> None:
    """Watch a pipeline's samples for drift, tell of incidents, and serve the dashboard, until stopped."""
    loaded = load(config, parse_set(set_))
    if loaded.settings.drift is None:
        raise ConfigError([loaded.problem(("drift",), "missing, so there is nothing to watch", "add `drift: {}`")])
    if missing := [name for name in EXTRA if importlib.util.find_spec(name) is None]:
        raise ConfigError(f'the sidecar needs {", ".join(missing)}: pip install "streamserve[sidecar]"')
    for issue in check(loaded):
        say(str(issue))
    from streamserve.drift.monitor import Monitor

    serve(loaded, Monitor)


def serve(loaded: LoadedConfig, make_monitor: MonitorFactory) -> None:
    """Run the service, and end the process with its exit code.

    Raises:
        StreamServeError: before it has started.
    """
    asyncio.run(_serve_and_end(loaded, make_monitor, Log.open(verbosity=verbosity())))


async def _serve_and_end(loaded: LoadedConfig, make_monitor: MonitorFactory, log: Log) -> None:
    """End here, not after the event loop has waited for its threads: a client may hang in its close."""
    code = await _serve(loaded, make_monitor, log)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


async def _serve(loaded: LoadedConfig, make_monitor: MonitorFactory, log: Log) -> int:
    from streamserve.sidecar.service import Sidecar

    sidecar = Sidecar(loaded.settings, make_monitor, log, end=lambda: os._exit(1))
    started = False

    def opened(address: str) -> None:
        nonlocal started
        started = True
        say(f"dashboard: {address}")

    asked = False

    def stop(number: int) -> None:
        nonlocal asked
        if asked:
            os._exit(128 + number)
        asked = True
        sidecar.stop()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, int(number))
    try:
        await sidecar.run(opened)
    except StreamServeError as error:
        if not started:
            raise
        log.error("sidecar_failed", error=str(error))
        return error.exit_code
    except Exception as error:
        log.failure("sidecar_failed", error)
        return 1
    log.info("sidecar_stopped")
    return 0
