"""How far each source partition was merged: what makes merging a chunk twice the same as merging it once.

Chunks of a source partition come in the order of its offsets, whoever wrote them: a worker that takes a partition over
starts at the committed position, and its chunks stand behind the earlier owner's. So one number a partition says what
was seen.
"""

from __future__ import annotations

import numpy as np

from streamserve.batch import Bools
from streamserve.drift.chunk import SampleChunk

MarksDocument = dict[str, dict[str, dict[str, int]]]


class Marks:
    """The position after the last offset merged, per model version, source topic and partition.

    Per version, because a shadow scores the very offsets that the stable version scores.
    """

    def __init__(self, positions: MarksDocument | None = None) -> None:
        self._next: dict[tuple[str, str, int], int] = {
            (version, topic, int(partition)): position
            for version, topics in (positions or {}).items()
            for topic, partitions in topics.items()
            for partition, position in partitions.items()
        }

    def take(self, chunk: SampleChunk) -> tuple[Bools, list[bool]]:
        """Which rows, and the rejects and volume of which spans, are new; they count as merged from now on.

        Returns:
            bool[n] over the rows, and one bool per span.
        """
        keys = [(chunk.version, span.topic, span.partition) for span in chunk.spans]
        marks = [self._next.get(key, -1) for key in keys]
        fresh = [span.first >= mark for span, mark in zip(chunk.spans, marks, strict=True)]
        rows = chunk.offset >= np.array(marks, dtype=np.int64)[chunk.span] if len(chunk) else np.zeros(0, np.bool_)
        for key, span, mark in zip(keys, chunk.spans, marks, strict=True):
            self._next[key] = max(mark, span.end)
        return rows, fresh

    def forget(self, version: str) -> None:
        """A version is not watched any more."""
        self._next = {key: position for key, position in self._next.items() if key[0] != version}

    def to_document(self) -> MarksDocument:
        """JSON: version -> topic -> partition -> position."""
        document: MarksDocument = {}
        for (version, topic, partition), position in sorted(self._next.items()):
            document.setdefault(version, {}).setdefault(topic, {})[str(partition)] = position
        return document
