"""A slot's process for the supervisor's tests: leaves a trace of every life, then behaves as told."""

import os
import signal
import sys
import time
from pathlib import Path

folder, behaviour, index, name = Path(sys.argv[1]), *sys.argv[2:]
life = len(list(folder.glob(f"{index}.*.life")))
told = [os.environ.get(f"STREAMSERVE_LAST_EXIT_{what}", "-") for what in ("SIGNAL", "CODE")]
stopped = []


def stop(number: int, _frame: object) -> None:
    stopped.append(number)


def trace() -> None:
    """Write the trace in one step, so that whoever sees it sees all of it."""
    part = folder / f"{index}.{life}.part"
    part.write_text(f"{os.getpid()} {name} {' '.join(told)}")
    part.rename(folder / f"{index}.{life}.life")


def sleep_until_stopped() -> None:
    while not stopped:
        time.sleep(0.01)


signal.signal(signal.SIGTERM, signal.SIG_IGN if behaviour == "deaf" else stop)
trace()
match behaviour:
    case "drain":
        sleep_until_stopped()
        (folder / f"{index}.drained").touch()
    case "deaf":
        time.sleep(60)
    case "segv_once" if index == "0" and life == 0:
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGSEGV)
    case "exit1_once" if life == 0:
        sys.exit(1)
    case "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    case "finish":
        pass
    case "fail_drain":
        sleep_until_stopped()
        sys.exit(1)
    case other if other.startswith("first_exits_") and index == "0":
        sys.exit(int(other.removeprefix("first_exits_")))
    case other if other.startswith("later_exits_") and index == "0":
        if life == 0:
            time.sleep(0.4)
        if life < 3:
            sys.exit(int(other.removeprefix("later_exits_")))
        sleep_until_stopped()
    case _:
        sleep_until_stopped()
        (folder / f"{index}.drained").touch()
