"""Row B: a third member joins and leaves again and again; row G: a zombie that wakes after its session is over."""

from __future__ import annotations

import itertools
import json
import signal
import time
from collections.abc import Iterable

from tests.faults.oracle import Verdict
from tests.faults.processes import SlotProcess
from tests.faults.scene import Scale, Scene, classic, made, scene

ZOMBIE_PLACES = ("after_produce", "after_flush", "after_send_offsets", "before_begin", "after_end_before_cache")


def storm(
    bootstrap: str, redis_url: str | None, scale: Scale, *, protocol: str = "classic", module: str = "streamserve.slot"
) -> Verdict:
    """A member joins or leaves every `seconds / faults` seconds while two stay.

    Notes: commits a second, the longest time without a commit anywhere, aborts and the longest row of them.
    """
    kafka = {"group.protocol": "consumer"} if protocol == "consumer" else classic(scale.session_ms)
    with (
        made(bootstrap, "storm", redis_url=redis_url, kafka=kafka, module=module) as target,
        scene(target, scale.rate) as stage,
    ):
        guest = SlotProcess(target, "guest")
        joined = 0
        try:
            joined = _come_and_go(stage, guest, scale)
        finally:
            guest.close()
        quiet_s = longest_pause_s(stage)
        rate = stage.live.rate(stage.began_s + 1, time.monotonic())
        verdict, _ = stage.verdict()
    verdict.notes |= {
        "protocol": protocol,
        "joined": joined,
        "rebalances": stage.slots.counters()['rebalances_total{kind="assigned"}'],
        "committed_per_s": round(rate, 1),
        "longest_pause_s": round(quiet_s, 2),
        "aborts_in_a_row": longest_row_of_aborts([*stage.slots.all, guest]),
    }
    return verdict


def _come_and_go(stage: Scene, guest: SlotProcess, scale: Scale) -> int:
    joined = 0
    for number in range(scale.faults):
        stage.sleep_until(scale.seconds * (number + 0.5) / scale.faults)
        if number % 2 == 0:
            guest.start()
            joined += guest.ready(20)
        else:
            code = guest.drain()
            if code != 0:
                raise AssertionError(f"the guest left with {code}:\n{guest.log.read_text()[-2000:]}")
    stage.sleep_until(scale.seconds)
    if guest.code is None:
        guest.drain()
    return joined


def longest_pause_s(stage: Scene) -> float:
    """The longest time in which the live reader got nothing, from the first record on."""
    times = [at_s for at_s, _ in stage.live.arrivals]
    return max((after - before for before, after in itertools.pairwise(times)), default=0.0)


def longest_row_of_aborts(slots: Iterable[SlotProcess]) -> int:
    """The largest number of aborts in a row that any slot logged."""
    most = 0
    for slot in slots:
        for line in slot.log.read_text().splitlines() if slot.log.exists() else ():
            if '"starting_over"' in line:
                most = max(most, int(json.loads(line)["aborts"]))
    return most


def zombies(bootstrap: str, redis_url: str | None, scale: Scale) -> Verdict:
    """A slot stops (SIGSTOP) inside its commit for longer than its session, then goes on (SIGCONT).

    Each time another slot has taken its partitions over meanwhile. It must not finish what it had begun: it exits, or
    aborts and joins again.
    """
    exits: dict[str, object] = {}
    stopped = 0
    with (
        made(bootstrap, "zombie", redis_url=redis_url, kafka=classic(scale.session_ms)) as target,
        scene(target, scale.rate) as stage,
    ):
        zombie = stage.slots[0]
        for number in range(scale.faults):
            place = ZOMBIE_PLACES[number % len(ZOMBIE_PLACES)]
            zombie.drain()
            zombie.start(f"{place}=stop@3s")
            zombie.ready(30)
            if zombie.paused(scale.session_ms / 1000 + 15):
                stopped += 1
                time.sleep(scale.session_ms / 1000 + 2.5)
            zombie.signal(signal.SIGCONT)
            exits[f"{number}:{place}"] = zombie.code if zombie.ended(4) else "lives"
            stage.slots.revive()
        verdict, _ = stage.verdict()
    verdict.notes |= {"stopped": stopped, "after_waking": exits}
    return verdict
