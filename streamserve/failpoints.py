"""Named places at which a test can make this process die, hang or fail.

Active only when `STREAMSERVE_FAILPOINTS` is set, as `name=action[@when][,...]`. `when` is a count (at the count-th time
the place is reached, default the first) or a number of seconds with an `s` (the first time it is reached once the
process is that old). Actions: `kill` (SIGKILL), `stop` (SIGSTOP), `segv` (SIGSEGV), `exit` (status 1). Without the
variable `reach` is an empty function.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

VARIABLE = "STREAMSERVE_FAILPOINTS"
NAMES = ("before_begin", "after_produce", "after_flush", "after_send_offsets", "after_end_before_cache")
_ACTIONS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "segv": signal.SIGSEGV}


def _nothing(_name: str) -> None:
    """No failpoint is active."""


def parse(text: str) -> Callable[[str], None]:
    """The `reach` function for a value of the variable. Raises: ValueError for an unknown name or action."""
    due: dict[str, Callable[[], bool]] = {}
    actions: dict[str, str] = {}
    for entry in filter(None, text.split(",")):
        name, _, what = entry.partition("=")
        action, _, when = what.partition("@")
        if name not in NAMES or action not in {*_ACTIONS, "exit"}:
            actions_known = ", ".join([*_ACTIONS, "exit"])
            raise ValueError(f"{VARIABLE}: {entry!r} is not one of {', '.join(NAMES)} with one of {actions_known}")
        due[name] = _old_enough(float(when[:-1])) if when.endswith("s") else _counted(int(when or 1))
        actions[name] = action
    if not due:
        return _nothing

    def reach(name: str) -> None:
        if name in due and due[name]():
            _act(actions[name])

    return reach


def _counted(count: int) -> Callable[[], bool]:
    left = count

    def due() -> bool:
        nonlocal left
        left -= 1
        return left == 0

    return due


def _old_enough(age_s: float) -> Callable[[], bool]:
    until_s: float | None = time.monotonic() + age_s

    def due() -> bool:
        nonlocal until_s
        if until_s is None or time.monotonic() < until_s:
            return False
        until_s = None
        return True

    return due


def _act(action: str) -> None:
    if action == "exit":
        os._exit(1)
    os.kill(os.getpid(), _ACTIONS[action])


reach = parse(os.environ.get(VARIABLE, ""))
