"""Which offsets of a partition were replayed: a position, and the stretches beyond it.

A consumer group's position alone says "everything before me is done", which holds for a replay of
everything. A filtered replay takes records here and there; what it took is kept as stretches of offsets in
the metadata text that Kafka stores with a committed offset, so position and stretches change together, in
one transaction with the records sent. The text is bounded (4096 bytes, `offset.metadata.max.bytes`), which
is room for some 600 stretches a partition.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from streamserve.errors import SourceError

MAX_TEXT_BYTES = 4096
_VERSION = "1"


@dataclass(frozen=True, slots=True)
class ReplayMarks:
    """The replayed offsets of one partition.

    Attributes:
        position: all before it are replayed, or are no more.
        stretches: (start, stop) beyond it, ascending, apart from each other.
    """

    position: int
    stretches: tuple[tuple[int, int], ...] = ()

    def __contains__(self, offset: int) -> bool:
        return offset < self.position or any(start <= offset < stop for start, stop in self.stretches)

    def add(self, start: int, stop: int) -> ReplayMarks:
        """These marks and the offsets from `start` up to `stop`."""
        return _joined(self.position, [*self.stretches, (start, stop)])

    def since(self, low: int) -> ReplayMarks:
        """These marks without what lies before `low`, the first offset that there still is."""
        return _joined(max(self.position, low), self.stretches)

    def to_text(self) -> str:
        """The stretches, each as distance from the one before and length, hexadecimal."""
        parts = []
        at = self.position
        for start, stop in self.stretches:
            parts.append(f"{start - at:x}.{stop - start:x}")
            at = stop
        return f"{_VERSION};{','.join(parts)}" if parts else ""

    @classmethod
    def from_text(cls, position: int, text: str) -> ReplayMarks:
        """The marks stored at `position`. Raises: SourceError for a text that this version does not understand."""
        if not text:
            return cls(position)
        version, _, body = text.partition(";")
        stretches = []
        at = position
        try:
            if version != _VERSION:
                raise ValueError(version)
            for part in body.split(","):
                distance, length = (int(number, 16) for number in part.split("."))
                stretches.append((at + distance, at + distance + length))
                at += distance + length
        except ValueError as error:
            raise SourceError(
                f"the marks of earlier replays cannot be read ({text[:40]!r}); nothing is replayed, because it could be"
                " the second time"
            ) from error
        return _joined(position, stretches)


def _joined(position: int, stretches: Iterable[tuple[int, int]]) -> ReplayMarks:
    apart: list[tuple[int, int]] = []
    for start, stop in sorted(stretches):
        if start <= position:
            position = max(position, stop)
        elif apart and start <= apart[-1][1]:
            apart[-1] = (apart[-1][0], max(apart[-1][1], stop))
        else:
            apart.append((start, stop))
    return ReplayMarks(position, tuple(apart))
