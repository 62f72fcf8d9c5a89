"""The arithmetic of the latency benchmarks, on runs that were never made."""

from __future__ import annotations

import itertools
import json
import time
from concurrent.futures import Future

import numpy as np
from confluent_kafka import Producer

from benchmarks.latency import Running, summary
from benchmarks.open_loop import ID, Arrived, Sent, send
from benchmarks.rebalance import WINDOWS, figures, revoked

START_NS = 1_766_000_000_000_000_000
RATE = 1000
STEP_NS = 1_000_000


def run(latency_ms: list[float], late_ms: float = 0.0) -> Running:
    """A run of these latencies, the events a millisecond apart; an infinite one was never read."""
    due = START_NS + np.arange(len(latency_ms)) * STEP_NS
    came = np.isfinite(latency_ms)
    read = due[came] + (np.array(latency_ms)[came] * 1e6).astype(np.int64)
    late = np.full(len(due), late_ms * 1e6).astype(np.int64)
    sent: Future[Sent] = Future()
    sent.set_result(Sent(events=len(due), start_ns=START_NS, late_ns=late, cpu_share=0.1))
    arrived: Future[Arrived] = Future()
    arrived.set_result(Arrived(due_ns=due[came], read_ns=read, cpu_share=0.2))
    return Running(START_NS, sent, arrived)


def test_percentiles_are_of_the_last_seconds_and_the_warm_up_is_left_out() -> None:
    found = summary(run([500.0] * 1000 + [5.0] * 900 + [50.0] * 100, late_ms=2.0), RATE, 1.0)
    assert (found.events, found.lost) == (1000, 0)
    assert (found.p50_ms, found.p95_ms, found.p99_ms) == (5.0, 50.0, 50.0)
    assert found.late_p99_ms == 2.0


def test_an_event_that_nobody_read_is_infinitely_late() -> None:
    found = summary(run([5.0] * 980 + [float("inf")] * 20), RATE, 1.0)
    assert (found.lost, found.p95_ms, found.p99_ms) == (20, 5.0, float("inf"))


def test_a_stall_of_the_partitions_that_move_is_not_that_of_those_that_stay() -> None:
    """Events go to four partitions in turn; those of 2 and 3 stand in the join window."""
    due = START_NS + np.arange(40_000) * STEP_NS
    window = (due >= START_NS + 10e9) & (due < START_NS + 20e9)
    moving = np.arange(len(due)) % 4 >= 2
    latency_ms = np.where(window & moving, 400, 10)
    arrived = Arrived(due_ns=due, read_ns=due + latency_ms * 1_000_000, cpu_share=0.0)
    begins_ns = {window: START_NS + number * 10 * 10**9 for number, window in enumerate(WINDOWS)}
    found = figures(arrived, RATE, START_NS, {2, 3}, begins_ns)
    assert (found["join_stay_p99_ratio"], found["join_move_p99_ratio"]) == (1.0, 40.0)
    assert (found["leave_move_p99_ratio"], found["lost"], found["twice"]) == (1.0, 0.0, 0.0)


def test_partitions_given_away_are_read_from_the_log_up_to_a_moment() -> None:
    lines = [
        {"ts": "2026-01-01T00:00:01.000Z", "event": "partitions_revoked", "partitions": ["a.b-2", "a.b-3"]},
        {"ts": "2026-01-01T00:00:01.000Z", "event": "partitions_assigned", "partitions": ["a.b-1"]},
        {"ts": "2026-01-01T00:00:09.000Z", "event": "partitions_revoked", "partitions": ["a.b-0"]},
    ]
    log = "\n".join(["a line of another kind", *map(json.dumps, lines)])
    assert revoked(log, 1_767_225_605 * 10**9) == {2, 3}


class Recorded(Producer):
    """A client without a broker that keeps what it was given."""

    def __init__(self) -> None:
        super().__init__({"bootstrap.servers": "127.0.0.1:1", "log_level": 0})
        self.given: list[tuple[bytes, int]] = []

    def produce(self, _topic: str, value: bytes, _key: bytes, partition: int) -> None:  # type: ignore[override]
        self.given.append((value, partition))

    def flush(self, _timeout: float = 0) -> int:
        return 0


def test_a_sender_that_begins_late_sends_everything_and_says_how_late() -> None:
    producer = Recorded()
    began_ns = time.time_ns() - 10**9
    sent = send(producer, "t", 4, 2000, 0.5, "[1.0]", start_ns=began_ns)
    due = [int(value[ID]) for value, _ in producer.given]
    assert sent.events == len(due) == 1000
    assert np.diff(due).tolist() == [500_000] * 999
    assert [partition for _, partition in producer.given] == list(itertools.islice(itertools.cycle(range(4)), 1000))
    assert json.loads(producer.given[0][0]) == {"id": str(began_ns), "x": [1.0]}
    assert sent.late_ns.min() >= 5 * 10**8
