"""The shadow lane: scores once more what was scored, with another version, beside the line and never in its way.

    compute ──offer──> [waiting] ──lane thread──> enrich, infer, encode ──> `<p>.shadow`

Best effort by design, and dropped first: an offer is refused at once while the worker does not keep up (a full batch
waits already) or while the lane does not (two full batches wait). What waits is joined into batches of the engine's
size, for a shadow has time and small batches would cost the interpreter more. Its predictions are not part of any
transaction: after a failure or a restart of the worker some stand twice on the topic, or not at all.

Nothing that goes wrong here reaches the line. A row that fails is counted; a version whose device or code fails is left
alone until another one is named; brokers that are away cost what waits. The one thing that cannot be contained is a
native crash, which takes the process with it. So the lane notes what is inside its engine in a journal of its own: the
next life of the slot convicts no row of the stable path for a death in which the shadow was inside (`quarantine`), and
leaves the shadow alone that it finds when it starts.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate
from types import TracebackType
from typing import NamedTuple, Protocol, Self

from streamserve.batch import EventBatch, OutboundBatch, PredictionBatch
from streamserve.errors import StreamServeError
from streamserve.pipeline.agreement import Agreement, Answers
from streamserve.pipeline.infer import InferStage, Journal, Suspects
from streamserve.pipeline.serving import LoadedModel, Route
from streamserve.telemetry.logs import Log
from streamserve.telemetry.metrics import ShadowDrop

WAITING_BATCHES = 2
"""So many full batches may wait."""
GATHER_S = 0.05
"""The lane waits so long for company of the first rows: a joined batch costs little more than a row does."""
NICENESS = 10
PAUSE_S = 1.0
"""After the brokers refused what was said."""
CLOSE_S = 5.0


class ShadowSink(Protocol):
    """Where a shadow's predictions go: at most once, or more than once, and never waited for.

    Used by the lane's thread alone.
    """

    def open(self) -> None:
        """Make the client; waits for no broker."""
        ...

    def produce(self, outbound: OutboundBatch) -> int:
        """Hand records over, each to the partition of its number, modulo the topic's count.

        Returns:
            How many were taken, from the first on; for the others there is no room now.

        Raises:
            SinkError: none was, for the topic cannot be written to.
        """
        ...

    def lost(self) -> int:
        """How many records that were taken have since been given up; each is told once."""
        ...

    def close(self, timeout_s: float) -> None:
        """Send what was taken, within that time, and let go. Again does nothing."""
        ...


class _Work(NamedTuple):
    route: Route
    events: EventBatch
    predictions: Sequence[PredictionBatch]


class ShadowLane:
    """Port `pipeline.stages.Shadow`; a context manager that owns a thread.

    Args:
        sink: where the predictions go.
        topic: name of the topic, instead of the one that a version's encoder writes to.
        agreement: compares with what was predicted.
        journal: of this lane alone.
        quarantine: what earlier crashes taught.
        max_rows: of a batch of the engine.
        behind: whether the worker does not keep up; asked once an offer.
        crashed: whether the slot's last life ended with a shadow inside the engine.
    """

    def __init__(
        self,
        *,
        sink: ShadowSink,
        topic: str,
        agreement: Agreement,
        journal: Journal,
        quarantine: Suspects,
        max_rows: int,
        behind: Callable[[], bool],
        log: Log,
        crashed: bool = False,
    ) -> None:
        self._sink = sink
        self._topic = topic
        self._agreement = agreement
        self._journal = journal
        self._quarantine = quarantine
        self._max_rows = max_rows
        self._behind = behind
        self._log = log
        self._lock = threading.Lock()
        self._offered = threading.Condition(self._lock)
        self._left = threading.Condition(self._lock)
        self._waiting: deque[_Work] = deque()
        self._rows = 0
        self._version: str | None = None
        self._inside: str | None = None
        self._crashed = crashed
        self._off: str | None = None
        self._closed = False
        self._stage: tuple[LoadedModel, InferStage] | None = None
        self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drop what waits and end, within a bound: a thread that is stuck in its engine is left behind."""
        with self._lock:
            self._closed = True
            self._drop_waiting("switched")
            self._offered.notify_all()
        self._thread.join(CLOSE_S)

    # -- whoever follows the rollout -----------------------------------------------------------------------------

    def only(self, version: str | None, timeout_s: float) -> bool:
        """This version alone is scored from now on; None: no version is.

        Told before a deployment changes, so that an engine is never used by the lane and by the line at once, and
        never closed while the lane is inside it.

        Returns:
            Whether the lane has left every other version's engine.
        """
        with self._lock:
            if version != self._version:
                self._version, self._off = version, None
                if self._crashed and version is not None:
                    self._crashed, self._off = False, version
                    self._log.error("shadow_off", version=version, error="the worker died while a shadow was inside")
                self._drop_waiting("switched")
                if self._inside is None:
                    self._stage = None
            return self._left.wait_for(lambda: self._inside in {None, version}, timeout_s)

    # -- whoever scores ------------------------------------------------------------------------------------------

    def offer(self, route: Route, events: EventBatch, predictions: Sequence[PredictionBatch]) -> None:
        """Take the work on, or drop it and count it."""
        rows = len(events)
        if not rows:
            return
        behind = self._behind()
        with self._lock:
            refused = self._refused(route.model.version, rows, behind=behind)
            if refused is None:
                self._waiting.append(_Work(route, events, predictions))
                self._rows += rows
                if len(self._waiting) == 1:
                    self._offered.notify()
                return
        route.model.metrics.shadow_drop(refused, rows)

    def _refused(self, version: str, rows: int, *, behind: bool) -> ShadowDrop | None:
        if self._closed or version != self._version:
            return "switched"
        if version == self._off:
            return "off"
        if behind:
            return "behind"
        if self._waiting and self._rows + rows > WAITING_BATCHES * self._max_rows:
            return "queue"
        return None

    # -- lane thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        self._sink.open()
        try:
            while (works := self._take()) is not None:
                self._work_off(works)
                del works  # nothing of a model is held while the lane waits
        finally:
            self._sink.close(CLOSE_S / 2)

    def _take(self) -> list[_Work] | None:
        """The next works that make one batch, once there are some; None at the end."""
        with self._lock:
            while not self._waiting and not self._closed:
                self._offered.wait()
            gathered = self._closed or self._rows >= self._max_rows
        if not gathered:
            time.sleep(GATHER_S)
        with self._lock:
            if self._closed:
                return None
            works: list[_Work] = []
            rows = 0
            while self._waiting and self._joins(works, rows):
                work = self._waiting.popleft()
                works.append(work)
                rows += len(work.events)
            self._rows -= rows
            self._inside = works[0].route.model.version if works else None
            return works

    def _joins(self, works: list[_Work], rows: int) -> bool:
        if not works:
            return True
        first, work = works[0], self._waiting[0]
        fits = rows + len(work.events) <= self._max_rows
        return fits and work.route is first.route and work.events.alike(first.events)

    def _work_off(self, works: list[_Work]) -> None:
        """Score, compare and write; whatever fails is counted, told once and over."""
        if not works:
            return  # they were dropped while they gathered company
        route = works[0].route
        try:
            try:
                events = EventBatch.concat([work.events for work in works])
                predictions, outbound = self._scored(route, events)
            finally:
                self._leave()
            self._compare(works, predictions)
            self._produce(route, outbound)
        except Exception as error:
            route.model.metrics.shadow_error("infer", sum(len(work.events) for work in works))
            self._turn_off(route.model.version, error)

    def _leave(self) -> None:
        """Outside of the engine again, whatever came of it: the process lives, so nothing of it died inside."""
        self._journal.leave()
        with self._lock:
            if self._inside != self._version:
                self._stage = None  # stopped meanwhile: its engine can be closed once nothing holds it
            self._inside = None
            self._left.notify_all()

    def _scored(self, route: Route, events: EventBatch) -> tuple[PredictionBatch, OutboundBatch]:
        model, metrics = route.model, route.model.metrics
        features, enriched = model.enricher.enrich(events)
        if model.before is not None:
            features, more = model.before(features)
            enriched = enriched + more
        predictions, inferred = self._infer(model).run(features, route.identity)
        metrics.infer_seconds.observe(predictions.infer_s)
        metrics.batch_size.observe(len(features))
        metrics.inference_executions.inc()
        if model.after is not None:
            predictions, more = model.after(predictions)
            inferred = inferred + more
        outbound, encoded = model.encoder.encode(predictions)
        metrics.shadow_error("enrich", len(enriched))
        metrics.shadow_error("infer", len(inferred))
        metrics.shadow_error("encode", len(encoded))
        return predictions, replace(outbound, topic=self._topic)

    def _infer(self, model: LoadedModel) -> InferStage:
        """The version's engine behind this lane's journal."""
        if self._stage is None or self._stage[0] is not model:
            self._stage = model, model.infer.beside(self._journal, self._quarantine)
        return self._stage[1]

    def _compare(self, works: Sequence[_Work], predictions: PredictionBatch) -> None:
        metrics = works[0].route.model.metrics
        starts = accumulate((len(work.events.origin) for work in works), initial=0)
        stable = [(start, part) for start, work in zip(starts, works, strict=False) for part in work.predictions]
        for each in self._agreement.compare(
            Answers.joined(stable), Answers(predictions.events.row, predictions.outputs)
        ):
            metrics.shadow_compared.add(each.output, each.rows)
            metrics.shadow_difference.add(each.output, each.difference)
            metrics.shadow_disagreements.add(each.output, each.disagreements)

    def _produce(self, route: Route, outbound: OutboundBatch) -> None:
        metrics = route.model.metrics
        try:
            taken = self._sink.produce(outbound)
        except StreamServeError as error:
            metrics.shadow_error("produce", len(outbound))
            self._log.warning("shadow_not_written", topic=self._topic, error=str(error))
            time.sleep(PAUSE_S)
            return
        metrics.shadow_rows.inc(taken)
        metrics.shadow_drop("broker", len(outbound) - taken)
        metrics.shadow_error("produce", self._sink.lost())

    def _turn_off(self, version: str, error: Exception) -> None:
        with self._lock:
            if self._version == version:
                self._off = version
            self._drop_waiting("off")
        self._log.error("shadow_off", version=version, error=f"{type(error).__name__}: {error}")

    def _drop_waiting(self, reason: ShadowDrop) -> None:
        for work in self._waiting:
            work.route.model.metrics.shadow_drop(reason, len(work.events))
        self._waiting.clear()
        self._rows = 0
