"""Row E: Redis stops answering, and goes away and comes back empty; the Kafka path must not notice."""

from __future__ import annotations

import time

from streamserve.demo.local_redis import LocalRedis
from tests.faults.oracle import Verdict
from tests.faults.scene import Scale, made, scene

SETTLE_S = 5.0


def outages(bootstrap: str, scale: Scale) -> Verdict:
    """Four phases under one rate: calm, paused, calm, shut down; then the cache heals.

    `scale.seconds` is the length of the pause; the shutdown lasts half of it, a calm phase 0.75 of it.
    Notes: committed predictions a second in each phase, and the ratios to the first calm one.
    """
    with (
        LocalRedis() as server,
        made(bootstrap, "outage", redis_url=server.url) as target,
        scene(target, scale.rate) as stage,
    ):
        stage.sleep_until(SETTLE_S)
        rates: dict[str, float] = {}

        def phase(name: str, length_s: float) -> None:
            began_s = time.monotonic()
            time.sleep(length_s)
            rates[name] = round(stage.live.rate(began_s, began_s + length_s), 1)

        phase("calm", scale.seconds * 0.75)
        server.pause()
        phase("paused", scale.seconds)
        server.resume()
        phase("calm_again", scale.seconds * 0.5)
        server.shutdown()
        phase("shut_down", scale.seconds * 0.5)
        server.restart()
        phase("restarted", scale.seconds * 0.25)
        verdict, _ = stage.verdict()
    verdict.notes |= {
        "offered_per_s": scale.rate,
        "committed_per_s": rates,
        "paused_to_calm": round(rates["paused"] / rates["calm"], 3),
        "shut_down_to_calm": round(rates["shut_down"] / rates["calm"], 3),
    }
    return verdict
