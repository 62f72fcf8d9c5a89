"""What every row shares: services, a pipeline under load, witnesses, and the end of the run."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.observe import LiveReader, OffsetWatch, end_offsets, wait_for
from tests.faults.oracle import Evidence, Verdict, conclude, json_id
from tests.faults.processes import Slots
from tests.faults.workload import PARTITIONS, Feeder, Pipeline, pipeline


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How long and how hard a row runs.

    Attributes:
        seconds: of load.
        rate: events a second.
        faults: how many faults fall into it.
        session_ms: session timeout of the group (classic protocol).
        seed: of all random moments.
    """

    seconds: float
    rate: float
    faults: int
    session_ms: int = 6000
    seed: int = 1


@dataclass(slots=True)
class Scene:
    """A pipeline under load and its witnesses."""

    target: Pipeline
    slots: Slots
    feeder: Feeder
    live: LiveReader
    offsets: OffsetWatch
    id_of: Callable[[bytes], str] = json_id
    began_s: float = field(default_factory=time.monotonic)

    def elapsed_s(self) -> float:
        return time.monotonic() - self.began_s

    def sleep_until(self, second: float) -> None:
        time.sleep(max(0.0, second - self.elapsed_s()))

    def worked_off(self, within_s: float = 120) -> bool:
        """Stop feeding; whether the group reached the end of the input within the time. Dead slots are revived."""
        self.feeder.stop()
        ends = end_offsets(self.target.bootstrap, self.target.events, PARTITIONS)
        ends = {partition: end for partition, end in ends.items() if end}

        def done() -> bool:
            self.slots.revive()
            return all(self.offsets.last.get(partition, 0) >= end for partition, end in ends.items())

        return wait_for(done, within_s, 0.2)

    def verdict(self, *, within_s: float = 120) -> tuple[Verdict, Evidence]:
        """Work off, judge, drain. Notes: time to the end, exit codes of the drain, counters."""
        began_s = time.monotonic()
        finished = self.worked_off(within_s)
        worked_off_s = round(time.monotonic() - began_s, 1)
        verdict, evidence = conclude(self.target, self.live, self.offsets, id_of=self.id_of)
        codes = self.slots.drain()
        counters = self.slots.counters()
        verdict.notes |= {
            "guarantee": self.target.guarantee,
            "worked_off": finished,
            "worked_off_s": worked_off_s,
            "drain_codes": codes,
            "lives": sum(slot.lives for slot in self.slots.all),
            "commits": counters['commits_total{outcome="committed"}'],
            "aborts": counters['commits_total{outcome="aborted"}'],
        }
        return verdict, evidence


@contextlib.contextmanager
def scene(
    target: Pipeline,
    rate: float,
    names: Sequence[str] = ("w0", "w1"),
    *,
    limit: int | None = None,
    make: Callable[[int], tuple[bytes, int, bytes]] | None = None,
    id_of: Callable[[bytes], str] = json_id,
) -> Iterator[Scene]:
    """Slots up and ready, load on, witnesses watching."""
    with contextlib.ExitStack() as stack:
        live = stack.enter_context(LiveReader(target.bootstrap, target.predictions, PARTITIONS))
        offsets = stack.enter_context(OffsetWatch(target.bootstrap, target.name, target.events, PARTITIONS))
        slots = stack.enter_context(Slots(target, names))
        for slot in slots.all:
            if not slot.ready(60):
                raise AssertionError(f"{slot.name} did not become ready:\n{slot.log.read_text()[-2000:]}")
        feeder = stack.enter_context(Feeder(target, rate, limit=limit, make=make))
        yield Scene(target, slots, feeder, live, offsets, id_of)


@contextlib.contextmanager
def made(bootstrap: str, prefix: str, **settings: object) -> Iterator[Pipeline]:
    """A pipeline in a temporary folder of its own, which stays: its logs are the evidence."""
    folder = Path(tempfile.mkdtemp(prefix=f"streamserve-faults-{prefix}-"))
    yield pipeline(folder, bootstrap, prefix, **settings)


def classic(session_ms: int) -> dict[str, object]:
    """The `kafka:` block of a classic group that notices a death within `session_ms`."""
    return {"session.timeout.ms": session_ms, "heartbeat.interval.ms": max(300, session_ms // 6)}
