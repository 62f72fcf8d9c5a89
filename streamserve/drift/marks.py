"""How far each source partition was merged: what makes merging a chunk twice the same as merging it once.

Chunks of a source partition come in the order of its offsets, whoever wrote them: a worker that takes a partition over
starts at the committed position, and its chunks stand behind the earlier owner's. So one number a partition says what
was seen.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from streamserve.batch import Bools
from streamserve.drift.chunk import SampleChunk


class Marks:
    """The position after the last offset merged, per source topic and partition."""

    def __init__(self, positions: Mapping[str, Mapping[str, int]] | None = None) -> None:
        self._next: dict[tuple[str, int], int] = {
            (topic, int(partition)): position
            for topic, partitions in (positions or {}).items()
            for partition, position in partitions.items()
        }

    def take(self, chunk: SampleChunk) -> tuple[Bools, list[bool]]:
        """Which rows, and the rejects and volume of which spans, are new; they count as merged from now on.

        Returns:
            bool[n] over the rows, and one bool per span.
        """
        marks = [self._next.get((span.topic, span.partition), -1) for span in chunk.spans]
        fresh = [span.first >= mark for span, mark in zip(chunk.spans, marks, strict=True)]
        rows = chunk.offset >= np.array(marks, dtype=np.int64)[chunk.span] if len(chunk) else np.zeros(0, np.bool_)
        for span, mark in zip(chunk.spans, marks, strict=True):
            self._next[span.topic, span.partition] = max(mark, span.end)
        return rows, fresh

    def to_document(self) -> dict[str, dict[str, int]]:
        """JSON: topic -> partition -> position."""
        document: dict[str, dict[str, int]] = {}
        for (topic, partition), position in sorted(self._next.items()):
            document.setdefault(topic, {})[str(partition)] = position
        return document
