"""The guard of a slot: rolls a canary back, or ends an experiment, when one of its versions breaks a rule.

The commit thread tells it what became of every committed batch (`settled`), whoever follows the rollout tells it who is
judged (`follow`), and a thread of its own looks a few times a window (`rollout.guard` has the rules). While there are
candidates it also reads the drift monitor's alerts, from the time of the command on: an incident that opens for a
candidate is a breach as well, performance included.

What it does is publish `Rollback` on the control topic, like a person, with the figures as the reason. The command
expects the revision that was judged, so the first worker's word counts, that of the others has no effect, and a person
who was faster is not overruled. Every worker judges its own rows. Brokers that are away delay the command alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Final, Self

import msgspec

from streamserve.batch import Reject
from streamserve.clock import Clock
from streamserve.config.rollout_settings import GuardSettings
from streamserve.drift.events import Alert
from streamserve.errors import StreamServeError
from streamserve.pipeline.stages import ScoredBatch
from streamserve.rollout.guard import SLICES, Breach, Guard
from streamserve.rollout.records import NONE, Rollback, new_id, text
from streamserve.rollout.state import RolloutState
from streamserve.rollout.topic import RecordWriter
from streamserve.telemetry.logs import Log
from streamserve.telemetry.versions import VersionMetrics

MAX_LOOK_S: Final = 1.0
RETRY_S: Final = 1.0
CLOSE_S: Final = 5.0

Writers = Callable[[], AbstractContextManager[RecordWriter]]
"""Makes a writer for one command: a guard that has nothing to say needs no client."""
Alerts = Callable[[int, Callable[[], bool]], Iterator[bytes | None]]
"""The values on the topic of alerts from an epoch millisecond on, as they come, until the function says stop."""


class WorkerGuard:
    """A context manager that owns a thread, and another one while there is somebody to judge.

    Args:
        settings: what is allowed.
        pipeline, model: whose alerts count.
        writers: of the control topic.
        alerts: of the drift monitor; None without one.
        metrics: by version.
    """

    def __init__(
        self,
        settings: GuardSettings,
        *,
        pipeline: str,
        model: str,
        writers: Writers,
        alerts: Alerts | None,
        metrics: VersionMetrics,
        clock: Clock,
        log: Log,
    ) -> None:
        self._pipeline = pipeline
        self._model = model
        self._writers = writers
        self._alerts = alerts if settings.drift else None
        self._metrics = metrics
        self._clock = clock
        self._log = log
        self._look_s = min(MAX_LOOK_S, settings.window_s / SLICES)
        self._lock = threading.Lock()
        self._guard = Guard(settings)
        self._incident: Breach | None = None
        self._asked = NONE
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="guard", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join(CLOSE_S)

    def follow(self, state: RolloutState, since_ms: int) -> None:
        """Judge the versions of a state that serves now.

        Args:
            state: the first of its sides is the stable version (or the control), the others are judged.
            since_ms: epoch time of the command that made it.
        """
        if state.revision == self._guard.revision:
            return
        stable, *candidates = state.sides
        with self._lock:
            self._guard.follow(state.revision, stable, candidates)
            self._incident = None
        if candidates and self._alerts is not None:
            arguments = (self._alerts, state.revision, since_ms)
            threading.Thread(target=self._read_alerts, args=arguments, name="guard-alerts", daemon=True).start()

    def settled(self, batch: ScoredBatch) -> None:
        """Take in what became of a batch that is committed. Cheap: once a batch, on the commit thread."""
        if batch.revision != self._guard.revision:
            return
        now_s = self._clock.monotonic_s()
        with self._lock:
            for leg in batch.legs:
                if leg.model.fallback:
                    continue
                rejects = [reject.row for reject in leg.rejects if _by_model(reject)]
                self._guard.add(
                    now_s,
                    batch.revision,
                    leg.model.version,
                    rows=len(leg.row) + len(rejects),
                    rejected=len(rejects),
                    keys=_keys(batch, rejects),
                    seconds=leg.infer_s,
                    stable_s=leg.stable_s,
                )

    # -- thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping.wait(self._look_s):
            with self._lock:
                revision = self._guard.revision
                breach = self._incident or self._guard.verdict(self._clock.monotonic_s())
            if breach is not None and revision != self._asked:
                self._roll_back(breach, revision)

    def _roll_back(self, breach: Breach, revision: int) -> None:
        command = Rollback(
            id=new_id(), by="guard", why=text(breach.detail), at_ms=self._clock.epoch_ms(), expects=revision
        )
        try:
            with self._writers() as writer:
                writer.publish(command)
        except StreamServeError as error:  # said again at the next look: should it stand there twice, one has no effect
            self._log.warning("guard_not_heard", revision=revision, error=str(error))
            self._stopping.wait(RETRY_S)
            return
        self._asked = revision
        self._metrics.of(breach.version).guard_rollbacks[breach.rule,].inc()
        self._log.error("guard_rolled_back", version=breach.version, rule=breach.rule, why=breach.detail)

    # -- alerts --------------------------------------------------------------------------------------------------

    def _read_alerts(self, alerts: Alerts, revision: int, since_ms: int) -> None:
        """Until the revision is over; what was read before a failure is read again, and says the same."""

        def over() -> bool:
            return self._stopping.is_set() or self._guard.revision != revision

        while not over():
            try:
                for value in alerts(since_ms, over):
                    self._alert(value, revision)
            except StreamServeError as error:
                self._log.warning("guard_alerts_away", error=str(error))
                self._stopping.wait(RETRY_S)

    def _alert(self, value: bytes | None, revision: int) -> None:
        try:
            alert = msgspec.json.decode(value or b"", type=Alert)
        except msgspec.DecodeError:
            return  # a request for training, or none of ours
        with self._lock:
            ours = (alert.pipeline, alert.model) == (self._pipeline, self._model) and self._guard.revision == revision
            if ours and alert.alert == "opened" and alert.version in self._guard.candidates:
                detail = f"the drift monitor opened incident {alert.incident}: {alert.title}"
                self._incident = self._incident or Breach(alert.version, "drift", detail)


def _by_model(reject: Reject) -> bool:
    """Whether a reject speaks against a version, and not against the event or its delay."""
    return reject.stage in {"infer", "encode"} and reject.reason != "too_late"


def _keys(batch: ScoredBatch, rows: list[int]) -> list[bytes]:
    """The entity keys of these rows, by which they stick to their version; a row without one stands for itself."""
    if not rows or batch.events is None:
        return []
    entities = dict(zip(batch.events.row, batch.events.entity, strict=True))
    return [key for key in map(entities.get, rows) if key is not None]
