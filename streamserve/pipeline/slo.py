"""How large a batch may be so that its records keep the latency goal `engine.slo_ms`.

The clock of the goal starts at the record's own timestamp, not when it was queued here: what it waited in Kafka counts.
Of what is left at the moment a batch is taken, the time that a commit takes goes off: the effects of a batch are not
visible before. Then:

* while half of the goal is left to the oldest record, the batch must end within what it has left, `T99(n) <= left`, as
  far as that leaves four fifths of the best throughput: a burst does not drag its first records over the goal;
* past the half there is a queue, and it is throughput that gets records out of one: the batch of the best throughput;
* a record older than `catch_up_lag_s`, and the worker catches up: it says so, transactions grow too, and nothing is
  bounded by time until for a second no record was older than the goal.

Nexus (SOSP 2019) plans every batch for half of the goal, others for a share of what is left. In a queue where the next
batch is whatever has gathered that does harm: smaller batches cost throughput, the queue grows, the batches shrink
further. docs/batching.md has the comparison.

A record whose timestamp is missing (-1), in the future or before the year 2000 counts from when it is looked at.

No threads, the clock is handed in. Plan and `scored` belong to compute, `committed` to the commit thread, `at_end` to
the poll thread; what they share are single assignments.
"""

from __future__ import annotations

from collections import deque

from streamserve.batch import RecordBatch
from streamserve.clock import Clock
from streamserve.pipeline.latency_model import LatencyModel
from streamserve.pipeline.serving import Deployment
from streamserve.telemetry.logs import Log
from streamserve.telemetry.versions import VersionMetrics

EARLIEST_MS = 946_684_800_000
"""2000-01-01. A timestamp before it is a mistake (seconds for milliseconds, mostly), no age."""
CALM_S = 1.0
"""So long nothing may have been older than the goal before the worker has caught up: partitions differ in age."""
COMMIT_GUESS_S = 0.02
"""What a commit takes, until one was measured."""
COMMITS = 64
PESSIMISTIC = 0.9
"""The quantile of the commits that a plan allows for."""
THROUGHPUT_KEPT = 0.8
"""Share of the best throughput that no deadline takes a batch below."""
MOST_FOR_COMMIT = 0.5
"""Share of the goal that the commit's allowance takes at most: the batch needs the rest, however slow the brokers."""


class SloPlanner:
    """Bounds batches by what is left of the goal (port `BatchPlanner` of the batcher).

    Args:
        slo_s: goal for the time from a record's timestamp to its commit.
        catch_up_lag_s: age beyond which throughput counts alone; twice the goal at least.
        max_rows: most rows of a batch, whatever the time.
        clock: both kinds of time.
        metrics: `catching_up` goes there.
        log: told when catching up begins and ends.
    """

    def __init__(
        self,
        *,
        slo_s: float,
        catch_up_lag_s: float,
        max_rows: int,
        clock: Clock,
        metrics: VersionMetrics,
        log: Log,
    ) -> None:
        self._slo_s = slo_s
        self._catch_up_lag_s = max(catch_up_lag_s, 2 * slo_s)
        self._max_rows = max_rows
        self._clock = clock
        self._metrics = metrics
        self._log = log
        self._model = LatencyModel()
        self._deployment: Deployment | None = None
        self._commits: deque[float] = deque(maxlen=COMMITS)
        self._commit_s = min(COMMIT_GUESS_S, MOST_FOR_COMMIT * slo_s)
        self._usual_commit_s = self._commit_s
        self._catching_up = False
        self._behind_s = -CALM_S
        self._began_s = 0.0
        self._told_out_of_reach = False

    @property
    def slo_s(self) -> float:
        """The goal."""
        return self._slo_s

    @property
    def catching_up(self) -> bool:
        """Whether throughput counts alone."""
        return self._catching_up

    @property
    def least_s(self) -> float:
        """What a record needs at least, from here to its commit: a batch of its own and a usual commit."""
        line = self._model.line
        return (line.typical_s(1) if line is not None else 0.0) + self._usual_commit_s

    # -- compute -------------------------------------------------------------------------------------------------

    def leeway_s(self) -> float:
        """How old a record may be that still makes the goal. Not above 0 while none can, which is logged once."""
        least_s = self.least_s
        if least_s >= self._slo_s and not self._told_out_of_reach:
            self._told_out_of_reach = True
            self._log.warning("slo_out_of_reach", slo_ms=self._slo_s * 1000, least_ms=round(least_s * 1000, 1))
        return self._slo_s - least_s

    def due_s(self, records: RecordBatch) -> float:
        """Monotonic time by which the oldest of records that were polled just now must be committed."""
        now_ms = self._clock.epoch_ms()
        return self._clock.monotonic_s() + self._slo_s - (now_ms - oldest_ms(records, now_ms)) / 1000

    def rows(self, due_s: float, now_s: float) -> int:
        """Most rows of a batch that is taken now and holds a record due at `due_s`; at least 1."""
        left_s = due_s - now_s
        self._look(self._slo_s - left_s, now_s)
        line = self._model.line
        if line is None:
            return self._max_rows
        left_s -= self._commit_s
        if self._catching_up or left_s < (self._slo_s - self._commit_s) / 2:
            return line.best_throughput_rows(self._max_rows)
        least = line.best_throughput_rows(self._max_rows, THROUGHPUT_KEPT)
        return min(self._max_rows, max(least, line.rows_within(left_s)))

    def wait_s(self, due_s: float, now_s: float, rows: int) -> float:
        """How long a batch of `rows` may wait for company: within the first half of the goal, if it still fits then."""
        line = self._model.line
        left_s = due_s - now_s - self._commit_s
        needed_s = max((self._slo_s - self._commit_s) / 2, line.p99_s(rows) if line is not None else 0.0)
        return max(0.0, left_s - needed_s)

    def scored(self, deployment: Deployment, rows: int, seconds: float) -> None:
        """A batch of so many rows took so long, from decoding to encoding. Another deployment is learnt anew."""
        if deployment is not self._deployment:
            self._deployment = deployment
            timings = deployment.routes[0].model.warmed
            if timings:
                self._model = LatencyModel(timings)
        self._model.observe(rows, seconds)

    def _look(self, age_s: float, now_s: float) -> None:
        if age_s > self._slo_s:
            self._behind_s = now_s
        if not self._catching_up and age_s > self._catch_up_lag_s:
            self._catching_up = True
            self._began_s = now_s
            self._metrics.now.catching_up.set(1)
            self._log.warning("catching_up", behind_s=round(age_s, 1), slo_ms=self._slo_s * 1000)
        elif self._catching_up and now_s - self._behind_s >= CALM_S:
            self._caught_up(now_s)

    def _caught_up(self, now_s: float) -> None:
        self._catching_up = False
        self._metrics.now.catching_up.set(0)
        self._log.info("caught_up", seconds=round(now_s - self._began_s, 1))

    # -- others --------------------------------------------------------------------------------------------------

    def committed(self, seconds: float) -> None:
        """From scored to committed a batch took so long; while catching up, transactions are large on purpose."""
        if self._catching_up:
            return
        self._commits.append(seconds)
        ascending = sorted(self._commits)
        self._usual_commit_s = ascending[len(ascending) // 2]
        pessimistic_s = ascending[int(PESSIMISTIC * (len(ascending) - 1))]
        self._commit_s = min(pessimistic_s, MOST_FOR_COMMIT * self._slo_s)

    def at_end(self) -> None:
        """Nothing is left to read: whatever was behind is done."""
        if self._catching_up:
            self._caught_up(self._clock.monotonic_s())


def oldest_ms(records: RecordBatch, now_ms: int) -> int:
    """The oldest plausible timestamp of these records; `now_ms` where there is none."""
    oldest = min(records.timestamp_ms)
    if EARLIEST_MS <= oldest <= now_ms:
        return oldest
    return min((ms for ms in records.timestamp_ms if EARLIEST_MS <= ms <= now_ms), default=now_ms)
