"""Where a partition without a committed offset starts: the value of `input.start`, read once, here."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

StartPosition = Literal["beginning", "end"] | int
"""An end of the partition, or the time in epoch milliseconds of its first record to read."""


def parse_start(text: str) -> StartPosition:
    """Read `beginning`, `end`, epoch milliseconds, or a time in ISO 8601 (UTC where it names no zone).

    Raises:
        ValueError: it is none of these.
    """
    if text == "beginning":
        return "beginning"
    if text == "end":
        return "end"
    if text.isascii() and text.isdigit():
        return int(text)
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1000)
