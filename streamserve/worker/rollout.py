"""Follows the rollout topic: loads what a command asks for beside the running worker, then switches.

One thread of a slot, beside the line of `loop`. It reads commands, has the versions of the new state loaded, warmed and
rehearsed while the old ones go on serving, and puts a new `Deployment` in the place of the old one with one assignment:
whoever scores looks it up once a batch, so the switch falls between two batches. Whatever is wrong with a new
version, the old deployment stays, and the slot's acknowledgement says why. It is tried again when a new command comes.

The topic's word holds over `model.version`, which only says what the very first worker starts with. Brokers that are
away stop nothing but the following.

A load may take a minute, a rollback must not. So a load has a helper thread, and the topic is followed on: a state that
needs nothing more than what is loaded is switched to at once, and what was being loaded is let go of unless it is
needed. Nor does a change of who answers wait for a shadow, or fail with it: the shadow follows.

Both threads run at a lower priority than the line: a load takes seconds of CPU (graph optimisation, warm-up), and on a
full machine they would be taken from the events (Triton #8117 and #8587, TensorFlow Serving #1866 are users who saw
their p99 rise tenfold during a load).
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal, Protocol

from streamserve.batch import ModelIdentity
from streamserve.clock import Clock
from streamserve.errors import EngineError, StreamServeError
from streamserve.pipeline.serving import Deployment, LoadedModel, Route
from streamserve.pipeline.stages import ScoredBatch
from streamserve.rollout.log import RolloutLog
from streamserve.rollout.records import NONE, Acknowledgement, Promote, new_id, text
from streamserve.rollout.split import split_of
from streamserve.rollout.state import RolloutState
from streamserve.rollout.topic import RecordReader, RecordWriter
from streamserve.telemetry.logs import Log
from streamserve.telemetry.versions import ServedModel, VersionMetrics
from streamserve.worker.guard import WorkerGuard
from streamserve.worker.loading import Load
from streamserve.worker.shadow import ShadowLane

START_TIMEOUT_S = 60.0
"""For reading the topic to its end before the worker is ready."""
POLL_S = 0.2
LOAD_POLL_S = 0.05
"""While a version is being loaded."""
LOAD_LEFT_S = 10.0
"""How long the end of a load is waited for once the worker has stopped."""
LANE_TIMEOUT_S = 30.0
RETRY_S = 1.0
"""Pause after the topic could not be read or written."""
NICENESS = 10
"""Measured on two full cores, small batches beside a load that never ends: p50 0.3 ms instead of 1.1, p99 10 instead of
14; without a load 0.3 and 5."""


class Models(Protocol):
    """Where loaded versions come from."""

    @property
    def versions(self) -> Sequence[str]: ...
    def get(self, version: str, *, serving: Collection[str]) -> LoadedModel: ...
    def fits(self, version: str) -> bool: ...
    def keep(self, serving: Collection[str], needed: Collection[str]) -> None: ...
    def sweep(self) -> None: ...


class RolloutFollower:
    """Keeps a slot's deployment at what the topic says; the stages' `Deployments`.

    `start` is called before the worker runs, `run` is a thread of it.

    Args:
        slot: who acknowledges.
        reader, writer: the topic.
        models: loads versions and keeps them.
        first: resolves the version that the settings mean; asked only when the topic says nothing yet.
        metrics: told which versions serve.
        lane: scores beside what the deployment calls its shadow; told before a switch, so that it has left an engine
            which the line uses next, or which is closed.
        guard: told after a switch whom to judge.

    Attributes:
        current: what serves; not there before `start`.
    """

    current: Deployment

    def __init__(
        self,
        *,
        slot: str,
        reader: RecordReader,
        writer: RecordWriter,
        models: Models,
        first: Callable[[], str],
        metrics: VersionMetrics,
        clock: Clock,
        log: Log,
        lane: ShadowLane | None = None,
        guard: WorkerGuard | None = None,
    ) -> None:
        self._slot = slot
        self._reader = reader
        self._writer = writer
        self._models = models
        self._first = first
        self._metrics = metrics
        self._clock = clock
        self._log = log
        self._lane = lane
        self._guard = guard
        self._topic = RolloutLog()
        self._known = NONE
        self._state = RolloutState()
        self._due: RolloutState | None = None
        self._began_s = 0.0
        self._load: Load | None = None
        self._error = ""
        self._broken: set[str] = set()
        self._previous_due = False
        self._unsent: Acknowledgement | None = None
        self._stopping = threading.Event()
        self._leaves = False

    def start(self) -> None:
        """Read the topic to its end and have what it says serve.

        When the newest state cannot be served, an earlier one is, with the same stable version, or the one before it,
        or what a slot says it serves; the acknowledgement carries the error.

        Raises:
            BrokerUnavailable, ContractError: the topic cannot be read or written.
            StreamServeError: no such state can be served; what is wrong with the newest.
        """
        began_s = self._clock.monotonic_s()
        self._reader.open()
        self._writer.open()
        self._read_to_end()
        if self._topic.state.stable is None:
            self._begin()
        self._known = self._topic.state.revision
        self._deploy_newest()
        self._acknowledge(began_s)

    def run(self) -> None:
        """Follow, until `close`."""
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        while not self._stopping.is_set():
            try:
                self._step()
            except StreamServeError as error:
                self._log.warning("rollout_topic_away", error=str(error))
                self._stopping.wait(RETRY_S)
        self._leave()
        if self._load is not None:
            self._load.ended(LOAD_LEFT_S)

    def settled(self, batches: Sequence[ScoredBatch]) -> None:
        """These are committed: what became of them is the guard's to judge."""
        if self._guard is not None:
            for batch in batches:
                self._guard.settled(batch)

    def close(self, *, leaves: bool) -> None:
        """End `run`; `leaves`: the slot ends in good order, so its acknowledgement goes."""
        self._leaves = leaves
        self._stopping.set()

    # -- start ---------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Say which version this pipeline starts with; when several workers do, the first one's word holds."""
        self._writer.publish(
            Promote(
                id=new_id(),
                version=self._first(),
                by=text(self._slot),
                why="first start",
                at_ms=self._clock.epoch_ms(),
                expects=NONE,
            )
        )
        while self._topic.state.stable is None:
            self._read_to_end()

    def _read_to_end(self) -> None:
        for entry in self._reader.read_to_end(START_TIMEOUT_S):
            self._topic.add(*entry)

    def _deploy_newest(self) -> None:
        """Have the newest state serve that can. Raises: what is wrong with the newest, when none can."""
        first: Exception | None = None
        for state in _candidates(self._topic):
            if self._broken.intersection(state.serving):
                continue
            try:
                self._deploy(state)
            except Exception as error:
                self._failed(state, error)
                first = first or error
            else:
                return
        if first is not None:
            raise first

    # -- follow --------------------------------------------------------------------------------------------------

    def _step(self) -> None:
        for entry in self._reader.poll(POLL_S if self._load is None else 0.0):
            self._topic.add(*entry)
        state = self._topic.state
        if state.revision != self._known:
            self._began_s = self._clock.monotonic_s()
            self._known = state.revision
            self._follow(state)
        elif self._load is not None:
            if self._load.ended(LOAD_POLL_S):
                self._loaded(self._load)
        elif self._previous_due:
            self._warm_previous(state.previous)
        elif self._unsent is not None:
            self._send(self._unsent)
        if self._load is None:
            self._models.sweep()

    def _follow(self, state: RolloutState) -> None:
        """Have a new state serve; the old one goes on meanwhile, and when that fails."""
        self._broken.difference_update(state.serving)
        self._error = ""
        self._due = state
        self._advance(state)

    def _advance(self, state: RolloutState) -> None:
        """Switch to a state, or begin to load what it lacks; while something else is being loaded it has to wait."""
        ready = self._ready(state) if self._load is None else self._load.ready
        lacking = [version for version in state.serving if version not in ready]
        if not lacking:
            self._try(state, ready)
            self._conclude()
            return
        if lacking == [state.shadow] and _answering(state) != _answering(self._state):
            self._try(replace(state, shadow=None), ready)
            self._acknowledge(self._began_s)
        if self._load is None:
            version, keep = lacking[0], self._kept(state)
            self._load = Load(version, lambda: self._models.get(version, serving=keep), ready, state)

    def _try(self, state: RolloutState, models: Mapping[str, LoadedModel]) -> None:
        try:
            self._switch(state, models)
        except Exception as error:
            self._failed(state, error)

    def _loaded(self, load: Load) -> None:
        """What follows the end of a load: the switch, the next load, or an answer."""
        self._load = None
        if load.failure is not None:
            self._broken.add(load.version)
        if self._due is None:
            if load.failure is not None:
                self._log.warning("load_failed", version=load.version, error=str(load.failure))
            self._began_s = self._clock.monotonic_s()
            self._conclude()
        elif load.failure is not None and load.wanted is self._due:
            self._failed(self._due, load.failure)
            self._conclude()
        else:
            self._advance(self._due)

    def _conclude(self) -> None:
        """Nothing is waited for any more: say so, and let go of what was loaded for a state that failed or is past."""
        self._due = None
        if self._load is None:
            self._tidy()
        self._acknowledge(self._began_s)

    def _tidy(self) -> None:
        """Let go of what is not needed; what a rollback goes back to is the last to make room."""
        state = self._state
        if state.previous is not None and state.previous in self._models.versions:
            self._models.get(state.previous, serving=state.serving)
        self._models.keep(state.serving, state.needed)

    def _deploy(self, state: RolloutState) -> None:
        """Load what is missing, then switch. Raises: what a version that must serve was refused for."""
        keep = self._kept(state)
        self._switch(state, {version: self._get(version, keep) for version in state.serving})
        self._tidy()

    def _switch(self, state: RolloutState, models: Mapping[str, LoadedModel]) -> None:
        """Have a state serve whose versions are loaded. Raises: EngineError."""
        deployment = deployed(state, models)
        if self._lane is not None and not self._lane.only(state.shadow, LANE_TIMEOUT_S):
            raise EngineError(f"the shadow has been inside its engine for {LANE_TIMEOUT_S:.0f} s")
        if state.stable is not None:
            self._metrics.stable(state.stable)
        self.current = deployment
        self._state = state
        if self._guard is not None:
            self._guard.follow(state, self._topic.given_ms(state.revision))
        self._metrics.serving([served(route) for route in deployment.all_routes])
        self._previous_due = True
        self._log.info("rollout_switched", revision=state.revision, serving=list(state.serving))

    def _kept(self, state: RolloutState) -> set[str]:
        """Versions that a load for this state must not push out: also what serves now, and its way back."""
        return {*state.serving, *self._state.needed}

    def _ready(self, state: RolloutState) -> dict[str, LoadedModel]:
        """What is loaded and stays so while something is loaded for this state."""
        keep = self._kept(state)
        return {v: self._models.get(v, serving=keep) for v in self._models.versions if v in keep}

    def _serving(self) -> tuple[str, ...]:
        """Versions that the present deployment holds."""
        return tuple(route.model.version for route in self.current.all_routes) if hasattr(self, "current") else ()

    def _get(self, version: str, keep: Collection[str]) -> LoadedModel:
        try:
            return self._models.get(version, serving=keep)
        except Exception:
            self._broken.add(version)
            raise

    def _failed(self, state: RolloutState, error: BaseException) -> None:
        """Say that a state cannot be served."""
        message = str(error) if isinstance(error, StreamServeError) else f"{type(error).__name__}: {error}"
        self._error = self._error or text(message)
        self._log.error("rollout_not_followed", revision=state.revision, error=message, stays=self._serving())

    def _warm_previous(self, version: str | None) -> None:
        """Load what a rollback goes back to, if it fits; it is only a kindness, and nothing fails with it."""
        self._previous_due = False
        if version is None or version in self._broken or version in self._models.versions:
            return
        keep = self._kept(self._state)

        def load() -> None:
            if self._models.fits(version):
                self._models.get(version, serving=keep)

        self._load = Load(version, load, self._ready(self._state))

    # -- answer --------------------------------------------------------------------------------------------------

    def _acknowledge(self, began_s: float) -> None:
        self._unsent = Acknowledgement(
            slot=self._slot,
            revision=self._known,
            serving=self.current.revision,
            versions=tuple(sorted(self._models.versions, key=int)),
            error=self._error,
            took_ms=round((self._clock.monotonic_s() - began_s) * 1000, 3),
            at_ms=self._clock.epoch_ms(),
        )
        self._send(self._unsent)

    def _send(self, acknowledgement: Acknowledgement) -> None:
        """Publish it; what the brokers do not take is sent again later."""
        try:
            self._writer.publish(acknowledgement)
            self._unsent = None
        except StreamServeError as error:
            self._log.warning("rollout_not_acknowledged", error=str(error))
            self._stopping.wait(RETRY_S)

    def _leave(self) -> None:
        try:
            if self._leaves:
                self._writer.tombstone(self._slot)
        except StreamServeError as error:
            self._log.warning("rollout_not_left", error=str(error))
        finally:
            self._reader.close()
            self._writer.close()


def deployed(state: RolloutState, models: Mapping[str, LoadedModel]) -> Deployment:
    """The deployment of a state; `models` has every version that serves."""
    names = [arm.name for arm in state.arms] if state.experiment is not None else []
    routes = tuple(
        Route(
            models[version],
            _identity(
                models[version],
                role="canary" if side else "stable",
                experiment=state.experiment or "",
                arm=names[side] if names else "",
                told=state.active,
            ),
        )
        for side, version in enumerate(state.sides)
    )
    shadow = None
    if state.shadow is not None:
        shadow = Route(models[state.shadow], _identity(models[state.shadow], role="shadow", told=True))
    return Deployment(routes=routes, split=split_of(state), shadow=shadow, revision=state.revision)


def _answering(state: RolloutState) -> tuple[object, ...]:
    """Who answers, and whom."""
    return (state.sides, state.weight, state.experiment, state.arms)


def _identity(
    model: LoadedModel,
    *,
    role: Literal["stable", "canary", "shadow"],
    experiment: str = "",
    arm: str = "",
    told: bool = False,
) -> ModelIdentity:
    return ModelIdentity(
        name=model.name,
        version=model.version,
        sha256=model.sha256,
        role=role,
        experiment=experiment,
        arm=arm,
        told=told,
    )


def _candidates(topic: RolloutLog) -> Iterator[RolloutState]:
    """States to start with, the newest first: those that a rollback could lead to, and those that slots serve now.

    So a worker that starts anew serves what it served before, where the newest versions cannot be loaded.
    """
    newest = state = topic.state
    served = {acknowledgement.serving for acknowledgement in topic.acknowledgements.values()}
    while state.stable is not None:
        if state.stable in {newest.stable, newest.previous} or state.revision in served:
            yield state
            if state.shadow is not None:
                yield replace(state, shadow=None)
        state = topic.state_at(state.revision - 1)


def served(route: Route) -> ServedModel:
    """What the metrics say of a model that serves."""
    model = route.model
    return ServedModel(model.version, model.sha256, model.infer.engine.provider, route.identity.role)
