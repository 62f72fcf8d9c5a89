"""How many partitions the input topics have, asked again while a slot runs.

Versions by offset begin with the count (`keys`), so predictions made after a topic grew must carry the new one. Two
threads share the counts: the cache thread looks (`refresh`), whoever scores makes documents and versions of
them. What was found is an immutable mapping that is taken up between two batches (`take_up`), so
that a record's document and its version always tell the same number. Counts only grow: a broker that lags behind
may still tell the old one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from streamserve.clock import Clock
from streamserve.errors import BrokerUnavailable, SourceError

EVERY_S = 30.0
"""Between two looks. Producers with the default `topic.metadata.refresh.interval.ms` use new partitions after minutes;
a rebalance, by which consumers find out, is followed by a look at once."""


class PartitionCounts:
    """Partition counts per input topic.

    Args:
        first: the counts at the start of the slot.
        look: asks brokers for the counts of today; raises SourceError or BrokerUnavailable.
        clock: for waits.
    """

    def __init__(self, first: Mapping[str, int], look: Callable[[], Mapping[str, int]], clock: Clock) -> None:
        self._known: Mapping[str, int] = MappingProxyType(dict(first))
        self._in_use: Mapping[str, int] = self._known
        self._look = look
        self._clock = clock
        self._again_at_s = clock.monotonic_s() + EVERY_S

    def of(self, topic: str) -> int:
        """The count that this batch's predictions carry. Whoever scores."""
        return self._in_use[topic]

    def take_up(self) -> None:
        """Use what was found, from the next batch on. Whoever scores."""
        self._in_use = self._known

    def request(self) -> None:
        """Look soon. Any thread."""
        self._again_at_s = self._clock.monotonic_s()

    def refresh(self) -> None:
        """Look, when it is time. Cache thread; waits for brokers."""
        now_s = self._clock.monotonic_s()
        if now_s < self._again_at_s:
            return
        self._again_at_s = now_s + EVERY_S
        try:
            found = self._look()
        except (SourceError, BrokerUnavailable):
            return  # the counts of before stand; the repair tells of brokers that are away
        grown = {topic: count for topic, count in found.items() if count > self._known.get(topic, 0)}
        if grown:
            self._known = MappingProxyType({**self._known, **grown})
