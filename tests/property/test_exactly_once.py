"""Whatever fails and whoever takes a partition over, in whatever order: lost 0, duplicated 0, order kept."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamserve.batch import TopicPartition
from streamserve.errors import SinkError
from streamserve.testing import MemoryBroker
from tests.memory import exactly_once, fill, topics, until, worker

PARTITIONS = 3
OWNERS = 2

faults = st.tuples(
    st.just("fault"),
    st.integers(0, OWNERS - 1),
    st.sampled_from(["begin", "add", "flush", "commit", "commit answer"]),
    st.integers(1, 3),
)
moves = st.tuples(
    st.just("move"), st.integers(0, PARTITIONS - 1), st.integers(0, OWNERS - 1), st.sampled_from(["revoke", "lose"])
)
events = st.tuples(st.just("events"), st.integers(1, 60))
drains = st.tuples(st.just("restart"), st.integers(0, OWNERS - 1))
schedules = st.lists(st.one_of(events, faults, moves, drains), min_size=1, max_size=14)


class Fleet:
    """Two workers of one group that a schedule shakes."""

    def __init__(self, in_flight):
        self.in_flight = in_flight
        self.broker = topics(MemoryBroker(), PARTITIONS)
        self.produced = 0
        self.owner = dict.fromkeys(range(PARTITIONS), 0)
        self.workers = [self._started(n) for n in range(OWNERS)]
        self._give(0, list(range(PARTITIONS)))

    def _started(self, n):
        blocks = {
            "engine": {"max_batch_size": 8, "in_flight": self.in_flight},
            "delivery": {"commit_interval_ms": 2, "commit_min_interval_ms": 0},
        }
        running = worker(self.broker, slot=f"s{n}", everything=False, **blocks)
        return running.__enter__()

    def _give(self, n, partitions):
        self.workers[n].source.assign(*(TopicPartition("events", p) for p in partitions))

    def events(self, count):
        fill(self.broker, count, partitions=PARTITIONS, start=self.produced)
        self.produced += count

    def fault(self, n, operation, at):
        name, answer = ("commit", True) if operation == "commit answer" else (operation, False)
        self.workers[n].sink.faults.fail(name, SinkError("again", retryable=True), at=at, afterwards=answer)

    def move(self, partition, to, how):
        source = self.workers[self.owner[partition]].source
        getattr(source, how)(TopicPartition("events", partition))
        until(lambda: not source.rebalancing)
        self.owner[partition] = to
        self._give(to, [partition])

    def restart(self, n):
        self.stop(n)
        self.workers[n] = self._started(n)
        self._give(n, [p for p, owner in self.owner.items() if owner == n])

    def stop(self, n):
        self.workers[n].stop()
        assert self.workers[n].failure is None

    def settle(self):
        self.broker.wait_records("predictions", self.produced, 20)
        until(lambda: sum(self.broker.offsets.values()) == self.produced)
        for n in range(OWNERS):
            self.stop(n)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(schedules, st.integers(1, 3))
def test_any_schedule_of_faults_and_rebalances_is_exactly_once(schedule, in_flight):
    fleet = Fleet(in_flight)
    for step, *arguments in schedule:
        getattr(fleet, step)(*arguments)
    fleet.events(9)
    fleet.settle()
    exactly_once(fleet.broker, fleet.produced)
