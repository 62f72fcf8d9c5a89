"""What is written into a transaction: predictions and dead letters, switch points, samples."""

from __future__ import annotations

from collections.abc import Callable

from streamserve import failpoints
from streamserve.batch import OutboundBatch, SampleRecords
from streamserve.clock import Clock
from streamserve.errors import SinkError
from streamserve.pipeline.assignment import Assignment
from streamserve.pipeline.stages import ScoredBatch
from streamserve.ports import Sink, Transaction
from streamserve.telemetry.versions import VersionMetrics
from streamserve.worker.parts import Sampler
from streamserve.worker.rotation import Written
from streamserve.worker.switch_points import SwitchPoints

BEGIN_WAIT_S = 0.05
"""How long it waits for a producer before it looks whether an abort is on."""


class Writer:
    """Fills and flushes transactions, for whoever holds the rotation's pen.

    Args:
        sink: where transactions come from.
        assignment: tells which rows are stale.
        sampler: takes samples for the drift monitor, or None.
        switch_points: say what was scored from where on, or None.
        metrics, clock: for the samples.
        stopped: whether a wait for a producer is in vain.
    """

    def __init__(
        self,
        sink: Sink,
        assignment: Assignment,
        *,
        sampler: Sampler | None,
        switch_points: SwitchPoints | None,
        metrics: VersionMetrics,
        clock: Clock,
        stopped: Callable[[], bool],
    ) -> None:
        self._sink = sink
        self._assignment = assignment
        self._sampler = sampler
        self._switch_points = switch_points
        self._metrics = metrics
        self._clock = clock
        self._stopped = stopped

    def write(self, written: Written, batch: ScoredBatch, may_wait: bool) -> bool:
        """Add a batch, less its stale rows.

        Args:
            written: the transaction; begun when there is something to add.
            batch: what was scored.
            may_wait: whether it may wait for a producer, which can take as long as the brokers do.

        Returns: whether it did; False, with nothing added, when it would have had to wait.

        Raises: SinkError.
        """
        stale = self._assignment.stale(batch.positions, batch.records.epochs)
        current = batch.without(stale) if stale else batch
        if current is None:
            return True
        if written.transaction is None:
            failpoints.reach("before_begin")
            written.transaction = self._begin() if may_wait else self._sink.begin(0)
            if written.transaction is None:
                return False
        for part in (*current.outbound, *self._switched(current)):
            written.transaction.add(part)
        written.batches.append(current)
        return True

    def flush(self, written: Written) -> None:
        """Wait until the brokers have it all; before it closes, add what is sampled of it. Raises: SinkError."""
        if written.transaction is None:
            return
        if written.closing:
            written.samples = self._sample(written.batches)
            if written.samples is not None:
                written.transaction.add(written.samples.outbound)
            failpoints.reach("after_produce")
        written.transaction.flush()
        if written.closing:
            failpoints.reach("after_flush")

    def _begin(self) -> Transaction:
        while (transaction := self._sink.begin(BEGIN_WAIT_S)) is None:
            if self._stopped():
                raise SinkError("stopped", retryable=True)
        return transaction

    def _switched(self, batch: ScoredBatch) -> tuple[OutboundBatch, ...]:
        points = self._switch_points.of(batch) if self._switch_points is not None else None
        return (points,) if points is not None else ()

    def _sample(self, batches: list[ScoredBatch]) -> SampleRecords | None:
        if self._sampler is None:
            return None
        began_s = self._clock.monotonic_s()
        parts = [(leg.samples, leg.rejects) for batch in batches for leg in batch.legs if leg.samples is not None]
        samples = self._sampler.sample(parts, began_s, self._clock.epoch_ms())
        self._metrics.now.sample_seconds.observe(self._clock.monotonic_s() - began_s)
        return samples
