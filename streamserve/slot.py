"""The process of one worker slot: `python -m streamserve.slot`, started by the supervisor of `streamserve run`.

Owns what belongs to a process: signals, the collector's thresholds, the exit code. SIGTERM or SIGINT drains; a
second one ends at once with 143 or 130.
"""

from __future__ import annotations

import argparse
import gc
import os
import signal
import sys
from collections.abc import Sequence

from streamserve.errors import EngineError, StreamServeError, TooManyRejects
from streamserve.telemetry.logs import Log
from streamserve.worker.quarantine import DEVICE_FAULT_EXIT_CODE
from streamserve.worker.supervisor import EXIT_STOP_ALL

GC_THRESHOLDS = (50_000, 20, 50)
"""A batch makes thousands of short-lived objects and no cycles; the default would look through them many times."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a slot. Returns: the exit code."""
    parser = argparse.ArgumentParser(prog="streamserve.slot")
    parser.add_argument("--config", required=True)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--slot-index", type=int, default=0)
    parser.add_argument("--slot-name", required=True)
    parser.add_argument("--verbosity", type=int, default=0)
    options = parser.parse_args(arguments)
    log = Log.open(verbosity=options.verbosity).bind(slot=options.slot_name)
    overrides = dict(pair.split("=", 1) for pair in options.set)
    try:
        from streamserve.app import Slot
        from streamserve.config.loading import load

        slot = Slot(load(options.config, overrides).settings, options.slot_name, options.slot_index, log)
        _on_signals(slot)
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        slot.run()
    except StreamServeError as error:
        log.error("slot_failed", error=str(error))
        return _leave(_exit_code(error))
    except Exception as error:
        log.failure("slot_failed", error)
        return _leave(1)
    return _leave(0)


def _exit_code(error: StreamServeError) -> int:
    """What the supervisor is told; two codes are between the two alone."""
    if isinstance(error, TooManyRejects):
        return EXIT_STOP_ALL
    if isinstance(error, EngineError) and error.retryable:
        return DEVICE_FAULT_EXIT_CODE
    return error.exit_code


def _on_signals(slot: object) -> None:
    asked = False

    def handle(number: int, _frame: object) -> None:
        nonlocal asked
        if asked:
            os._exit(128 + number)
        asked = True
        slot.stop()  # type: ignore[attr-defined]

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)


def _leave(code: int) -> int:
    """End now: client threads that hang in a close must not keep the process."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
