"""The process that outlives its parent by a moment, to end what the parent started.

Run as a file, not as a module, by `local_process.Watchdog`, so that it starts in milliseconds: standard
library only, nothing of the package. Reads lines from stdin: `guard <pid> <identity>` adds a process,
`release` drops all. When stdin ends it kills the guarded processes that are still the same ones, and removes
the folder given as its argument. It touches nothing else.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from pathlib import Path


def main(folder: str) -> None:
    """Read orders until the parent is gone, then clean up."""
    guarded: dict[int, str] = {}
    for line in sys.stdin:
        order, *rest = line.split()
        if order == "guard":
            guarded[int(rest[0])] = rest[1]
        elif order == "release":
            return
    for pid, known in guarded.items():
        if started(pid) == known.rpartition(":")[2]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while folder and Path(folder).exists() and time.monotonic() < deadline:
        shutil.rmtree(folder, ignore_errors=True)  # again and again: a dying process may still write
        time.sleep(0.05)


def started(pid: int) -> str | None:
    """Start time of a process in clock ticks since boot (field 22 of proc(5)), or None."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None


if __name__ == "__main__":
    main(sys.argv[1])
