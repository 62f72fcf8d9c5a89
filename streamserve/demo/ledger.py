"""What was sent against what came back: the bookkeeping behind "lost 0, duplicated 0".

`Sent` holds the identity of every event that the replay handed to Kafka; `Count` what a reader of the
predictions and the dead letters found. Both are plain values in memory and know no client, so the figures of
the demo can be checked without one. A prediction is told by the event's id; a dead letter by the id in its
value, or, for events that are bad on purpose, by the header `IDENTITY` that the replay gave them.
"""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

IDENTITY: Final = "demo.identity"
"""Header of an event whose value does not tell who it is."""


class Sending(NamedTuple):
    """One event that was sent."""

    due_s: float
    """When it was due by the schedule, monotonic: waiting for a slow sender counts as latency."""
    row: int
    """Its row among the flights; -1 for one that is bad on purpose."""


class Sent:
    """The events that were sent; the replay adds, readers look up. Safe between two threads."""

    def __init__(self) -> None:
        self._sendings: dict[str, Sending] = {}

    def __len__(self) -> int:
        return len(self._sendings)

    def add(self, identity: str, sending: Sending) -> None:
        """Note an event before it is handed to the client."""
        self._sendings[identity] = sending

    def get(self, identity: str) -> Sending | None:
        """What is known of this event; None for one that was never sent."""
        return self._sendings.get(identity)

    def identities(self) -> set[str]:
        """All of them."""
        return set(self._sendings)


@dataclass(slots=True)
class Count:
    """What a reader found. One reader writes; its numbers may be read at any time.

    Attributes:
        predictions, dead_letters: records, repeated ones included.
        duplicated: records beyond the first of each event.
        inversions: first predictions that came after one of a later event of their partition.
        reasons: dead letters by reason.
    """

    predictions: int = 0
    dead_letters: int = 0
    duplicated: int = 0
    inversions: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    _seen: set[str] = field(default_factory=set)
    _newest: dict[int, int] = field(default_factory=dict)

    @property
    def accounted(self) -> int:
        """How many different events came back."""
        return len(self._seen)

    def prediction(self, identity: str, partition: int, offset: int) -> bool:
        """Count a prediction and the source position that it names; tells whether it is the first of its event."""
        self.predictions += 1
        first = self._first(identity)
        if first and offset < self._newest.get(partition, -1):
            self.inversions += 1
        self._newest[partition] = max(offset, self._newest.get(partition, -1))
        return first

    def dead_letter(self, identity: str, reason: str) -> bool:
        """Count a dead letter; tells whether it is the first record of its event."""
        self.dead_letters += 1
        self.reasons[reason] += 1
        return self._first(identity)

    def lost(self, sent: Sent) -> int:
        """Events that were sent and are in neither topic."""
        return len(sent.identities() - self._seen)

    def _first(self, identity: str) -> bool:
        if identity in self._seen:
            self.duplicated += 1
            return False
        self._seen.add(identity)
        return True


class Percentiles(NamedTuple):
    """Latencies in milliseconds."""

    p50: float
    p95: float
    p99: float


class Latencies:
    """Every latency of a run, in the order it was measured. One thread adds, another may ask."""

    def __init__(self) -> None:
        self._values_s = array("d")

    def __len__(self) -> int:
        return len(self._values_s)

    def add(self, latency_s: float) -> None:
        """Note one."""
        self._values_s.append(latency_s)

    def percentiles(self, newest: int | None = None) -> Percentiles | None:
        """Of all, or of the newest so many; None when there are none."""
        values_s = self._values_s[-newest:] if newest else self._values_s[:]
        if not values_s:
            return None
        return Percentiles(*(np.percentile(np.frombuffer(values_s), (50, 95, 99)) * 1000).tolist())
