"""The sidecar as a process, with the counting monitor: `python -m tests.unit.sidecar.counting_sidecar FILE`."""

from __future__ import annotations

import sys

from streamserve.cli.sidecar import serve
from streamserve.config.loading import load
from tests.unit.sidecar.counting_monitor import CountingMonitor

if __name__ == "__main__":
    serve(load(sys.argv[1]), CountingMonitor)
