"""Which key gets which version: sticky, the same in every process and after every restart.

A key's place is a hash (BLAKE2b, salted) read as a number from 0 up to 1; each side owns an interval. The salt is the
canary's version or the experiment's name, so that the keys of one rollout say nothing about those of the next, and
raising a canary's weight only adds keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from streamserve.rollout.state import RolloutState

SALT_BYTES = blake2b.SALT_SIZE


@dataclass(frozen=True, slots=True)
class Split:
    """Sides by share.

    Attributes:
        salt: of the hash.
        ends: upper end of each side's interval but the last one's, ascending.
    """

    salt: bytes
    ends: tuple[float, ...]

    def sides(self, keys: Sequence[bytes]) -> npt.NDArray[np.intp]:
        """The side of every key: intp[n], 0 up to the number of ends."""
        salt = self.salt
        places = b"".join([blake2b(key, digest_size=8, salt=salt).digest() for key in keys])
        shares = np.frombuffer(places, dtype=">u8") / 2.0**64
        return np.searchsorted(np.asarray(self.ends), shares, side="right")


def split_of(state: RolloutState) -> Split | None:
    """How a state splits the keys: side 0 is stable (or the control), then canary or the other arms; None: not."""
    if state.canary is not None:
        return Split(_salt(f"canary/{state.canary}"), (1.0 - state.weight,))
    if state.experiment is not None:
        ends = np.cumsum([arm.weight for arm in state.arms])[:-1]
        return Split(_salt(f"experiment/{state.experiment}"), tuple(float(end) for end in ends))
    return None


def _salt(name: str) -> bytes:
    return blake2b(name.encode(), digest_size=SALT_BYTES).digest()
