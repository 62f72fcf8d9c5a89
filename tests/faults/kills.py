"""Row A: workers killed by SIGKILL at random moments and inside transactions; row F: rolling restarts by SIGTERM."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Sequence

from tests.faults.observe import TransactionWatch
from tests.faults.oracle import Verdict
from tests.faults.processes import SlotProcess
from tests.faults.scene import Scale, Scene, classic, made, scene

PLACES = (
    "after_flush",
    "after_send_offsets",
    "after_produce",
    "after_flush",
    "after_send_offsets",
    "random",
    "after_end_before_cache",
)
"""Where lives end, drawn with equal chance: mostly inside a transaction."""
IMPORT_S = 0.3
"""From the start of a process to that of its failpoints' clock."""


def kills(
    bootstrap: str,
    redis_url: str | None,
    scale: Scale,
    *,
    guarantee: str = "exactly_once",
    rename: bool = False,
    places: Sequence[str] = PLACES,
    module: str = "streamserve.slot",
) -> Verdict:
    """Kill `scale.faults` times; restart at once under the same name, or with `rename` under a new one.

    The two slots of a round die within two seconds of each other: a group takes back the partitions of the dead only
    after the session timeout, and slots that die alternately every five seconds would never hold any.
    """
    draw = random.Random(scale.seed)
    kafka = classic(scale.session_ms)
    if rename:
        kafka["transaction.timeout.ms"] = 8000  # what a renamed slot left open expires
    with (
        made(bootstrap, "kills", guarantee=guarantee, redis_url=redis_url, kafka=kafka, module=module) as target,
        scene(target, scale.rate) as stage,
        TransactionWatch(bootstrap, f"{target.name}.") as states,
    ):
        deaths = Deaths(stage, states, draw, rename=rename, places=places)
        plan = moments(draw, scale, stage.slots.all)
        for number, (moment_s, victim) in enumerate(plan):
            later = [at_s for at_s, whom in plan[number + 1 :] if whom is victim]
            deaths.due(victim, moment_s, next_s=later[0] if later else None)
        verdict, _ = stage.verdict()
    verdict.notes |= {"kills": deaths.count, "transaction_open": deaths.open, "by_place": dict(deaths.places)}
    return verdict


def moments(draw: random.Random, scale: Scale, slots: list[SlotProcess]) -> list[tuple[float, SlotProcess]]:
    """When each of them dies: all in each round, in the last quarter of it."""
    rounds = max(1, scale.faults // len(slots))
    length_s = scale.seconds / rounds
    spread_s = min(2.5, length_s / 4)
    return sorted(
        ((length_s * (number + 1) - draw.uniform(0, spread_s), slot) for number in range(rounds) for slot in slots),
        key=lambda planned: planned[0],
    )


class Deaths:
    """Makes slots die and counts how."""

    def __init__(
        self, stage: Scene, states: TransactionWatch, draw: random.Random, *, rename: bool, places: Sequence[str]
    ) -> None:
        self.count = self.open = 0
        self.places: Counter[str] = Counter()
        self._choices = places
        self._stage = stage
        self._states = states
        self._draw = draw
        self._rename = rename
        self._armed: dict[SlotProcess, str] = {}

    def due(self, victim: SlotProcess, moment_s: float, *, next_s: float | None) -> None:
        """Have `victim` dead by about `moment_s`: by its failpoint if it reaches it, else by our own hand.

        Its next life is armed for `next_s`.
        """
        stage = self._stage
        stage.sleep_until(moment_s)
        place = self._armed.pop(victim, "random")
        if place == "random" or not victim.ended(4.0):
            place = "random"
        victim.kill()
        time.sleep(0.3)  # what the dead had sent is now in the broker's log
        self.count += 1
        self.places[place] += 1
        self.open += bool(self._states.open(f"{stage.target.name}.{victim.name}."))
        name = f"{victim.name.split('-')[0]}-{self.count}" if self._rename else None
        arm = self._draw.choice(self._choices)
        failpoints = ""
        if arm != "random" and next_s is not None:
            self._armed[victim] = arm
            failpoints = f"{arm}=kill@{max(0.5, next_s - stage.elapsed_s() - IMPORT_S):.2f}s"
        victim.start(failpoints, name=name)


def rolling(bootstrap: str, redis_url: str | None, scale: Scale) -> Verdict:
    """Restart the slots in turn by SIGTERM, `scale.faults` times in all; each has to drain and exit with 0."""
    with (
        made(bootstrap, "rolling", redis_url=redis_url, kafka=classic(scale.session_ms)) as target,
        scene(target, scale.rate, ("w0", "w1", "w2")) as stage,
    ):
        codes: list[int | None] = []
        for number in range(scale.faults):
            stage.sleep_until(scale.seconds * (number + 0.5) / scale.faults)
            slot = stage.slots[number % 3]
            codes.append(slot.drain())
            slot.start()
            slot.ready(30)
        stage.sleep_until(scale.seconds)
        verdict, _ = stage.verdict()
    verdict.notes["restart_codes"] = codes
    return verdict
