"""When a worker is alive, and when it is ready."""

import pytest

from streamserve.telemetry.health import Health
from tests.unit.telemetry.manual_clock import HandClock


@pytest.fixture
def clock():
    return HandClock()


@pytest.fixture
def health(clock):
    return Health(clock, stall_s=60, tick_timeout_s=30)


def pass_time(clock, health, seconds, step=10):
    """Time passes while the loop ticks."""
    for _ in range(0, seconds, step):
        clock.now_s += step
        health.tick()


def test_a_worker_that_loads_its_model_is_alive_and_not_ready(clock, health):
    clock.now_s += 3600
    assert health.live().ok
    assert health.ready().why == ("topics", "model", "warm", "group")


def test_a_loop_that_hangs_is_dead(clock, health):
    health.tick()
    clock.now_s += 30
    assert health.live().ok
    clock.now_s += 0.1
    assert health.live().why == ("no tick for 30 s",)


def test_no_progress_with_records_waiting_is_a_stall(clock, health):
    health.lag(5)
    pass_time(clock, health, 60)
    assert health.live().ok
    pass_time(clock, health, 10)
    assert not health.live().ok
    health.progress()
    assert health.live().ok


def test_an_idle_worker_is_alive_for_ever(clock, health):
    health.lag(0)
    pass_time(clock, health, 3600)
    assert health.live().ok


def test_the_first_record_after_an_idle_hour_gets_its_whole_time(clock, health):
    health.lag(0)
    pass_time(clock, health, 3600)
    health.lag(1)
    assert health.live().ok
    pass_time(clock, health, 50)
    health.lag(2)
    assert health.live().ok
    pass_time(clock, health, 20)
    assert not health.live().ok, "more lag does not start the time anew"


def test_an_outage_of_the_brokers_is_no_stall_and_their_return_starts_the_time_anew(clock, health):
    health.lag(5)
    health.tick()
    health.brokers(reachable=False)
    pass_time(clock, health, 3600)
    assert health.live().ok
    health.brokers(reachable=True)
    pass_time(clock, health, 60)
    health.brokers(reachable=True)
    assert health.live().ok
    pass_time(clock, health, 10)
    assert not health.live().ok


def test_ready_lists_what_is_missing(health):
    for name in ("topics", "model", "group"):
        health.condition(name, True)
    assert health.ready().why == ("warm",)
    assert health.met("model", "group")
    assert not health.met("model", "warm")
    health.condition("warm", True)
    assert health.ready().ok
    health.condition("group", False)
    assert health.ready().why == ("group",)


def test_a_draining_worker_is_alive_and_not_ready(clock, health):
    for name in ("topics", "model", "warm", "group"):
        health.condition(name, True)
    health.tick()
    health.lag(9)
    health.draining()
    clock.now_s += 3600
    assert health.live().ok
    assert health.ready().why == ("draining",)


def test_a_condition_nobody_declared_is_refused(health):
    with pytest.raises(KeyError):
        health.condition("modle", True)
