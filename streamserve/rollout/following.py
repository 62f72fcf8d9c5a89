"""Who follows a command: live slots and their acknowledgements, judged for one revision."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from streamserve.rollout.records import Acknowledgement

Standing = Literal["follows", "failed", "waits", "gone"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Follower:
    """Where a slot stands.

    Attributes:
        slot: its name; empty for a member of the group that does not say.
        standing: `follows` serves the revision or a later one; `failed` knows it and could not; `waits` has not
            answered yet; `gone` has answered once and is not in the group any more.
        acknowledgement: the newest of the slot.
    """

    slot: str
    standing: Standing
    acknowledgement: Acknowledgement | None = None


def followers(
    revision: int,
    acknowledgements: Mapping[str, Acknowledgement],
    live: Collection[str],
    unnamed: int = 0,
) -> list[Follower]:
    """Every slot that is live or has ever answered, by name.

    Args:
        revision: which is to be followed.
        acknowledgements: by slot, the newest.
        live: slots in the group.
        unnamed: members beside those whose slot is not known. As many of the slots that are not known to be live are
            taken for them, those that answered first; members beyond that wait.
    """
    others = [slot for slot in acknowledgements if slot not in live]
    ahead = sorted(others, key=lambda slot: (acknowledgements[slot].revision < revision, -acknowledgements[slot].at_ms))
    taken = {*live, *ahead[:unnamed]}
    named = [
        Follower(
            slot=slot,
            standing=_standing(revision, acknowledgements.get(slot), live=slot in taken),
            acknowledgement=acknowledgements.get(slot),
        )
        for slot in sorted({*taken, *others})
    ]
    return named + [Follower(slot="", standing="waits")] * max(0, unnamed - len(others))


def _standing(revision: int, acknowledgement: Acknowledgement | None, *, live: bool) -> Standing:
    if not live:
        return "gone"
    if acknowledgement is None or acknowledgement.revision < revision:
        return "waits"
    return "follows" if acknowledgement.serving >= revision else "failed"
