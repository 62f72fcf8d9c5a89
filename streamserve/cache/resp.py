"""RESP2 and RESP3, as far as a small server needs them: commands in, replies out.

Owns the wire format only (https://redis.io/docs/latest/develop/reference/protocol-spec/). Sizes are bounded,
so that a stray client cannot fill the memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO, TypeAlias

MAX_ARGUMENTS = 1 << 20
MAX_ARGUMENT_BYTES = 64 << 20
MAX_LINE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Simple:
    """A status such as OK."""

    text: str


@dataclass(frozen=True, slots=True)
class Failure:
    """An error; its first word is its code."""

    text: str


Reply: TypeAlias = "Simple | Failure | int | bytes | Sequence[Reply] | Mapping[bytes, Reply] | None"


def read_command(stream: BinaryIO) -> list[bytes]:
    """The next command, an array of bulk strings or an inline line; empty at the end of the stream.

    Raises: ValueError for what is no command.
    """
    line = stream.readline(MAX_LINE_BYTES)
    if not line:
        return []
    if not line.startswith(b"*"):
        return line.split() or [b""]
    count = int(line[1:])
    if not 1 <= count <= MAX_ARGUMENTS:
        raise ValueError("a command has between 1 and 2^20 arguments")
    return [_bulk(stream) for _ in range(count)]


def _bulk(stream: BinaryIO) -> bytes:
    line = stream.readline(MAX_LINE_BYTES)
    size = int(line[1:]) if line.startswith(b"$") else -1
    if not 0 <= size <= MAX_ARGUMENT_BYTES:
        raise ValueError("an argument is a bulk string of at most 64 MiB")
    body = stream.read(size + 2)
    if len(body) != size + 2:
        raise ValueError("the stream ended within an argument")
    return body[:size]


def encode(reply: Reply, protocol: int) -> bytes:
    """The reply on the wire.

    Args:
        reply: what to say.
        protocol: 2 or 3; a map is an array in 2, and the null has another form.
    """
    match reply:
        case Simple(text):
            return b"+%s\r\n" % text.encode()
        case Failure(text):
            return b"-%s\r\n" % text.encode().replace(b"\r", b" ").replace(b"\n", b" ")
        case None:
            return b"_\r\n" if protocol == 3 else b"$-1\r\n"
        case int():
            return b":%d\r\n" % reply
        case bytes():
            return b"$%d\r\n%s\r\n" % (len(reply), reply)
        case Mapping():
            head = b"%%%d\r\n" % len(reply) if protocol == 3 else b"*%d\r\n" % (2 * len(reply))
            return head + b"".join(encode(k, protocol) + encode(v, protocol) for k, v in reply.items())
        case _:
            return b"*%d\r\n" % len(reply) + b"".join(encode(item, protocol) for item in reply)
