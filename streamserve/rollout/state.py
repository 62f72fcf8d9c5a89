"""What the commands make: a fold, the same in every worker, in the sidecar and in the command line."""

from __future__ import annotations

from dataclasses import dataclass, replace

from streamserve.rollout.records import (
    NONE,
    Arm,
    Canary,
    Command,
    Experiment,
    Promote,
    Retire,
    Rollback,
    Shadow,
    Stop,
)

WEIGHT_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutState:
    """Which versions serve.

    Attributes:
        revision: offset of the newest command that had an effect; -1 before any.
        stable: gets what nobody else gets; None before the first worker has said which version it started with.
        previous: what a rollback goes back to; kept warm.
        canary, weight: version with a share of the keys.
        shadow: version that scores the same batches beside.
        experiment, arms: name and sides of an A/B test; the first arm is the control.
    """

    revision: int = NONE
    stable: str | None = None
    previous: str | None = None
    canary: str | None = None
    weight: float = 0.0
    shadow: str | None = None
    experiment: str | None = None
    arms: tuple[Arm, ...] = ()

    @property
    def active(self) -> bool:
        """Whether more than one version answers."""
        return self.canary is not None or self.experiment is not None

    @property
    def sides(self) -> tuple[str, ...]:
        """The version of each side of the split: one, when there is none."""
        if self.experiment is not None:
            return tuple(arm.version for arm in self.arms)
        return tuple(version for version in (self.stable, self.canary) if version is not None)

    @property
    def serving(self) -> tuple[str, ...]:
        """Versions whose predictions are produced, the stable one first, the shadow last."""
        named = (self.stable, self.canary, *(arm.version for arm in self.arms), self.shadow)
        return tuple(dict.fromkeys(version for version in named if version is not None))

    @property
    def needed(self) -> tuple[str, ...]:
        """Versions to have loaded and warm: those that serve, then the one that a rollback goes back to."""
        behind = [self.previous] if self.previous is not None else []
        return tuple(dict.fromkeys([*self.serving, *behind]))


class Refused(Exception):
    """A command has no effect in this state; the message says why and what to do instead."""


def apply(state: RolloutState, command: Command, revision: int) -> RolloutState:
    """The state after a command that stands at offset `revision`.

    Raises:
        Refused: it has no effect, and says why. The state stays as it was.
    """
    if command.expects is not None and command.expects != state.revision:
        raise Refused(
            f"it was meant for revision {command.expects}, and by then {state.revision} was in force; look at"
            " `streamserve model status` and give it again if it is still wanted"
        )
    if state.stable is None and not isinstance(command, Promote):
        raise Refused("no version is stable yet: start a worker, or promote a version first")
    after = replace(_after(state, command), revision=revision)
    # A version that answers needs no shadow of itself.
    return replace(after, shadow=None) if after.shadow in {after.stable, *after.sides} else after


def _after(state: RolloutState, command: Command) -> RolloutState:
    match command:
        case Promote(version=version):
            if version == state.stable and not state.active:
                raise Refused(f"version {version} is stable already")
            return replace(
                _ended(state),
                stable=version,
                previous=state.previous if version == state.stable else state.stable,
            )
        case Canary(version=version, weight=weight):
            if version == state.stable:
                raise Refused(f"version {version} is the stable one already")
            if state.experiment is not None:
                raise Refused(f"experiment {state.experiment} is running; stop it first")
            return replace(state, canary=version, weight=weight)
        case Shadow(version=version):
            if version in {state.stable, *state.sides}:
                raise Refused(f"version {version} serves already; a shadow must be another one")
            return replace(state, shadow=version)
        case Experiment(name=name, arms=arms):
            if state.canary is not None:
                raise Refused(f"version {state.canary} is on canary; promote it or roll it back first")
            if state.experiment is not None:
                raise Refused(f"experiment {state.experiment} is running; stop it first")
            _check_arms(arms)
            return replace(state, experiment=name, arms=arms)
        case Rollback(drop=drop):
            if state.active:
                return _ended(state)
            if state.previous is None:
                raise Refused("there is no version to go back to")
            return replace(state, stable=state.previous, previous=None if drop else state.stable)
        case Stop(what=what):
            if {"canary": state.canary, "shadow": state.shadow, "experiment": state.experiment}[what] is None:
                raise Refused(f"there is no {what} to stop")
            return replace(state, shadow=None) if what == "shadow" else _ended(state)
        case Retire():
            if state.previous is None:
                raise Refused("nothing is kept warm")
            return replace(state, previous=None)


def _ended(state: RolloutState) -> RolloutState:
    return replace(state, canary=None, weight=0.0, experiment=None, arms=())


def _check_arms(arms: tuple[Arm, ...]) -> None:
    names = [arm.name for arm in arms]
    versions = [arm.version for arm in arms]
    if len(set(names)) < len(names) or len(set(versions)) < len(versions):
        raise Refused("every arm of an experiment needs a name and a version of its own")
    total = sum(arm.weight for arm in arms)
    if abs(total - 1) > WEIGHT_ROUNDING:
        raise Refused(f"the weights of the arms sum to {total:g}, not to 1")
