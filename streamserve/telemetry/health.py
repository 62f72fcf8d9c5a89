"""Whether a worker lives and whether it is ready: state that its threads report and probes read.

Alive means that the loop ticks and, while there is work and somebody to get it from, that work gets done.
An outage of Kafka or of the cache is no reason to restart a worker and does not fail liveness. Ready means
that every condition is met: by default the topics exist, the model is loaded and fits, it is warm, and the
group is joined. Before its first tick a worker is alive and not ready; while it drains, likewise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock

from streamserve.clock import Clock

CONDITIONS = ("topics", "model", "warm", "group")
TICK_TIMEOUT_S = 30.0
"""Without a tick for so long the loop hangs. A tick comes about every 0.1 s."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """An answer to a probe: yes, or no and why."""

    ok: bool
    why: tuple[str, ...] = ()


class Health:
    """Collects what threads report, answers probes. Any thread may call anything.

    Args:
        clock: monotonic time.
        stall_s: no progress for so long, with lag and reachable brokers, fails liveness.
        tick_timeout_s: no tick for so long fails liveness.
        conditions: what readiness waits for.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        stall_s: float,
        tick_timeout_s: float = TICK_TIMEOUT_S,
        conditions: Sequence[str] = CONDITIONS,
    ) -> None:
        self._clock = clock
        self._stall_s = stall_s
        self._tick_timeout_s = tick_timeout_s
        self._met = dict.fromkeys(conditions, False)
        self._ticked_s: float | None = None
        self._work_since_s = clock.monotonic_s()
        self._has_lag = False
        self._reachable = True
        self._draining = False
        self._lock = Lock()

    def tick(self) -> None:
        """The loop went round."""
        self._ticked_s = self._clock.monotonic_s()

    def progress(self) -> None:
        """Something was committed."""
        self._work_since_s = self._clock.monotonic_s()

    def lag(self, records: int) -> None:
        """How many records wait. The time a worker has for them starts when the first one comes."""
        with self._lock:
            if records > 0 and not self._has_lag:
                self._work_since_s = self._clock.monotonic_s()
            self._has_lag = records > 0

    def brokers(self, *, reachable: bool) -> None:
        """Whether any broker answers. The time to make progress starts anew when they come back."""
        with self._lock:
            if reachable and not self._reachable:
                self._work_since_s = self._clock.monotonic_s()
            self._reachable = reachable

    def condition(self, name: str, met: bool) -> None:
        """Whether a condition of readiness is met. Raises: KeyError for one that was not declared."""
        with self._lock:
            if name not in self._met:
                raise KeyError(name)
            self._met[name] = met

    def draining(self) -> None:
        """The worker stops: not ready any more, and alive until it is gone (a drain has its own end)."""
        self._draining = True

    def met(self, *names: str) -> bool:
        """Whether all these conditions are met."""
        with self._lock:
            return all(self._met[name] for name in names)

    def live(self) -> Verdict:
        """Whether a restart would not help."""
        with self._lock:
            now_s = self._clock.monotonic_s()
            if self._ticked_s is None or self._draining:
                return Verdict(ok=True)
            silent_s = now_s - self._ticked_s
            if silent_s > self._tick_timeout_s:
                return Verdict(ok=False, why=(f"no tick for {silent_s:.0f} s",))
            idle_s = now_s - self._work_since_s
            if self._has_lag and self._reachable and idle_s > self._stall_s:
                return Verdict(ok=False, why=(f"no progress for {idle_s:.0f} s with records waiting",))
            return Verdict(ok=True)

    def ready(self) -> Verdict:
        """Whether the worker does its work, else the conditions that are not met."""
        with self._lock:
            missing = [name for name, met in self._met.items() if not met]
            if self._draining:
                missing.append("draining")
            return Verdict(ok=not missing, why=tuple(missing))
