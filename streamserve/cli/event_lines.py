"""JSON Lines to events: what `produce` reads.

A line is checked as strictly as it must be to become a useful event: a JSON object, with the key field if
there is one. Whether it has the right features is the pipeline's to say. Without the check every line is
taken as it is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec
import orjson

from streamserve.errors import StreamServeError

Line = tuple[int, bytes]
"""Line number, from 1, and what it holds."""


class LineError(StreamServeError):
    """A line of the input cannot be an event."""


class Event(NamedTuple):
    """What is sent."""

    key: bytes | None
    value: bytes


class EventReader:
    """Turns lines into events.

    Args:
        source: name of the input, for messages.
        key_field: field whose value becomes the record's key.
        check: refuse what is no JSON object.
        msgpack: encode events as MessagePack, as the input topic wants them.
    """

    def __init__(self, source: str, *, key_field: str | None, check: bool, msgpack: bool) -> None:
        self._source = source
        self._key_field = key_field
        self._check = check
        self._msgpack = msgpack

    def event(self, line: Line) -> Event | None:
        """The event of a line, or None for a blank one. Raises: LineError."""
        number, text = line
        text = text.removesuffix(b"\n").removesuffix(b"\r")
        if not self._check:
            return Event(self._lenient_key(text), text)
        if not text or text.isspace():
            return None
        try:
            document = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise LineError(
                f"{self._source}:{number}: not JSON: {error.msg}, column {error.colno} (--no-check sends it as it is)"
            ) from error
        if not isinstance(document, dict):
            raise LineError(f"{self._source}:{number}: not a JSON object (--no-check sends it as it is)")
        key = self._key(document, number)
        return Event(key, msgspec.msgpack.encode(document) if self._msgpack else text)

    def _key(self, document: dict[str, object], number: int) -> bytes | None:
        if self._key_field is None:
            return None
        where = f"{self._source}:{number}: the key field {self._key_field!r}"
        if self._key_field not in document:
            raise LineError(f"{where} is missing; --key takes another one, --key '' none")
        value = document[self._key_field]
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise LineError(f"{where} must be text or a number to be a key")
        return str(value).encode()

    def _lenient_key(self, text: bytes) -> bytes | None:
        if self._key_field is None:
            return None
        try:
            document = orjson.loads(text)
        except orjson.JSONDecodeError:
            return None
        value = document.get(self._key_field) if isinstance(document, dict) else None
        return str(value).encode() if isinstance(value, str | int | float) else None


@contextmanager
def open_input(file: str) -> Iterator[BinaryIO]:
    """A file, or standard input for `-`. Raises: LineError."""
    if file == "-":
        yield sys.stdin.buffer
        return
    try:
        stream = Path(file).open("rb")  # noqa: SIM115 - closed below; an error here is not the caller's
    except OSError as error:
        raise LineError(f"cannot read {file}: {error.strerror}") from error
    with stream:
        yield stream


def numbered_lines(stream: BinaryIO, *, repeat: bool, on_read: Callable[[int], None]) -> Iterator[Line]:
    """The lines of `stream` with their numbers; with `repeat` again and again, unless there are none.

    Args:
        stream: where they come from; with `repeat` it can be rewound.
        repeat: start over at the end.
        on_read: told the bytes of each line.
    """
    while True:
        number = 0
        for number, text in enumerate(stream, start=1):
            on_read(len(text))
            yield number, text
        if not repeat or number == 0:
            return
        stream.seek(0)
