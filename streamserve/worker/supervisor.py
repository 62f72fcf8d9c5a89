"""Keeps N worker slots running on one machine: starts, watches, restarts and stops their processes.

The supervisor does no work itself and imports no client, so it stays small and cannot be brought down by what
brings a slot down. One thread; it sleeps until a signal comes (a child's end is one) or something is due.

How a slot's process ends decides what follows:

    0                          done: it is not started again; when all are done the supervisor ends with 0
    2, 78                      usage or configuration is wrong: stop all, end with that code
    69 in the slot's first life  broker is not there: stop all, end with that code
    69 later                   an outage: start again with backoff, as often as it takes
    76                         no slot should go on (too many rejects): stop all, end with 1
    anything else, a signal    a crash: start again with backoff; too many in a row stop all with 1

A life counts as settled after `settled_s`; that ends a row of crashes. The next life learns from its
environment how the last one ended. First SIGTERM or SIGINT: drain. Second: kill at once, exit 143 or 130.
"""

from __future__ import annotations

import random
import re
import select
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from streamserve.clock import Clock
from streamserve.telemetry.logs import Log
from streamserve.worker.child import Child, Exit

EXIT_CRASHED = 1
EXIT_UNAVAILABLE = 69
EXIT_STOP_ALL = 76
"""A slot's way to say that no slot should go on; the supervisor ends with 1."""
EXITS_FOR_GOOD = frozenset({2, 78})
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
KILL_WAIT_S = 5.0
"""How long a killed process is waited for: one in an uninterruptible call does not end at once."""
LONGEST_SLEEP_S = 5.0
MAX_NAME_CHARS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorSettings:
    """How patient a supervisor is.

    Attributes:
        drain_timeout_s: what a slot allows itself for a drain.
        grace_s: what it gets on top before it is killed: up to 5 s until the cache's queue is written, up to 10 s
            until the consumer has left the group, and 5 s for the end of the process. A slot killed in between
            leaves its partitions to nobody until its session is over.
        backoff_s, max_backoff_s: wait before the first restart, doubled for each further one up to the
            second. Each wait is drawn from the upper half of it, so that slots do not restart in step.
        settled_s: a life this long ends a row of bad ones.
        max_crashes: so many crashes of a slot in a row stop everything. A record that kills a slot costs two.
    """

    drain_timeout_s: float = 25.0
    grace_s: float = 20.0
    backoff_s: float = 0.5
    max_backoff_s: float = 10.0
    settled_s: float = 60.0
    max_crashes: int = 10


@dataclass(frozen=True, slots=True)
class SlotName:
    """A slot's index and its stable name."""

    index: int
    name: str


def slot_names(base: str | None, workers: int) -> list[SlotName]:
    """`{base}-{index}` for every slot; `base` defaults to the host's name.

    Names end up in transactional ids and file names: anything but letters, digits, `.`, `_`, `-` becomes `-`.
    """
    wanted = base or socket.gethostname()
    clean = re.sub(r"[^A-Za-z0-9._-]+", "-", wanted)[:MAX_NAME_CHARS].strip("-.") or "slot"
    return [SlotName(index, f"{clean}-{index}") for index in range(workers)]


class Slot:
    """State of one slot across its lives."""

    def __init__(self, name: SlotName) -> None:
        self.name = name
        self.child: Child | None = None
        self.started_s = 0.0
        self.start_at_s: float | None = 0.0
        self.last_exit: Exit | None = None
        self.served = False
        self.bad_lives = 0
        self.crashes = 0

    @property
    def over(self) -> bool:
        """Whether nothing runs and nothing will be started."""
        return self.child is None and self.start_at_s is None

    def ended(self, how: Exit, *, settled: bool) -> None:
        """Note the end of a life."""
        self.child = None
        self.start_at_s = None
        self.last_exit = how
        self.served = self.served or settled or how.code != EXIT_UNAVAILABLE
        if settled:
            self.bad_lives = self.crashes = 0


class Supervisor:
    """Runs slots until they are done or somebody stops them. `run` must be called on the main thread.

    Args:
        command: gives the command line of a slot's process.
        names: one per slot, see `slot_names`.
        settings: patience.
        log: gets a line for each start, end and decision.
        clock: monotonic time.
        rng: draws the jitter.
    """

    def __init__(
        self,
        command: Callable[[SlotName], Sequence[str]],
        names: Sequence[SlotName],
        *,
        settings: SupervisorSettings,
        log: Log,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self._command = command
        self._slots = [Slot(name) for name in names]
        self._settings = settings
        self._log = log
        self._clock = clock
        self._rng = rng
        self._stopping = False
        self._asked = False
        self._exit_code = 0
        self._kill_at_s: float | None = None

    def run(self) -> int:
        """Supervise to the end. Returns: the exit code; no child is left."""
        with _signals_to_socket() as wake:
            try:
                while True:
                    self._start_due()
                    self._reap()
                    self._kill_overdue()
                    if all(slot.over for slot in self._slots):
                        return self._exit_code
                    for number in _signals_within(wake, self._sleep_s()):
                        if self._asked:
                            return self._cut_short(number)
                        self._asked = True
                        self._stop(0, why=signal.Signals(number).name)
            finally:
                self._kill_all()

    def _start_due(self) -> None:
        now_s = self._clock.monotonic_s()
        for slot in self._slots:
            if slot.child is None and slot.start_at_s is not None and now_s >= slot.start_at_s:
                self._start(slot, now_s)

    def _start(self, slot: Slot, now_s: float) -> None:
        slot.started_s = now_s
        slot.start_at_s = None
        environment = slot.last_exit.environment() if slot.last_exit else {}
        try:
            slot.child = Child.start(self._command(slot.name), environment)
        except OSError as cause:
            self._log.error("slot_not_started", slot=slot.name.name, error=cause)
            self._after(slot, Exit(code=1))
            return
        self._log.info("slot_started", slot=slot.name.name, pid=slot.child.pid)

    def _reap(self) -> None:
        for slot in self._slots:
            how = slot.child.ended() if slot.child else None
            if slot.child is not None and how is not None:
                pid = slot.child.pid
                up_s = self._clock.monotonic_s() - slot.started_s
                self._log.info("slot_ended", slot=slot.name.name, pid=pid, exit=str(how), up_s=round(up_s, 3))
                self._after(slot, how)

    def _after(self, slot: Slot, how: Exit) -> None:
        """Decide what follows the end of a life."""
        up_s = self._clock.monotonic_s() - slot.started_s
        slot.ended(how, settled=up_s >= self._settings.settled_s)
        if self._stopping:
            # Who dies of SIGTERM itself had not yet started to work: nothing is lost.
            if how.code != 0 and how.signal != signal.SIGTERM:
                self._exit_code = self._exit_code or EXIT_CRASHED
        elif how.code == 0:
            pass
        elif how.code == EXIT_STOP_ALL:
            self._stop(EXIT_CRASHED, why=f"slot {slot.name.name} asked for it; its last line says why")
        elif how.code in EXITS_FOR_GOOD or (how.code == EXIT_UNAVAILABLE and not slot.served):
            self._stop(how.code, why=f"slot {slot.name.name} cannot run ({how})")
        else:
            self._restart_later(slot, how)

    def _restart_later(self, slot: Slot, how: Exit) -> None:
        settings = self._settings
        if how.code != EXIT_UNAVAILABLE:
            slot.crashes += 1
        if slot.crashes >= settings.max_crashes:
            self._stop(EXIT_CRASHED, why=f"slot {slot.name.name} crashed {slot.crashes} times in a row")
            return
        longest_s = min(settings.max_backoff_s, settings.backoff_s * 2.0 ** min(slot.bad_lives, 30))
        delay_s = longest_s * self._rng.uniform(0.5, 1.0)
        slot.bad_lives += 1
        slot.start_at_s = self._clock.monotonic_s() + delay_s
        self._log.warning(
            "slot_restarts",
            slot=slot.name.name,
            exit=str(how),
            crashes=slot.crashes,
            delay_s=round(delay_s, 3),
        )

    def _stop(self, code: int, *, why: str) -> None:
        """Drain every slot and end with `code`, unless that is under way."""
        if self._stopping:
            return
        self._stopping = True
        self._exit_code = code
        within_s = self._settings.drain_timeout_s + self._settings.grace_s
        self._kill_at_s = self._clock.monotonic_s() + within_s
        self._log.info("stopping", why=why, within_s=within_s)
        for slot in self._slots:
            slot.start_at_s = None
            if slot.child is not None:
                slot.child.ask_to_stop()

    def _kill_overdue(self) -> None:
        if self._kill_at_s is None or self._clock.monotonic_s() < self._kill_at_s:
            return
        late = [slot.name.name for slot in self._slots if slot.child is not None]
        if late:
            self._log.error("drain_overdue", slots=late)
            self._exit_code = self._exit_code or EXIT_CRASHED
            self._kill_all()

    def _cut_short(self, number: int) -> int:
        self._log.warning("stopping_at_once", why=signal.Signals(number).name)
        self._kill_all()
        return 128 + number

    def _kill_all(self) -> None:
        children = [slot.child for slot in self._slots if slot.child is not None]
        for child in children:
            child.kill()
        for slot in self._slots:
            if slot.child is not None and not slot.child.wait(KILL_WAIT_S):
                self._log.error("slot_does_not_die", slot=slot.name.name, pid=slot.child.pid)
            slot.child = None

    def _sleep_s(self) -> float:
        """Until the next thing is due."""
        due = [slot.start_at_s for slot in self._slots if slot.child is None and slot.start_at_s is not None]
        if self._kill_at_s is not None:
            due.append(self._kill_at_s)
        now_s = self._clock.monotonic_s()
        return max(0.0, min([LONGEST_SLEEP_S, *(at_s - now_s for at_s in due)]))


@contextmanager
def _signals_to_socket() -> Iterator[socket.socket]:
    """Have the numbers of signals arrive as bytes on a socket: sleeping and hearing them is one call."""
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    watched = (*STOP_SIGNALS, signal.SIGCHLD)
    before = {number: signal.signal(number, lambda _number, _frame: None) for number in watched}
    fd_before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    try:
        yield reader
    finally:
        signal.set_wakeup_fd(fd_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        reader.close()
        writer.close()


def _signals_within(wake: socket.socket, timeout_s: float) -> list[int]:
    """The stop signals that came; returns early when any signal does."""
    if not select.select([wake], [], [], timeout_s)[0]:
        return []
    return [number for number in wake.recv(4096) if number in STOP_SIGNALS]
