"""A worker slot that is ready and waits: model loaded and warm, producers initialised, not yet a member of the group.

    python -m benchmarks.waiting_slot FILE --config … --slot-name …

It joins once FILE exists, so that the moment of a join is known and nothing of a start lies near it (`rebalance`).
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from streamserve import slot
from streamserve.kafka.source import KafkaSource
from streamserve.ports import AssignmentListener

TICK_S = 0.005


def wait_for(file: Path) -> None:
    """Have the source of this process join no sooner than the file is there; `FILE.ready` tells that it waits."""
    join = KafkaSource.open

    def waiting(self: KafkaSource, listener: AssignmentListener) -> None:
        file.with_suffix(".ready").touch()
        while not file.exists():
            time.sleep(TICK_S)
        join(self, listener)

    KafkaSource.open = waiting  # type: ignore[method-assign]  # that is the point


if __name__ == "__main__":
    wait_for(Path(sys.argv[1]))
    sys.exit(slot.main(sys.argv[2:]))
