"""How long a Python thread may go on while another waits for the interpreter.

With Python's 5 ms a thread that comes back from C waits long for its turn, and that wait is latency. With half a
millisecond the threads of a flooded worker take the interpreter from each other in the middle of a batch, which costs
them 8 % of their CPU and 7 % of the throughput (docs/performance.md). So the interval follows the load.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

CALM_S = 0.0005
FLOODED_S = 0.005


class SwitchInterval:
    """Sets the interpreter's switch interval, when the load changes.

    Args:
        set_s: sets it, in seconds.
    """

    def __init__(self, set_s: Callable[[float], None] = sys.setswitchinterval) -> None:
        self._set_s = set_s
        self._flooded = False
        set_s(CALM_S)

    def flooded(self, flooded: bool) -> None:
        """Whether batches close because they are full."""
        if flooded is not self._flooded:
            self._flooded = flooded
            self._set_s(FLOODED_S if flooded else CALM_S)
