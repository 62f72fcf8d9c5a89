"""Rejects to dead letters: the original record, unchanged, and headers that say what was wrong with it.

The `__connect.errors.*` headers are those of Kafka Connect, which existing tools show. Headers of the names
we add are stripped from the original, so nobody can forge them; only `streamserve.attempt` is read, to count
how often a record has come here. Nothing here fails: a value or key that is too large is left out and
described by its digest and size, and of more headers than a record can sensibly have the first ones are kept,
and the number left out is told.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

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
EXCEPTION_CLASS = b"streamserve.batch.Reject"

_UNSAFE = [*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
_ESCAPES = {code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in _UNSAFE}
"""Control characters, line separators and marks that reorder text on a terminal."""


class DeadLetterEncoder:
    """A `RejectEncoder`.

    Args:
        topic: the dead-letter topic.
        group: consumer group of the pipeline.
        max_value_bytes: largest record the topic takes; key, headers and value together stay below it.
        identity: the model in use now, or None before there is one.
    """

    def __init__(
        self, topic: str, group: str, max_value_bytes: int, identity: Callable[[], ModelIdentity | None]
    ) -> None:
        self._topic = topic
        self._group = group.encode()
        self._max_value_bytes = max_value_bytes
        self._identity = identity

    def encode(self, records: RecordBatch, rejects: Sequence[Reject]) -> OutboundBatch:
        model = self._identity()
        original = (records.headers() or None) if rejects else None
        keys: list[bytes | None] = []
        values: list[bytes | None] = []
        headers: list[Headers | None] = []
        for reject in rejects:
            incoming = (original[reject.row] if original is not None else None) or []
            carried, used_bytes = _carried(incoming)
            carried += self._added(records, reject, incoming, model)
            room = self._max_value_bytes - used_bytes
            key, told = _fitting("key", records.key[reject.row], room)
            carried += told
            value, told = _fitting("value", records.value[reject.row], room - len(key or b""))
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


def _carried(incoming: Headers) -> tuple[Headers, int]:
    """The original's headers but for the reserved names, bounded in number and bytes, and how many bytes."""
    kept: Headers = []
    used_bytes = dropped = 0
    for name, value in incoming:
        if name in RESERVED:
            continue
        size = len(name) + len(value or b"")
        if dropped or len(kept) == MAX_HEADERS or used_bytes + size > MAX_HEADER_BYTES:
            dropped += 1
            continue
        kept.append((name, value))
        used_bytes += size
    if dropped:
        kept.append((OWN + "headers.dropped", b"%d" % dropped))
    return kept, used_bytes


def _attempts(incoming: Headers) -> int:
    """How often the record was dead-lettered before, by its last header; anything but a small number is 0."""
    text = next((value for name, value in reversed(incoming) if name == ATTEMPT), None) or b""
    if not text.isdigit() or len(text) > len(str(MAX_ATTEMPT)):
        return 0
    return min(int(text), MAX_ATTEMPT - 1)


def _fitting(part: str, content: bytes | None, room: int) -> tuple[bytes | None, Headers]:
    """The content, if there is room for it, else nothing and its description."""
    if content is None or len(content) <= room:
        return content, []
    digest = hashlib.sha256(content).hexdigest().encode()
    return None, [(f"{OWN}{part}.sha256", digest), (f"{OWN}{part}.size", b"%d" % len(content))]


def _message(text: str) -> bytes:
    """A text for people in UTF-8: at most 1 KiB, no control characters, whatever it was made of."""
    safe = text[:MESSAGE_BYTES].translate(_ESCAPES).encode("utf-8", "backslashreplace")
    return safe[:MESSAGE_BYTES].decode("utf-8", "ignore").encode()
