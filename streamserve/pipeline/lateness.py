"""What becomes of records that cannot make the latency goal any more.

A record is late when its age, one batch of its own and a usual commit together exceed `engine.slo_ms`: whatever is done
now, its prediction comes too late. `engine.late` says what then:

* `process`: it is predicted like any other;
* `dead_letter`: it is rejected as `too_late` (stage `infer`), and the model has its time for those behind it;
* `fallback`: it gets the outputs of `engine.fallback` at once, in a prediction that says so.

Nothing is silent: every late record is counted with its outcome when it is committed, and all three outcomes are within
the law *consumed = predicted + rejected*. A record that cannot be decoded is rejected as such, however old it is. One
whose timestamp is missing, in the future or before the year 2000 counts as new: when the batch was polled says nothing
of its age, for chunks of a batch are polled at different times.

While not even a new record can make the goal, all of them are late and are processed, whatever the policy: a goal that
is out of reach drains no topic.

Pure; the clock is handed in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from streamserve.batch import EventBatch, Reject
from streamserve.clock import Clock
from streamserve.pipeline.slo import EARLIEST_MS, oldest_ms
from streamserve.telemetry.metrics import LateOutcome

OUTCOMES: Mapping[str, LateOutcome] = {
    "process": "processed",
    "dead_letter": "dead_letter",
    "fallback": "fallback",
}


class Goal(Protocol):
    """The latency goal, and how old a record may be that still makes it (`slo.SloPlanner`)."""

    @property
    def slo_s(self) -> float: ...
    def leeway_s(self) -> float: ...


class LateRows(NamedTuple):
    """Rows of a batch's records that were late, and what became of them."""

    outcome: LateOutcome
    rows: list[int]


class Admission(NamedTuple):
    """A batch after the late ones were looked at.

    Attributes:
        events: what goes to the models.
        late: the rows that were late; None when none was.
        rejects: those of them that are dead letters.
        fallback: those that get the fallback's outputs.
    """

    events: EventBatch
    late: LateRows | None = None
    rejects: Sequence[Reject] = ()
    fallback: EventBatch | None = None


class Lateness:
    """Sorts late records out, by one policy.

    Args:
        policy: `engine.late`.
        goal: when a record is late.
        clock: both kinds of time.
    """

    def __init__(self, policy: str, goal: Goal, clock: Clock) -> None:
        self._outcome = OUTCOMES[policy]
        self._goal = goal
        self._clock = clock

    def admit(self, events: EventBatch) -> Admission:
        """Which of these events go to the models. A batch without late ones costs one look at its timestamps."""
        leeway_s = self._goal.leeway_s()
        late = self._late(events, leeway_s)
        if not late:
            return Admission(events)
        rows = LateRows(self._outcome if leeway_s > 0 else "processed", [events.row[i] for i in late])
        if rows.outcome == "processed":
            return Admission(events, rows)
        drop = set(late)
        on_time = events.take([i for i in range(len(events)) if i not in drop])
        if rows.outcome == "fallback":
            return Admission(on_time, rows, fallback=events.take(late))
        detail = f"it could not be predicted within {self._goal.slo_s * 1000:g} ms of its timestamp any more"
        rejects = [Reject(row=row, stage="infer", reason="too_late", detail=detail) for row in rows.rows]
        return Admission(on_time, rows, rejects)

    def _late(self, events: EventBatch, leeway_s: float) -> list[int]:
        """Positions of the events that are older than that."""
        records = events.origin
        now_ms = self._clock.epoch_ms()
        too_old_ms = now_ms - leeway_s * 1000
        if oldest_ms(records, now_ms) >= too_old_ms:
            return []
        stamps = np.array(records.timestamp_ms, dtype=np.int64)[events.row]
        stamps[(stamps < EARLIEST_MS) | (stamps > now_ms)] = now_ms
        late: list[int] = np.flatnonzero(stamps < too_old_ms).tolist()
        return late
