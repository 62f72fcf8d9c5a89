"""Rejects to dead letters: the original record, unchanged, and headers that say what was wrong with it.

The `__connect.errors.*` headers are those of Kafka Connect, which existing tools show. Headers of the names
we add are stripped from the original, so nobody can forge them; only `streamserve.attempt` is read, to count
how often a record has come here. Nothing here fails, and no dead letter is larger than its topic takes, for the
worker could never commit past one: a value or key that is too large is left out and described by its digest and
size, and of more headers than there is room for the first ones are kept, and the number left out is told.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from streamserve.batch import Headers, ModelIdentity, OutboundBatch, RecordBatch, Reject

CONNECT = "__connect.errors."
OWN = "streamserve."
RESERVED = frozenset(
    [
        *(CONNECT + name for name in ("topic", "partition", "offset", "stage")),
        *(CONNECT + "exception." + name for name in ("class.name", "message")),
        *(OWN + name for name in ("reason", "feature", "attempt", "model", "version", "group")),
        *(OWN + name for name in ("value.sha256", "value.size", "key.sha256", "key.size", "headers.dropped")),
    ]
)
"""Names that only a dead letter's writer sets."""
ATTEMPT = OWN + "attempt"
MESSAGE_BYTES = 1024
MAX_HEADERS = 1000
MAX_HEADER_BYTES = 65_536
MAX_ATTEMPT = 999_999
HEADER_FRAMING_BYTES = 8
"""What a header adds to its name and value: two lengths as varints, 2 to 3 bytes together, and up to 8."""
DIGITS = 20
"""Of any 64-bit number."""
DROPPED_BYTES = len(OWN + "headers.dropped") + DIGITS + HEADER_FRAMING_BYTES
SHORTENED = (
    CONNECT + "exception.message",
    *(OWN + name for name in ("feature", "model", "version", "group")),
)
"""Whose values give way, in this order, where a topic takes less than our own headers need."""
EXCEPTION_CLASS = b"streamserve.batch.Reject"

_UNSAFE = [*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
_ESCAPES = {code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in _UNSAFE}
"""Control characters, line separators and marks that reorder text on a terminal."""


class DeadLetterEncoder:
    """A `RejectEncoder`.

    Args:
        topic: the dead-letter topic.
        group: consumer group of the pipeline.
        max_value_bytes: largest record the topic takes, at least 1.5 KiB; key, value and headers with their
            framing stay within it.
        model: who refused the records, or None before there is anybody.
    """

    def __init__(self, topic: str, group: str, max_value_bytes: int, model: ModelIdentity | None) -> None:
        self._topic = topic
        self._group = group.encode()
        self._max_value_bytes = max_value_bytes
        self._model = model

    def encode(self, records: RecordBatch, rejects: Sequence[Reject]) -> OutboundBatch:
        model = self._model
        original = (records.headers() or None) if rejects else None
        keys: list[bytes | None] = []
        values: list[bytes | None] = []
        headers: list[Headers | None] = []
        for reject in rejects:
            incoming = (original[reject.row] if original is not None else None) or []
            key, value = records.key[reject.row], records.value[reject.row]
            reserved_bytes = _least_bytes("key", key) + _least_bytes("value", value)
            room = self._max_value_bytes - reserved_bytes - DROPPED_BYTES
            own = _shortened(self._added(records, reject, incoming, model), room)
            carried = _carried(incoming, room - _header_bytes(own)) + own
            room = self._max_value_bytes - _header_bytes(carried) - reserved_bytes
            key, told, room = _fitting("key", key, room)
            carried += told
            value, told, _ = _fitting("value", value, room)
            carried += told
            keys.append(key)
            values.append(value)
            headers.append(carried)
        return OutboundBatch(
            topic=self._topic,
            row=[reject.row for reject in rejects],
            partition=[records.partition[reject.row] for reject in rejects],
            key=keys,
            value=values,
            headers=headers,
            timestamp_ms=[records.timestamp_ms[reject.row] for reject in rejects],
        )

    def _added(self, records: RecordBatch, reject: Reject, incoming: Headers, model: ModelIdentity | None) -> Headers:
        return [
            (CONNECT + "topic", _message(records.topic[reject.row])),
            (CONNECT + "partition", b"%d" % records.partition[reject.row]),
            (CONNECT + "offset", b"%d" % records.offset[reject.row]),
            (CONNECT + "stage", reject.stage.encode()),
            (CONNECT + "exception.class.name", EXCEPTION_CLASS),
            (CONNECT + "exception.message", _message(reject.detail)),
            (OWN + "reason", reject.reason.encode()),
            *([(OWN + "feature", _message(reject.feature))] if reject.feature else []),
            (ATTEMPT, b"%d" % (_attempts(incoming) + 1)),
            (OWN + "model", model.name.encode() if model else b""),
            (OWN + "version", model.version.encode() if model else b""),
            (OWN + "group", self._group),
        ]


def _header_bytes(headers: Headers) -> int:
    """What these headers take in a record, at most."""
    return sum(
        len(name.encode("utf-8", "surrogatepass")) + len(value or b"") + HEADER_FRAMING_BYTES for name, value in headers
    )


def _shortened(own: Headers, room: int) -> Headers:
    """Our own headers within `room` bytes, as far as texts can be cut for it."""
    excess = _header_bytes(own) - room
    for wanted in SHORTENED:
        if excess <= 0:
            break
        for i, (name, value) in enumerate(own):
            if name == wanted and value:
                cut = value[: max(0, len(value) - excess)].decode("utf-8", "ignore").encode()
                own[i] = (name, cut)
                excess -= len(value) - len(cut)
    return own


def _carried(incoming: Headers, room: int) -> Headers:
    """The original's headers but for the reserved names, bounded in number and bytes."""
    kept: Headers = []
    left = min(room, MAX_HEADER_BYTES)
    dropped = 0
    for header in incoming:
        if header[0] in RESERVED:
            continue
        size = _header_bytes([header])
        if dropped or len(kept) == MAX_HEADERS or size > left:
            dropped += 1
            continue
        kept.append(header)
        left -= size
    if dropped:
        kept.append((OWN + "headers.dropped", b"%d" % dropped))
    return kept


def _attempts(incoming: Headers) -> int:
    """How often the record was dead-lettered before, by its last header; anything but a small number is 0."""
    text = next((value for name, value in reversed(incoming) if name == ATTEMPT), None) or b""
    if not text.isdigit() or len(text) > len(str(MAX_ATTEMPT)):
        return 0
    return min(int(text), MAX_ATTEMPT - 1)


def _least_bytes(part: str, content: bytes | None) -> int:
    """What the part takes at least: itself, or its description where that is shorter."""
    described = 2 * len(OWN + part) + len(".sha256.size") + 64 + DIGITS + 2 * HEADER_FRAMING_BYTES
    return min(len(content or b""), described)


def _fitting(part: str, content: bytes | None, room: int) -> tuple[bytes | None, Headers, int]:
    """The content where it fits, else nothing and its description; and the room after it.

    `room` is on top of what `_least_bytes` has set aside.
    """
    more = len(content or b"") - _least_bytes(part, content)
    if more <= max(0, room):
        return content, [], room - more
    body = content or b""
    digest = hashlib.sha256(body).hexdigest().encode()
    return None, [(f"{OWN}{part}.sha256", digest), (f"{OWN}{part}.size", b"%d" % len(body))], room


def _message(text: str) -> bytes:
    """A text for people in UTF-8: at most 1 KiB, no control characters, whatever it was made of."""
    safe = text[:MESSAGE_BYTES].translate(_ESCAPES).encode("utf-8", "backslashreplace")
    return safe[:MESSAGE_BYTES].decode("utf-8", "ignore").encode()
