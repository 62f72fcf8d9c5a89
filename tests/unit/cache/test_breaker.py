"""The circuit breaker."""

from __future__ import annotations

from random import Random

from streamserve.cache.breaker import Backoff, Breaker
from tests.unit.cache.clocks import HandClock


def test_waits_double_up_to_the_most_and_jitter_only_shortens():
    backoff = Backoff(first_s=0.1, most_s=1.0, jitter=0.5)
    for failures, whole_s in ((1, 0.1), (2, 0.2), (4, 0.8), (5, 1.0), (1000, 1.0)):
        waits = [backoff.wait_s(failures, Random(seed)) for seed in range(50)]
        assert all(whole_s / 2 <= wait_s <= whole_s for wait_s in waits)
        assert len(set(waits)) > 40


def test_it_opens_at_a_failure_lets_one_trial_pass_after_the_wait_and_closes_at_a_success():
    clock = HandClock()
    breaker = Breaker(Backoff(jitter=0.0), clock, Random(1))
    assert breaker.state == "closed"
    breaker.failed()
    assert breaker.state == "open"
    clock.now_s += 0.1
    assert breaker.state == "half_open"
    breaker.failed()
    clock.now_s += 0.1
    assert breaker.state == "open"
    clock.now_s += 0.1
    breaker.succeeded()
    assert breaker.state == "closed"
