"""Rollouts in words: a command as it was given, a state as it is. For the command line, logs and the dashboard."""

from __future__ import annotations

from streamserve.rollout.records import Arm, Canary, Command, Experiment, Promote, Retire, Rollback, Shadow, Stop
from streamserve.rollout.state import RolloutState


def command_words(command: Command) -> str:
    """What a command asks for: `canary of version 4 with 10 %`."""
    match command:
        case Promote(version=version):
            return f"promote version {version}"
        case Canary(version=version, weight=weight):
            return f"canary of version {version} with {_share(weight)}"
        case Shadow(version=version):
            return f"shadow of version {version}"
        case Experiment(name=name, arms=arms):
            return f"experiment {name}: {_arms(arms)}"
        case Rollback(drop=drop):
            return "roll back, and do not keep the version that is left" if drop else "roll back"
        case Stop(what=what):
            return f"stop the {what}"
        case Retire():
            return "retire the version before"


def state_words(state: RolloutState) -> list[str]:
    """What serves, a line each; the first one is the stable version."""
    if state.stable is None:
        return ["no version is stable yet"]
    lines = [f"version {state.stable} is stable"]
    if state.canary is not None:
        lines.append(f"version {state.canary} is on canary with {_share(state.weight)} of the keys")
    if state.experiment is not None:
        lines.append(f"experiment {state.experiment} runs: {_arms(state.arms)}")
    if state.shadow is not None:
        lines.append(f"version {state.shadow} scores beside, as a shadow")
    if state.active:
        lines.append(f"a rollback ends the {'experiment' if state.canary is None else 'canary'}")
    elif state.previous is not None:
        lines.append(f"a rollback goes back to version {state.previous} (kept warm)")
    return lines


def _share(weight: float) -> str:
    return f"{weight * 100:g} %"


def _arms(arms: tuple[Arm, ...]) -> str:
    return ", ".join(f"{arm.name} is version {arm.version} with {_share(arm.weight)}" for arm in arms)
