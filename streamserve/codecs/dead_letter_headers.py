"""Dead letters read back: what the headers say, and the headers that the original had.

The writing side is `dead_letter`; here nothing is trusted to be there, because a dead-letter topic can hold
records of other writers. Who has a dead letter with neither an origin nor a reason has no dead letter of
ours.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from streamserve.batch import Header, Headers
from streamserve.codecs.dead_letter import ATTEMPT, CONNECT, OWN, RESERVED


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterInfo:
    """What the headers of a dead letter say; empty, or -1, where they do not.

    Attributes:
        topic, partition, offset: where the original lies.
        stage, reason, message: what was wrong with it, and where it was found.
        attempt: how often the record has become a dead letter, this time included.
        model, version, group: who refused it.
        feature: the feature at fault, if one is.
        left_out: `key` or `value` where that was too large to be carried, with its size and digest.
    """

    topic: str = ""
    partition: int = -1
    offset: int = -1
    stage: str = ""
    reason: str = ""
    message: str = ""
    attempt: int = 0
    model: str = ""
    version: str = ""
    group: str = ""
    feature: str = ""
    left_out: str = ""

    @property
    def origin(self) -> str:
        """`topic partition:offset` of the original, or `?`."""
        return f"{self.topic} {self.partition}:{self.offset}" if self.topic else "?"


def read_dead_letter(headers: Iterable[Header]) -> DeadLetterInfo:
    """The headers of a dead letter, as they lie in the topic, read. Never raises."""
    text = {
        name: value.decode("utf-8", "backslashreplace")
        for name, value in headers
        if value is not None and name in RESERVED
    }
    return DeadLetterInfo(
        topic=text.get(f"{CONNECT}topic", ""),
        partition=_number(text.get(f"{CONNECT}partition"), -1),
        offset=_number(text.get(f"{CONNECT}offset"), -1),
        stage=text.get(f"{CONNECT}stage", ""),
        reason=text.get(f"{OWN}reason", ""),
        message=text.get(f"{CONNECT}exception.message", ""),
        attempt=_number(text.get(ATTEMPT), 0),
        model=text.get(f"{OWN}model", ""),
        version=text.get(f"{OWN}version", ""),
        group=text.get(f"{OWN}group", ""),
        feature=text.get(f"{OWN}feature", ""),
        left_out=_left_out(text),
    )


def original_headers(headers: Iterable[Header]) -> Headers:
    """The headers without those that a dead letter adds."""
    return [(name, value) for name, value in headers if name not in RESERVED]


def replay_headers(headers: Iterable[Header], attempt: int) -> Headers:
    """The original's headers, and the count that the next dead letter goes on from."""
    return [*original_headers(headers), (ATTEMPT, b"%d" % attempt)]


def _left_out(text: dict[str, str]) -> str:
    parts = [
        f"{part} of {text.get(f'{OWN}{part}.size', '?')} bytes, sha256 {text[f'{OWN}{part}.sha256']}"
        for part in ("key", "value")
        if f"{OWN}{part}.sha256" in text
    ]
    return "; ".join(parts)


def _number(text: str | None, default: int) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 20 else default
