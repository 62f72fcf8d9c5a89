"""Runs a supervisor whose slots are `supervised.py`; the tests talk to this process.

Arguments: folder for traces, behaviour of the slots, number of slots, then settings as JSON.
"""

import json
import random
import sys
from pathlib import Path

from streamserve.clock import SystemClock
from streamserve.telemetry.logs import Log
from streamserve.worker.supervisor import SlotName, Supervisor, SupervisorSettings, slot_names

folder, behaviour, workers, settings = sys.argv[1:]
child = str(Path(__file__).with_name("supervised.py"))


def command(slot: SlotName) -> list[str]:
    return [sys.executable, "-S", child, folder, behaviour, str(slot.index), slot.name]


supervisor = Supervisor(
    command,
    slot_names("test", int(workers)),
    settings=SupervisorSettings(**json.loads(settings)),
    log=Log.open(format="json"),
    clock=SystemClock(),
    rng=random.Random(7),
)
sys.exit(supervisor.run())
