"""Which rows are sampled: nested levels by a hash of the source position, and the level that the load calls for.

A row belongs to level k when its draw, a 64-bit hash of topic, partition and offset, is under 2^(64 - k). So a row of
level k is also one of every lower level, whoever samples it and however often: a replay, another worker or a new life
keeps the very same rows, and rows of different levels merge by their weight 2^k.

Pure: the time is handed in.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable
from math import ceil, log2
from typing import Final, Protocol

import numpy as np

from streamserve.batch import I64, U64
from streamserve.drift.chunk import MAX_LEVEL

WINDOW_S: Final = 1.0
"""The rate is that of the last one to two windows."""
REST_S: Final = 1.0
"""A level stays for so long before it falls."""
SLACK: Final = 1.25
"""So far above the budget a level may yield before the next one is taken; it falls back at the budget itself."""

_GAMMA: Final = 0x9E37_79B9_7F4A_7C15
_STEP: Final = np.uint64(_GAMMA)
_MIX_1: Final = np.uint64(0xBF58_476D_1CE4_E5B9)
_MIX_2: Final = np.uint64(0x94D0_49BB_1331_11EB)
_27, _30, _31 = np.uint64(27), np.uint64(30), np.uint64(31)


def stream_seed(topic: str, partition: int) -> int:
    """The 64-bit seed of a partition's draws: its number mixed into a hash (BLAKE2b) of the topic's name."""
    name = int.from_bytes(hashlib.blake2b(topic.encode(), digest_size=8).digest(), "little")
    state = (name + partition * _GAMMA) % (1 << 64)
    return int(_mix(np.array([state], dtype=np.uint64))[0])


def draws(seeds: U64 | np.uint64, offset: I64) -> U64:
    """The draw of every row: output number `offset` of the generator SplitMix64 with the partition's seed.

    Steele, Lea, Flood: Fast splittable pseudorandom number generators. OOPSLA 2014.

    Args:
        seeds: uint64[n], or one for all, from `stream_seed`.
        offset: int64[n].

    Returns:
        uint64[n], uniform.
    """
    state: U64 = offset.view(np.uint64) * _STEP
    state += seeds
    return _mix(state)


def kept(drawn: U64, level: int) -> I64:
    """Positions of the rows of a level, ascending. Level 0 has all of them."""
    if level == 0:
        return np.arange(len(drawn))
    return np.flatnonzero(drawn < np.uint64(1 << (64 - level)))


def _mix(state: U64) -> U64:
    """SplitMix64's finalizer, in place: every bit of the state moves every bit of the result."""
    state ^= state >> _30
    state *= _MIX_1
    state ^= state >> _27
    state *= _MIX_2
    state ^= state >> _31
    return state


class Levels(Protocol):
    """Says how densely to sample."""

    def next(self, rows: int, now_s: float) -> int:
        """The level of a transaction of `rows` that is at hand at the monotonic second `now_s`."""
        ...


class EveryRow:
    """`samples_per_s: all`."""

    def next(self, rows: int, now_s: float) -> int:  # noqa: ARG002  port
        """Level 0."""
        return 0


class LoadLevels:
    """The level that keeps the yield about at a budget; level 0 while all rows are within it.

    The rate is measured over one to two seconds. A level rises as soon as it yields more than 1.25 times the budget, by
    as much as is needed; it falls, at most once a second, when the rate would be within the budget at a lower one.

    Args:
        budget_per_s: rows a second to keep now; asked once a transaction.
    """

    def __init__(self, budget_per_s: Callable[[], float]) -> None:
        self._budget_per_s = budget_per_s
        self._recent: deque[tuple[float, int]] = deque()
        self._rows = 0
        self._since_s = -1e9
        self._level = 0
        self._moved_s = -1e9

    def next(self, rows: int, now_s: float) -> int:
        """See `Levels`."""
        ratio = self._rate(rows, now_s) / self._budget_per_s()
        wanted = _level_within(ratio)
        rises = ratio > SLACK * (1 << self._level)
        falls = wanted < self._level and now_s - self._moved_s >= REST_S
        if rises or falls:
            self._level, self._moved_s = wanted, now_s
        return self._level

    def _rate(self, rows: int, now_s: float) -> float:
        """Rows a second since the transaction before the window's first, which is when that one began to gather."""
        recent = self._recent
        recent.append((now_s, rows))
        self._rows += rows
        while recent[0][0] <= now_s - WINDOW_S:
            self._since_s, gone = recent.popleft()
            self._rows -= gone
        return self._rows / min(max(now_s - self._since_s, WINDOW_S), 2 * WINDOW_S)


def _level_within(ratio: float) -> int:
    """The lowest level at which `ratio` times the budget is within it."""
    return min(MAX_LEVEL, ceil(log2(ratio))) if ratio > 1 else 0
