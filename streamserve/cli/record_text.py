"""Records as text: what `tail` and `dlq` print.

Keys, values and headers come from anywhere, so control characters never reach the terminal as they are.
JSON output loses nothing: bytes that are no text come as base64 under a name of their own.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

import orjson

from streamserve.kafka.reading import StoredRecord

HEXDUMP_BYTES = 512
TEXT_CHARS = 4000


def stamp(timestamp_ms: int) -> str:
    """A time in UTC with milliseconds, or `-` where there is none."""
    if timestamp_ms < 0:
        return "-"
    try:
        moment = datetime.fromtimestamp(timestamp_ms / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return str(timestamp_ms)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def printable(text: str) -> str:
    """Text without anything that moves a cursor: control characters are escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def one_line(data: bytes | None, limit: int = 200) -> str:
    """Bytes as one line of text, cut at `limit` characters; `-` where there are none."""
    if data is None:
        return "-"
    text = printable(data.decode("utf-8", "backslashreplace"))
    return text if len(text) <= limit else f"{text[:limit]}… ({len(data)} bytes)"


def prediction_line(record: StoredRecord) -> str:
    """One record of a prediction topic: time, key, model@version, outputs, partition:offset.

    What is no prediction is shown as it is.
    """
    document = _mapping(record.value)
    outputs = document.get("outputs") if document else None
    if document is None or not isinstance(outputs, Mapping):
        return record_line(record)
    name = one_line(record.key) if record.key is not None else printable(str(document.get("id", "-")))
    model = printable(f"{document.get('model', '?')}@{document.get('version', '?')}")
    role = document.get("role")
    shown = " ".join(f"{printable(str(key))}={_number(value)}" for key, value in outputs.items())
    parts = [stamp(record.timestamp_ms), name, model, shown, record.position]
    if role not in {None, "stable"}:
        parts.insert(3, f"({printable(str(role))})")
    if document.get("fallback") is True:
        parts.insert(3, "(fallback)")
    return "  ".join(parts)


def record_line(record: StoredRecord) -> str:
    """One record of any topic: time, key, value, partition:offset."""
    return "  ".join([stamp(record.timestamp_ms), one_line(record.key), one_line(record.value), record.position])


def record_document(record: StoredRecord) -> dict[str, object]:
    """A record with everything about it, ready for JSON.

    `key` and header values are text, or `{"base64": …}` for other bytes; `value` is the JSON it holds, else `value` is
    null and `value_text` or `value_base64` has the bytes.
    """
    document: dict[str, object] = {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp_ms": record.timestamp_ms,
        "key": _text_or_base64(record.key),
        "value": None,
    }
    if record.value is not None:
        try:
            document["value"] = orjson.loads(record.value)
        except orjson.JSONDecodeError:
            try:
                document["value_text"] = record.value.decode()
            except UnicodeDecodeError:
                document["value_base64"] = base64.b64encode(record.value).decode()
    document["headers"] = [[name, _text_or_base64(value)] for name, value in record.headers]
    return document


def json_line(document: object) -> str:
    """One line of JSON."""
    return orjson.dumps(document).decode()


def payload(value: bytes | None) -> Iterator[str]:
    """A value in full, as far as that is bearable: JSON and text as text, anything else as a hexdump."""
    if value is None:
        yield "(null)"
        return
    if not value:
        yield "(empty)"
        return
    try:
        text = value.decode()
    except UnicodeDecodeError:
        yield from hexdump(value)
        return
    lines = [printable(line) for line in text[:TEXT_CHARS].splitlines()]
    yield from lines or ["(blank)"]
    if len(text) > TEXT_CHARS:
        yield f"… {len(text) - TEXT_CHARS:,} more characters"


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows of cells as lines with straight columns; nothing is cut, whatever the terminal's width."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def hexdump(data: bytes, limit: int = HEXDUMP_BYTES) -> Iterator[str]:
    """Sixteen bytes a line: offset, hexadecimal, ASCII; at most `limit` bytes."""
    for start in range(0, min(len(data), limit), 16):
        row = data[start : min(start + 16, limit)]
        ascii_text = "".join(chr(b) if 32 <= b < 127 else "." for b in row)
        yield f"{start:08x}  {row[:8].hex(' '):23}  {row[8:].hex(' '):23}  |{ascii_text}|"
    if len(data) > limit:
        yield f"… {len(data) - limit:,} more bytes"


def _mapping(value: bytes | None) -> Mapping[str, object] | None:
    try:
        document = orjson.loads(value or b"")
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) else None


def _number(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, str):
        return printable(value)
    return one_line(orjson.dumps(value), 120)


def _text_or_base64(data: bytes | None) -> object:
    if data is None:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}
