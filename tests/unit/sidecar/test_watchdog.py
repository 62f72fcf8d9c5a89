"""The watchdog ends what hangs, and nothing else."""

from __future__ import annotations

import io
import threading

from streamserve.sidecar.watchdog import Watchdog
from streamserve.telemetry.health import Health
from streamserve.telemetry.logs import Log
from streamserve.testing import ManualClock


def watched(monkeypatch):
    monkeypatch.setattr("streamserve.sidecar.watchdog.EVERY_S", 0.01)
    clock, ended = ManualClock(), threading.Event()
    health = Health(clock, stall_s=60)
    health.tick()
    return Watchdog(health, ended.set, Log.open(stream=io.StringIO())), health, clock, ended


def test_chunks_that_wait_for_a_minute_without_progress_end_the_process(monkeypatch):
    watchdog, health, clock, ended = watched(monkeypatch)
    watchdog.open()
    health.lag(1)
    for _ in range(7):
        clock.advance(10)
        health.tick()
    assert ended.wait(5)


def test_an_event_loop_that_hangs_ends_the_process(monkeypatch):
    watchdog, _, clock, ended = watched(monkeypatch)
    watchdog.open()
    clock.advance(31)
    assert ended.wait(5)


def test_brokers_that_are_away_and_idleness_do_not(monkeypatch):
    watchdog, health, clock, ended = watched(monkeypatch)
    watchdog.open()
    health.lag(1)
    health.brokers(reachable=False)
    for _ in range(20):
        clock.advance(10)
        health.tick()
    assert not ended.wait(0.2)
    health.lag(0)
    health.brokers(reachable=True)
    for _ in range(20):
        clock.advance(10)
        health.tick()
    assert not ended.wait(0.2)
    watchdog.close()
