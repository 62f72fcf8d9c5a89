"""When a canary is rolled back by itself: a window of what each version made of its rows, and two rules over it.

The window is the last `window_s`, or longer where that has fewer than `min_rows` of a version: one worker of a large
fleet sees few rows of a small canary.

**Errors.** The share of rows that the model, its hooks or the encoder reject must not exceed the stable version's by
more than `error_rate`. It does when the lower end of the interval for the difference of the two shares lies above it
(Newcombe: Interval estimation for the difference between independent proportions. Statistics in Medicine 17, 1998,
method 10: square-and-add of Wilson's intervals). A canary at a tenth of the traffic has few rows, and the interval is
as wide as that makes it.

Rows are not independent: those of a key share its fate, and a key sticks to its version, so that one hot key which
every version rejects looks like a bad canary. The counts are therefore divided by the rejected rows of a key, on
average over the rejected rows (the variance of a compound Poisson sum), and fewer than `FEW_KEYS` keys say nothing,
unless half of all rows are rejected.

**Latency.** A call of the canary must not take more than `latency_ratio` times what the stable version takes for the
same rows. Seconds a row of their usual calls would not do: a canary's calls are smaller, so what a call costs whatever
its size is shared by fewer rows, and a canary that is as fast looks several times slower. So now and then the stable
version is timed on the canary's rows as well (`pipeline.stages`), and the geometric mean of the ratios of these pairs
is judged: its error is known from the pairs, and times have tails that no arithmetic mean survives.

Both rules ask for `Z` standard errors, which is what pays for looking again and again, a thirtieth of the window apart
and for as long as the canary runs. How often they are wrong is simulated in tests/unit/rollout/test_guard.py.

Pure: times are handed in. `worker.guard` feeds it and publishes the rollback.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import exp, log, sqrt
from typing import Final, Literal, NamedTuple
from zlib import crc32

from streamserve.config.rollout_settings import GuardSettings
from streamserve.rollout.records import NONE

Z: Final = 4.0
SLICES: Final = 30
REACH: Final = 120
"""Where a window has too few rows, it reaches back for them, but not beyond so many windows."""
MIN_PAIRS: Final = 30
"""Pairs of times in the window before they are judged."""
FEW_KEYS: Final = 5
"""So many keys must have rejected rows, weighed by how many, before a version is suspected and not its keys."""
PLACES: Final = 1024
"""Rejected rows are counted at so many places, by a hash of their key."""
LEAST_S: Final = 1e-7
"""No call takes less, whatever a clock says."""

Rule = Literal["errors", "latency", "drift"]


class Breach(NamedTuple):
    """Why a version has to go.

    Attributes:
        version: which.
        rule: what it broke.
        detail: a sentence with the figures.
    """

    version: str
    rule: Rule
    detail: str


@dataclass(slots=True)
class Tally:
    """What a version made of rows. Tallies add up.

    Attributes:
        rows: rows that came as far as its model.
        rejected: those of them that the model, its hooks or the encoder rejected.
        places: how many of those have a key with this hash; what is not counted here has no key.
        pairs: calls whose rows the stable version was timed on as well.
        seconds: sum of the version's own over the pairs.
        logs, logs_squared: sums over the pairs of the logarithm of the ratio of the times, and of its square.
    """

    rows: int = 0
    rejected: int = 0
    places: Counter[int] = field(default_factory=Counter)
    pairs: int = 0
    seconds: float = 0.0
    logs: float = 0.0
    logs_squared: float = 0.0

    def add(self, other: Tally) -> None:
        """Take in other rows."""
        self.rows += other.rows
        self.rejected += other.rejected
        self.places.update(other.places)
        self.pairs += other.pairs
        self.seconds += other.seconds
        self.logs += other.logs
        self.logs_squared += other.logs_squared

    def reject(self, keys: Iterable[bytes]) -> None:
        """Take in the keys of rejected rows, which are counted already."""
        self.places.update(crc32(key) % PLACES for key in keys)

    @property
    def squares(self) -> float:
        """Sum of the squares of the rejected rows of each key, less what keys add that share a place by chance."""
        keyed = self.places.total()
        shared = sum(count * count for count in self.places.values())
        by_key = (shared - keyed * keyed / PLACES) / (1 - 1 / PLACES)
        return self.rejected - keyed + max(float(keyed), by_key)

    def timed(self, seconds: float, stable_s: float) -> None:
        """Take in a pair of times for the same rows."""
        ratio = log(max(seconds, LEAST_S) / max(stable_s, LEAST_S))
        self.pairs += 1
        self.seconds += seconds
        self.logs += ratio
        self.logs_squared += ratio * ratio


class Guard:
    """The window over the versions of one worker, and the verdict over it. For one thread at a time.

    Args:
        settings: what is allowed.
    """

    def __init__(self, settings: GuardSettings) -> None:
        self._settings = settings
        self._slice_s = settings.window_s / SLICES
        self._slices: dict[str, deque[tuple[int, Tally]]] = {}
        self._revision = NONE
        self._stable = ""
        self._candidates: tuple[str, ...] = ()
        self._usual: Tally | None = None

    @property
    def revision(self) -> int:
        """Of the rollout that is judged."""
        return self._revision

    @property
    def candidates(self) -> tuple[str, ...]:
        """The versions that are judged."""
        return self._candidates

    def follow(self, revision: int, stable: str, candidates: Sequence[str]) -> None:
        """Judge these versions from now on, from nothing; what is known of the stable one stays."""
        same = stable == self._stable
        self._slices = {stable: self._slices[stable]} if same and stable in self._slices else {}
        self._usual = self._usual if same else None
        self._revision, self._stable, self._candidates = revision, stable, tuple(candidates)

    def add(
        self,
        now_s: float,
        revision: int,
        version: str,
        *,
        rows: int,
        rejected: int,
        keys: Sequence[bytes] = (),
        seconds: float = 0.0,
        stable_s: float | None = None,
    ) -> None:
        """Take in what a version made of a batch.

        Args:
            now_s: monotonic.
            revision: that scored the batch; what another one than the present scored says nothing.
            version: which.
            rows: that came as far as its model.
            rejected: those of them that model, hooks or encoder rejected.
            keys: of the rejected rows that have one.
            seconds: of its call.
            stable_s: of the stable version's call for the same rows, if it was timed.
        """
        if revision != self._revision or not (version == self._stable or version in self._candidates):
            return
        number = int(now_s / self._slice_s)
        slices = self._slices.setdefault(version, deque())
        if not slices or slices[-1][0] != number:
            slices.append((number, Tally()))
        tally = slices[-1][1]
        tally.rows += rows
        tally.rejected += rejected
        tally.reject(keys)
        if stable_s is not None:
            tally.timed(seconds, stable_s)

    def verdict(self, now_s: float) -> Breach | None:
        """The first candidate that breaks a rule; None while nothing is known against any."""
        newest = int(now_s / self._slice_s)
        stable = self._window(self._stable, newest)
        if stable.rows >= self._settings.min_rows:
            self._usual = stable
        for version in self._candidates:
            window = self._window(version, newest)
            if window.rows >= self._settings.min_rows:
                breach = judge(self._settings, version, window, self._usual)
                if breach is not None:
                    return breach
        return None

    def _window(self, version: str, newest: int) -> Tally:
        """What a version made of the rows of the last `window_s`, or of as many of the newest as a judgement needs."""
        window, used = Tally(), 0
        slices = self._slices.get(version, deque())
        for number, tally in reversed(slices):
            least = SLICES if window.rows >= self._settings.min_rows else REACH * SLICES
            if number <= newest - least:
                break
            window.add(tally)
            used += 1
        while len(slices) > used:  # nor will they be needed later
            slices.popleft()
        return window


def judge(settings: GuardSettings, version: str, candidate: Tally, stable: Tally | None) -> Breach | None:
    """Hold a candidate's window against the stable version's.

    Args:
        settings: what is allowed.
        version: the candidate.
        candidate: its window.
        stable: the stable version's, the last one with rows enough; without one errors are not judged, for input that
            is bad is no fault of a version.
    """
    errors, ratio = settings.error_rate, settings.latency_ratio
    if stable is not None and errors is not None and excess_errors(candidate, stable) > errors:
        return Breach(
            version,
            "errors",
            f"version {version} rejects {candidate.rejected / candidate.rows:.2%} of its rows ({candidate.rejected} of"
            f" {candidate.rows}), the stable version {stable.rejected / stable.rows:.2%} ({stable.rejected} of"
            f" {stable.rows}); {errors:.2%} more are allowed",
        )
    if ratio is not None and candidate.pairs >= MIN_PAIRS and least_ratio(candidate) > ratio:
        return Breach(
            version,
            "latency",
            f"version {version} takes {exp(candidate.logs / candidate.pairs):.2f} times as long as the stable version"
            f" for the same rows ({candidate.seconds / candidate.pairs * 1000:.3g} ms a call, {candidate.pairs} calls"
            f" compared); {ratio:g} times is allowed",
        )
    return None


def least_ratio(candidate: Tally) -> float:
    """Lower end of the interval for the geometric mean of how many times as long it takes."""
    n = candidate.pairs
    mean = candidate.logs / n
    variance = max(0.0, candidate.logs_squared - n * mean * mean) / (n - 1)
    return exp(mean - Z * sqrt(variance / n))


def excess_errors(candidate: Tally, stable: Tally) -> float:
    """Lower end of the interval for how much the candidate's share of rejected rows exceeds the stable one's.

    Nothing exceeds, -1, while what is rejected may as well be the fault of a few keys.
    """
    if few_keys(candidate):
        return -1.0
    p, low, _ = share_rejected(candidate)
    q, _, high = share_rejected(stable)
    return p - q - sqrt((p - low) ** 2 + (high - q) ** 2)


def few_keys(candidate: Tally) -> bool:
    """Whether what is rejected may as well be the fault of a few keys."""
    return candidate.rejected**2 < FEW_KEYS * candidate.squares and 2 * candidate.rejected < candidate.rows


def share_rejected(tally: Tally) -> tuple[float, float, float]:
    """The share of rejected rows with its interval, for as many rows as are worth an independent one."""
    a_key = tally.squares / tally.rejected if tally.rejected else 1.0
    return wilson(tally.rejected / a_key, tally.rows / a_key)


def wilson(count: float, rows: float) -> tuple[float, float, float]:
    """A share with Wilson's interval of `Z` standard errors: share, lower end, upper end."""
    share, square = count / rows, Z * Z
    middle = share + square / (2 * rows)
    half = Z * sqrt(share * (1 - share) / rows + square / (4 * rows * rows))
    below, above = (middle - half) / (1 + square / rows), (middle + half) / (1 + square / rows)
    return share, min(max(below, 0.0), share), max(min(above, 1.0), share)
