"""What is wrong with which event of a batch: the first feature at fault wins, in any order."""

from __future__ import annotations

from collections.abc import Sequence

from streamserve.batch import Reason, Reject

_TEXT_CHARACTERS = 100


class Findings:
    """Problems per position in an `EventBatch`."""

    def __init__(self) -> None:
        self._first: dict[int, tuple[int, Reason, str, str]] = {}

    def __len__(self) -> int:
        return len(self._first)

    def __contains__(self, position: int) -> bool:
        return position in self._first

    def add(self, position: int, index: int, reason: Reason, detail: str, feature: str) -> None:
        """Note a problem of the event at `position` with the feature at `index` of the spec."""
        known = self._first.get(position)
        if known is None or index < known[0]:
            self._first[position] = (index, reason, detail, feature)

    def rejects(self, rows: Sequence[int]) -> list[Reject]:
        """One reject an event at fault, in order; `rows` maps positions to rows of the origin."""
        return [
            Reject(row=rows[position], stage="enrich", reason=reason, detail=detail, feature=feature)
            for position, (_, reason, detail, feature) in sorted(self._first.items())
        ]


def number_text(value: float) -> str:
    """A number as people write it: 9000, not 9000.0."""
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(value)


def text_text(value: str) -> str:
    """A text in quotes, escaped, not too long."""
    return repr(value if len(value) <= _TEXT_CHARACTERS else value[:_TEXT_CHARACTERS] + "...")
