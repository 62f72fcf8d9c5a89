"""From a request to a version on trial: train, push, check, roll out, tell.

Every step can be done again: a runner that died after the push finds its version in the repository by what it was made
for, and goes on with the check. A request can reach two runners, for a group that is joined meanwhile divides its
partitions anew; a lock beside the repository has the second wait, and then find what the first has made.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from streamserve.clock import Clock
from streamserve.config.rollout_settings import RetrainLoopSettings
from streamserve.errors import StreamServeError
from streamserve.registry.model import ModelVersion
from streamserve.retrain.command import TrainingFailed, run_command
from streamserve.retrain.requests import Request
from streamserve.rollout.log import Given, RolloutLog
from streamserve.rollout.records import Canary, Command, Promote, Shadow, new_id, text
from streamserve.rollout.state import Refused, RolloutState
from streamserve.telemetry.logs import Log

Result = Literal["failed", "refused", "pushed", "shadow", "canary", "promoted"]
THEN: Mapping[str, Result] = {"nothing": "pushed", "shadow": "shadow", "canary": "canary", "promote": "promoted"}
WHO = "retrain"
LOCK_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What a check of a new version on recorded samples found.

    Attributes:
        problems: why it must not see traffic, in sentences; empty when it may.
        rows: how many rows it was tried on.
        figures: what was measured, by name.
    """

    problems: tuple[str, ...] = ()
    rows: int = 0
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrained:
    """How a request ended.

    Attributes:
        result: what became of it.
        version: the new version; empty when there is none.
        why: what stopped it; empty when nothing did.
        trial: what the check found.
    """

    result: Result
    version: str = ""
    why: str = ""
    trial: Trial = Trial()


class Rollouts(Protocol):
    """The rollout topic, as somebody who gives commands sees it."""

    @property
    def log(self) -> RolloutLog: ...
    def read(self) -> RolloutState: ...
    def give(self, command: Command) -> Given: ...


class Repository(Protocol):
    """What is needed of a repository of models."""

    def versions(self, name: str) -> list[int]: ...
    def resolve(self, name: str, version: str) -> ModelVersion: ...
    def push(self, name: str, source: Path, *, trust: bool = False, created_from: str = "") -> ModelVersion: ...


class Retrainer:
    """Deals with requests, one at a time.

    Args:
        settings: the `retrain` block.
        model: name of the model.
        config_file: the pipeline's configuration, for the command and for relative paths.
        repository: where versions go.
        lock: a file that runners of the model share.
        stable: says the number of the version that is stable.
        check: tries a version beside another.
        rollouts: opens the rollout topic; None where there are no rollouts.
        stop: whether we are to end.
    """

    def __init__(
        self,
        settings: RetrainLoopSettings,
        *,
        model: str,
        config_file: Path,
        repository: Repository,
        lock: Path,
        stable: Callable[[], str],
        check: Callable[[ModelVersion, str], Trial],
        rollouts: Callable[[], contextlib.AbstractContextManager[Rollouts]] | None,
        stop: Callable[[], bool],
        clock: Clock,
        log: Log,
    ) -> None:
        self._settings = settings
        self._model = model
        self._config_file = config_file.resolve()
        self._repository = repository
        self._lock = lock
        self._stable = stable
        self._check = check
        self._rollouts = rollouts
        self._stop = stop
        self._clock = clock
        self._log = log

    def handle(self, request: Request) -> Retrained:
        """All steps; a failure is a result and not an exception, so that the next request is dealt with."""
        self._log.info("retraining", reason=request.reason)
        version = ""
        try:
            stable = self._stable()  # before the push: without rollouts the new version may be the latest, and so it
            with self._alone():
                pushed = self._pushed_before(request) or self._train(request)
            version = pushed.version
            trial = self._tried(pushed, stable)
            if trial.problems:
                return self._told(
                    Retrained(result="refused", version=version, why="; ".join(trial.problems), trial=trial)
                )
            result, why = self._roll_out(version, request)
            return self._told(Retrained(result=result, version=version, why=why, trial=trial))
        except StreamServeError as error:
            return self._told(Retrained(result="failed", version=version, why=str(error)))

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """No other runner trains this model. Raises: TrainingFailed, when we are to end while waiting for another."""
        self._lock.parent.mkdir(parents=True, exist_ok=True)
        with self._lock.open("a") as file:
            while not _locked(file.fileno()):
                if self._stop():
                    raise TrainingFailed("stopped while another runner was training")
                time.sleep(LOCK_S)
            yield

    def _train(self, request: Request) -> ModelVersion:
        with tempfile.TemporaryDirectory(prefix="streamserve-retrain-") as folder:
            out, asked = Path(folder) / "out", Path(folder) / "request.json"
            out.mkdir()
            asked.write_bytes(request.document)
            run_command(
                self._settings.command,
                folder=self._config_file.parent / self._settings.folder,
                variables={
                    "RETRAIN_OUT": str(out),
                    "RETRAIN_REQUEST": str(asked),
                    "RETRAIN_CONFIG": str(self._config_file),
                    "RETRAIN_MODEL": self._model,
                    "RETRAIN_VERSION": request.version,
                    "RETRAIN_REASON": request.reason,
                    "RETRAIN_AT_MS": str(request.at_ms),
                },
                passed_on=self._settings.environment,
                timeout_s=self._settings.timeout_s,
                stop=self._stop,
                line=lambda text: self._log.info("training", line=text),
            )
            if not any(out.iterdir()):
                raise TrainingFailed("retrain.command ended well, but left nothing in $RETRAIN_OUT")
            return self._repository.push(self._model, out, trust=self._settings.trust, created_from=_made_for(request))

    def _pushed_before(self, request: Request) -> ModelVersion | None:
        """The version that an earlier life of ours made for this very request."""
        newest = max(self._repository.versions(self._model), default=None)
        if newest is None:
            return None
        found = self._repository.resolve(self._model, str(newest))
        return found if found.manifest.source == _made_for(request) else None

    def _tried(self, pushed: ModelVersion, stable: str) -> Trial:
        wanted = self._settings.check.metrics
        measured = pushed.manifest.metrics
        problems = [
            f"its metric {name} is {measured[name]:g}, at least {least:g} is asked for (retrain.check.metrics)"
            if name in measured
            else f"its model.yaml has no metric {name} (retrain.check.metrics)"
            for name, least in wanted.items()
            if not measured.get(name, float("-inf")) >= least
        ]
        return Trial(problems=tuple(problems)) if problems else self._check(pushed, stable)

    def _roll_out(self, version: str, request: Request) -> tuple[Result, str]:
        """Give the command, once for a version and not over what people have under way; what became of it, and why."""
        then = self._settings.then
        if self._rollouts is None or then == "nothing":
            return "pushed", ""
        with self._rollouts() as rollouts:
            state = rollouts.read()
            if any(given.command.by == WHO and _names(given.command, version) for given in rollouts.log.history):
                return THEN[then], "its command was given before; the history says what came of it"
            running = state.canary or state.experiment or (state.shadow if then == "shadow" else None)
            if running is not None:
                return "refused", f"{running} is being tried (streamserve model status); roll {version} out by hand"
            try:
                given = rollouts.give(self._command(version, request, state.revision))
            except Refused as refused:
                return "refused", str(refused)
        return ("refused", given.refused) if given.refused else (THEN[then], "")

    def _command(self, version: str, request: Request, revision: int) -> Command:
        told: dict[str, Any] = {
            "id": new_id(),
            "by": WHO,
            "why": text(request.reason),
            "at_ms": self._clock.epoch_ms(),
            "expects": revision,
        }
        match self._settings.then:
            case "shadow":
                return Shadow(version=version, **told)
            case "canary":
                return Canary(version=version, weight=self._settings.weight, **told)
            case _:
                return Promote(version=version, **told)

    def _told(self, how: Retrained) -> Retrained:
        line = self._log.error if how.result == "failed" else self._log.info
        line("retrained", result=how.result, version=how.version, why=how.why, rows=how.trial.rows, **how.trial.figures)
        return how


def _names(command: Command, version: str) -> bool:
    return isinstance(command, Canary | Promote | Shadow) and command.version == version


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _made_for(request: Request) -> str:
    """What `model.yaml` says of where a version came from; tells requests apart."""
    at = dt.datetime.fromtimestamp(request.at_ms / 1000, dt.UTC).isoformat(timespec="milliseconds")
    return f"streamserve retrain: {request.reason} (asked {at})"
