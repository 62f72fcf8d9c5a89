"""Named places at which a test can make this process die, hang or fail.

Active only when `STREAMSERVE_FAILPOINTS` is set, as `name=action[@count][,...]`: at the `count`-th time the place is
reached (default the first) the action is taken: `kill` (SIGKILL), `stop` (SIGSTOP), `exit` (status 1). Without the
variable `reach` is an empty function.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

VARIABLE = "STREAMSERVE_FAILPOINTS"
NAMES = ("before_begin", "after_produce", "after_send_offsets", "after_end_before_cache")
_ACTIONS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


def _nothing(_name: str) -> None:
    """No failpoint is active."""


def parse(text: str) -> Callable[[str], None]:
    """The `reach` function for a value of the variable. Raises: ValueError for an unknown name or action."""
    left: dict[str, int] = {}
    actions: dict[str, str] = {}
    for entry in filter(None, text.split(",")):
        name, _, what = entry.partition("=")
        action, _, count = what.partition("@")
        if name not in NAMES or action not in {*_ACTIONS, "exit"}:
            raise ValueError(f"{VARIABLE}: {entry!r} is not one of {', '.join(NAMES)} with kill, stop or exit")
        left[name], actions[name] = int(count or 1), action
    if not left:
        return _nothing

    def reach(name: str) -> None:
        if name not in left:
            return
        left[name] -= 1
        if left[name] == 0:
            if actions[name] == "exit":
                os._exit(1)
            os.kill(os.getpid(), _ACTIONS[actions[name]])

    return reach


reach = parse(os.environ.get(VARIABLE, ""))
